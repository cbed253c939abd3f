"""Networks of ours for spandrel, so that programs that load by it know them too.

https://github.com/chaiNNer-org/spandrel. After :func:`install`, ``spandrel.ModelLoader`` takes the
checkpoints of networks that spandrel lacks. Those that it has stay its own: FBCNN, HAT, SAFMN_BCIE,
SwinIR, RRDBNet and SCUNet with heads of 32 channels.
"""

from typing import Any

from spandrel import (
    MAIN_REGISTRY,
    Architecture,
    ArchRegistry,
    ArchSupport,
    ImageModelDescriptor,
    ModelTiling,
)
from torch import nn

from cir_arch.basicsr_networks import facts_of
from cir_arch.recognition import NetworkOptions, recognise
from cir_arch.state_dict import State

LACKING = ("PromptCIR", "PromptIR", "UCIP", "CaVE", "UnifyFormer", "SCUNet")
"""Networks that spandrel has not, or not at the published size."""

_HEAD_DIM = 32
"""Channels of an attention head in spandrel's SCUNet."""


class CIRArchitecture(Architecture[nn.Module]):
    """A network of ours, under its name; SCUNet, whose name is taken, as ``SCUNet_cir``."""

    def __init__(self, network: str) -> None:
        self._network = network
        taken = network == "SCUNet"
        super().__init__(
            id=f"{network}_cir" if taken else network,
            name=network,
            detect=lambda state: self._options(state) is not None,
        )

    def load(self, state_dict: State) -> Any:
        """Build the network and load it."""
        options = self._options(state_dict)
        assert options is not None  # detected before
        network = options.build()
        facts = facts_of(network)
        assert facts is not None
        return ImageModelDescriptor(
            network,
            state_dict,
            architecture=self,
            purpose="Restoration" if facts.scale == 1 else "SR",
            tags=[],
            supports_half="fp16" in facts.precisions,
            supports_bfloat16="bf16" in facts.precisions,
            scale=facts.scale,
            input_channels=facts.in_channels,
            output_channels=facts.in_channels,
            # Ours pad by themselves, so there are no size requirements.
            tiling=ModelTiling.DISCOURAGED if facts.halo is None else ModelTiling.SUPPORTED,
        )

    def _options(self, state: State) -> NetworkOptions | None:
        found = recognise(state)
        if found is None or found.type != self._network:
            return None
        heads_as_spandrel_s = found.arguments.get("head_dim") == _HEAD_DIM
        return None if self._network == "SCUNet" and heads_as_spandrel_s else found


def install(registry: ArchRegistry = MAIN_REGISTRY) -> None:
    """Add the networks to a registry of spandrel, ahead of its own detectors.

    Spandrel would take CaVE for FBCNN and build the 96-channel SCUNet with other heads. Names that
    the registry holds already, from an earlier call or another package, stay as they are.
    """
    others = tuple(support.architecture.id for support in registry)
    registry.add(
        *(
            ArchSupport.from_architecture(CIRArchitecture(network), before=others)
            for network in LACKING
        ),
        ignore_duplicates=True,
    )
