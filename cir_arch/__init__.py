"""Networks for compressed-image restoration. Importing this registers them with BasicSR."""

import cir_host  # noqa: F401, I001 (makes BasicSR importable, so it comes first)

from cir_arch.facts import NetworkFacts
from cir_arch.identity_arch import Identity
from cir_arch.promptcir_arch import PromptCIR

__all__ = ["Identity", "NetworkFacts", "PromptCIR"]
