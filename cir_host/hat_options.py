"""Translation of options files of HAT, whose repository extends BasicSR."""

from typing import Annotated, Any

import msgspec
from basicsr.utils.registry import MODEL_REGISTRY
from msgspec import Meta

from cir_host.typed_options import typed


class _Tile(msgspec.Struct, forbid_unknown_fields=True):
    tile_size: Annotated[int, Meta(ge=1)]
    tile_pad: Annotated[int, Meta(ge=0)]


class _Section(msgspec.Struct):
    tile: _Tile


def translate(options: dict[str, Any]) -> list[str]:
    """Translate HAT's own options into those of ``CIRModel``, unless HAT's package is imported.

    ``HATModel`` is ``SRModel`` that pads images for the network and processes them in tiles. Its
    ``tile_size`` does not include the ``tile_pad`` pixels of overlap at each side.

    Args:
        options: All options of a file; changed in place.

    Returns:
        Warnings that say what was translated.

    Raises:
        OptionsError: The section ``tile`` is not like that of HAT's files.
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
