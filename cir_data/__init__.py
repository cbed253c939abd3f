"""Images in files, codecs, and the data sets of compressed images for BasicSR.

The data sets are registered as soon as BasicSR is imported.
"""

import lazy_loader

from cir_host.basicsr_import import after_basicsr

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

after_basicsr("cir_data.datasets")
