"""Restore images; train and measure the networks that do it.

The models, metrics and losses are registered with BasicSR as soon as BasicSR is imported.
"""

import lazy_loader

from cir_host.basicsr_import import after_basicsr

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

for _package in ("metrics", "losses", "training"):
    after_basicsr(f"{__name__}.{_package}")
