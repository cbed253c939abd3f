"""Inference as by the winner of the NTIRE 2024 challenge: padding, tiles and average.

The image is mirrored beyond its bottom and right edges, edge pixels included, up to the next
*larger* multiple of the network's size rule. Square tiles, no larger than the shorter side, start
at multiples of the stride; the last one ends at the border. Tiles are averaged with equal weights,
and the result is clamped to [0, 1]. If the shorter side is not larger than the overlap, the
winner's script gives no result; here the network then gets the whole image.
"""

from torch import Tensor

from cir_arch.layers.padding import mirror_beyond
from cir_model.restoring.tiling import Run, Tiling


def restore(run: Run, image: Tensor, tiling: Tiling | None, multiple: int, scale: int) -> Tensor:
    """Restore an image by the winner's rule.

    Args:
        run: The network.
        image: (B, C, H, W) in [0, 1].
        tiling: Tile and overlap; None: the whole image, padded and clamped.
        multiple: The network's size rule.
        scale: Enlargement by ``run``.

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
    assert count is not None  # there is at least one tile
    return total / count


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    return [*range(0, length - tile, tile - overlap), length - tile]
