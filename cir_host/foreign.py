"""Options files of HAT's repository, which grew out of BasicSR, in words of ours."""

from typing import Annotated, Any

import msgspec
from basicsr.utils.registry import MODEL_REGISTRY
from msgspec import Meta

from cir_host.options import typed


class _Tile(msgspec.Struct, forbid_unknown_fields=True):
    tile_size: Annotated[int, Meta(ge=1)]
    tile_pad: Annotated[int, Meta(ge=0)]


class _Section(msgspec.Struct):
    tile: _Tile


def translate(options: dict[str, Any]) -> list[str]:
    """Put HAT's own options into words of ``CIRModel``, unless its package is imported.

    ``HATModel`` is ``SRModel`` with images padded for the network and passed in tiles. A tile of
    its is ``tile_size`` pixels without what it shares with its neighbours, ``tile_pad`` at each
    side.

    Args:
        options: A whole file, which is changed.

    Returns:
        Warnings that say what was put for what.

    Raises:
        OptionsError: The section ``tile`` is not what HAT's files have.
    """
    if options.get("model_type") != "HATModel" or "HATModel" in MODEL_REGISTRY:
        return []
    options["model_type"] = "CIRModel"
    message = "model_type: HATModel is run as CIRModel, which pads images as HAT's own does"
    section, val = options.pop("tile", None), options.get("val")
    if section is not None and isinstance(val, dict):
        tile = typed({"tile": section}, _Section, "").tile
        size, overlap = tile.tile_size + 2 * tile.tile_pad, 2 * tile.tile_pad
        val.update({"tile": size, "overlap": overlap, **val})
        message += f"; its section tile as val.tile: {val['tile']} and overlap: {val['overlap']}"
    return [message]
