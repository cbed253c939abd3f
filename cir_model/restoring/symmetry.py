"""The flips and rotations of a self-ensemble."""

from collections.abc import Callable

from torch import Tensor

from cir_model.restoring.settings import Ensemble

Symmetry = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def _identity(image: Tensor) -> Tensor:
    return image


def _transpose(image: Tensor) -> Tensor:
    return image.transpose(-1, -2)


def _flip(*axes: int) -> Callable[[Tensor], Tensor]:
    return lambda image: image.flip(axes)


_FLIPS: tuple[Symmetry, ...] = (
    (_identity, _identity),
    *((_flip(*axes), _flip(*axes)) for axes in ((-1,), (-2,), (-2, -1))),
)


def _transposed(symmetry: Symmetry) -> Symmetry:
    apply, undo = symmetry
    return (lambda image: apply(_transpose(image))), (lambda image: _transpose(undo(image)))


SYMMETRIES: dict[Ensemble, tuple[Symmetry, ...]] = {
    "none": ((_identity, _identity),),
    "transpose": ((_identity, _identity), (_transpose, _transpose)),
    "flips": _FLIPS,
    "x8": _FLIPS + tuple(_transposed(symmetry) for symmetry in _FLIPS),
}
"""For each ensemble, pairs of a symmetry and its inverse."""
