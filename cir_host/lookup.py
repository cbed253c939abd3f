"""Lookup in BasicSR's registries, with suggestions for unknown names."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cir_host.errors import OptionsError

if TYPE_CHECKING:  # ``near`` works without BasicSR
    from basicsr.utils.registry import Registry

_INSTEAD = {
    "RealHATMSEModel": "HAT's own; write RealESRNetModel, which does the same for a network that"
    " pads images itself, as our HAT does",
    "RealHATGANModel": "HAT's own; write RealESRGANModel, which does the same for a network that"
    " pads images itself, as our HAT does",
    "ImageNetPairedDataset": "HAT's own, which reduces the images while it loads them; reduce them"
    " beforehand with MATLAB's imresize, and write PairedImageDataset with dataroot_lq",
    "ImageCleanModel": "Restormer's own; write CIRModel, with train.grad_clip: 0.01 for"
    " use_grad_clip, and train.progressive for iters, gt_sizes and mini_batch_sizes of the data"
    " set",
    "Dataset_PairedImage": "Restormer's own; write PairedImageDataset, with use_hflip and use_rot"
    " for geometric_augs",
    "ImageRestorationModel": "NAFNet's own; write CIRModel, with train.grad_clip: 0.01, which it"
    " has by default, and val.tile for grids and crop_size",
    "DATModel": "DAT's own; write CIRModel, with val.tile: auto for use_chop",
}
"""For names that other repositories register: whose they are, and what to write instead."""


class UnknownNameError(OptionsError, KeyError):
    """A name that is not registered; also a ``KeyError``, which BasicSR raises."""

    __str__ = Exception.__str__  # KeyError would put the message in quotes


def near(word: object, known: Iterable[str]) -> str:
    """Return ``; did you mean "..."?`` with the most similar known words, or an empty string.

    Example:
        >>> near("qualty", ["quality", "scale"])
        '; did you mean "quality"?'
    """
    by_folded = {name.casefold(): name for name in known}
    matches = get_close_matches(str(word).casefold(), by_folded, n=3, cutoff=0.7)
    words = " or ".join(f'"{by_folded[match]}"' for match in matches)
    return f"; did you mean {words}?" if words else ""


def name_the_near(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``Registry.get`` suggest similar names, and find ``NAME_basicsr`` silently.

    Raises:
        UnknownNameError: The registry holds neither name. If the name is right, the usual cause is
            a folder ``basicsr`` beside the script that hides the installed package, so the message
            says where BasicSR was imported from.
    """

    @wraps(original)
    def get(self: "Registry", name: str, suffix: str = "basicsr") -> Any:
        for candidate in (name, f"{name}_{suffix}"):
            if candidate in self._obj_map:
                return self._obj_map[candidate]
        import basicsr

        known = (entry.removesuffix(f"_{suffix}") for entry in self._obj_map)
        raise UnknownNameError(
            f"no {name!r} in BasicSR's {self._name} registry{near(str(name), known)}"
            f" (BasicSR is imported from {Path(basicsr.__file__).parent})"
        )

    return get


def look_up(registry: "Registry", name: Any, where: str) -> Any:
    """Return the object that is registered under a name from an options file.

    Args:
        registry: One of BasicSR's.
        name: The value of the key.
        where: The key, for messages, such as ``network_g.type``.

    Raises:
        UnknownNameError: The name is not registered.
    """
    try:
        return registry.get(name)
    except UnknownNameError as error:
        if name in _INSTEAD:
            raise UnknownNameError(f"{where}: {name} is {_INSTEAD[name]}") from None
        raise UnknownNameError(f"{where}: {error}") from None
