"""Our networks for spandrel (https://github.com/chaiNNer-org/spandrel) and programs that use it.

After :func:`install`, ``spandrel.ModelLoader`` loads the checkpoints of networks that spandrel
lacks. spandrel keeps loading those that it has: FBCNN, HAT, SAFMN_BCIE, SwinIR, RRDBNet, SCUNet
with heads of 32 channels, and Retinexformer for colour images.
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

from cir_arch.network import Entry, entries
from cir_arch.recognition import NetworkOptions, recognise
from cir_arch.running import facts_of
from cir_arch.state_dict import State


def offered() -> list[Entry]:
    """Return the networks that spandrel lacks, or has only for some arguments.

    spandrel gives pixels to all networks.
    """
    return [
        entry
        for entry in entries()
        if entry.restores and entry.in_spandrel is not True and entry.input_kind == "pixels"
    ]


class CIRArchitecture(Architecture[nn.Module]):
    """A network of ours."""

    def __init__(self, entry: Entry, id: str) -> None:  # noqa: A002 (spandrel's word)
        """Describe a network.

        Args:
            entry: The network.
            id: Its name in spandrel.
        """
        self._entry = entry
        super().__init__(
            id=id, name=entry.name, detect=lambda state: self._options(state) is not None
        )

    def load(self, state_dict: State) -> Any:
        """Build the network and load it."""
        options = self._options(state_dict)
        assert options is not None  # spandrel has detected it
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
            # Our networks pad by themselves, so there are no size requirements.
            tiling=ModelTiling.DISCOURAGED if facts.halo is None else ModelTiling.SUPPORTED,
        )

    def _options(self, state: State) -> NetworkOptions | None:
        found = recognise(state)
        if found is None or found.entry != self._entry:
            return None
        return None if self._entry.is_in_spandrel(found.arguments) else found


def install(registry: ArchRegistry = MAIN_REGISTRY) -> None:
    """Add the networks to a registry of spandrel, before its own detectors.

    spandrel would take CaVE for FBCNN, build the 96-channel SCUNet with other heads, and GRL with
    windows that nobody published; it would not recognise Swin2SR in files without its tables and
    masks. A network whose name the registry holds already is added as ``NAME_cir``; calling again
    adds nothing.
    """
    present = [support.architecture for support in registry]
    ours = {architecture.name for architecture in present if type(architecture) is CIRArchitecture}
    names = tuple(architecture.id for architecture in present)
    registry.add(
        *(
            ArchSupport.from_architecture(
                CIRArchitecture(entry, f"{entry.name}_cir" if entry.name in names else entry.name),
                before=names,
            )
            for entry in offered()
            if entry.name not in ours
        )
    )
