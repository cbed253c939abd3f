"""How the winner of the NTIRE 2024 challenge passed an image: its padding, tiles and average.

The image is padded below and at the right by its own mirror image, edge included, to the next
multiple of the network's size rule that is *larger* than it. Square tiles, no larger than the
shorter side, lie at multiples of the stride and once more at the far end. Tiles are averaged with
equal weights, and the result is clamped to [0, 1]. Where the shorter side is no larger than the
overlap, that script gives no result; here the image then passes whole.
"""

from torch import Tensor

from cir_arch.layers.padding import mirror_beyond
from cir_model.restoring.tiling import Run, Tiling


def restore(run: Run, image: Tensor, tiling: Tiling | None, multiple: int, scale: int) -> Tensor:
    """Pass an image through ``run`` by the rule.

    Args:
        run: The network.
        image: (B, C, H, W) in [0, 1].
        tiling: Tile and overlap; None: padded and clamped, but whole.
        multiple: The network's size rule.
        scale: What ``run`` multiplies height and width by.

    Returns:
        (B, C, scale H, scale W), float32 in [0, 1].
    """
    height, width = image.shape[-2:]
    padded = mirror_beyond(mirror_beyond(image, -2, multiple), -1, multiple)
    if tiling is None:
        restored = run(padded).to(image.device)
    else:
        restored = _average(run, padded, tiling, scale)
    return restored[..., : height * scale, : width * scale].clamp(0, 1)


def _average(run: Run, image: Tensor, tiling: Tiling, scale: int) -> Tensor:
    tile = min(tiling.tile, *image.shape[-2:])
    if tile <= tiling.overlap:
        return run(image).to(image.device)
    total: Tensor | None = None
    count: Tensor | None = None
    for top in _starts(image.shape[-2], tile, tiling.overlap):
        for left in _starts(image.shape[-1], tile, tiling.overlap):
            piece = run(image[..., top : top + tile, left : left + tile]).to(image.device)
            if total is None or count is None:
                size = [side * scale for side in image.shape[-2:]]
                total = piece.new_zeros(*piece.shape[:-2], *size)
                count = piece.new_zeros(size)
            rows = slice(top * scale, (top + tile) * scale)
            columns = slice(left * scale, (left + tile) * scale)
            total[..., rows, columns] += piece
            count[rows, columns] += 1
    assert total is not None
    assert count is not None  # there is a tile
    return total / count


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    return [*range(0, length - tile, tile - overlap), length - tile]
