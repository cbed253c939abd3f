"""``basicsr embed``: plots the embeddings of CaVE by JPEG quality."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cir_arch import load_network
from cir_cli import parsers
from cir_cli.figures import new_figure
from cir_cli.restore_jobs import LeftOut, list_pictures
from cir_data.codecs.jpeg import JPEG
from cir_data.images.decoding import decode
from cir_data.images.errors import UnreadableImage
from cir_data.messages import first_few
from cir_host.errors import UserError
from cir_host.extras import needs_extra
from cir_host.files import read_regular, write_whole

WINDOW = 512
"""Height and width of the centre crop that is taken from larger images."""

Points = NDArray[np.float64]


def run(arguments: list[str]) -> None:
    """Compress each image at each quality, embed the results, and plot them in two dimensions.

    As in Figures 2 and 4 of Guo et al., Compression-Aware One-Step Diffusion Model for JPEG
    Artifact Removal, ICCV 2025: one point per JPEG, coloured by quality.

    Raises:
        UserError: A file or value cannot be used, or a package is not installed.
    """
    options = parsers.embed().parse_args(arguments)
    output: Path = options.output
    _check_output(output)
    left_out = LeftOut()
    files = list_pictures(options.images, left_out)
    for line in (*left_out.unreadable, *left_out.lines()):
        print(f"left out: {line}", file=sys.stderr)
    qualities = sorted(set(options.qualities))
    if len(files) * len(qualities) < 3:
        raise UserError(
            f"{len(files) * len(qualities)} points are too few to plot, which takes 3; give more"
            " images"
        )
    network = _load(options.model)
    unreadable: list[str] = []
    embedded = embeddings(network, _images(files, unreadable), qualities)
    number = len(embedded)
    if number * len(qualities) < 3:
        raise UserError(f"too few images can be read: {first_few(unreadable)}")
    points = project(embedded.reshape(-1, embedded.shape[-1]), options.method)
    figure = _draw(points.reshape(number, len(qualities), 2), qualities, options.method)
    kind = output.suffix.lower().removeprefix(".")
    try:
        write_whole(output, lambda file: figure.savefig(file, format=kind, dpi=110))
    except OSError as error:
        raise UserError(f"-o {output}: {error.strerror or error}") from error
    print(output)
    if unreadable:
        raise UserError(
            f"{len(unreadable)} of {len(files)} images could not be read; {output} shows the"
            f" others. {first_few(unreadable)}"
        )


def _check_output(output: Path) -> None:
    if output.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"-o {output}: give a name that ends in .png, .svg or .pdf")
    if not output.parent.is_dir():
        raise UserError(f"-o {output}: no folder {output.parent}")


def _load(path: Path) -> nn.Module:
    network = load_network(path)
    if not hasattr(network, "embed"):
        raise UserError(
            f"{path}: {type(network).__name__} has no embedding; CaVE and CaVEQuality do"
        )
    return network


def embeddings(
    network: nn.Module, images: Iterable[NDArray[np.uint8]], qualities: Sequence[int]
) -> Points:
    """Return the mean token of each image's JPEG: (images, qualities, channels)."""
    codec = JPEG()
    rows = []
    for image in images:
        part = _middle(image)
        rows.append([_embed(network, codec.compress(part, quality)) for quality in qualities])
    return np.array(rows, np.float64)


def _images(files: Iterable[Path], unreadable: list[str]) -> Iterator[NDArray[np.uint8]]:
    """Yield the readable images, and note why the others cannot be read."""
    for file in files:
        try:
            yield decode(read_regular(file), str(file))
        except OSError as error:
            unreadable.append(f"{file}: {error.strerror or error}")
        except UnreadableImage as error:
            unreadable.append(str(error))


def project(vectors: Points, method: str) -> Points:
    """Normalise each channel of vectors (N, C) to variance 1, and map them to points (N, 2).

    Args:
        vectors: At least 3 of them.
        method: ``pca``, or ``tsne``: scikit-learn's, with its default settings and a fixed seed.

    Raises:
        UserError: scikit-learn is not installed.
    """
    centred = vectors - vectors.mean(0)
    spread = centred.std(0)
    centred = centred[:, spread > 0] / spread[spread > 0]
    if method == "pca":
        left, sizes, _ = np.linalg.svd(np.pad(centred, ((0, 0), (0, 2))), full_matrices=False)
        points: Points = left[:, :2] * sizes[:2]
        return points
    manifold = needs_extra("sklearn.manifold", "tsne", "--method tsne, unlike pca,")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    placed: Points = manifold.TSNE(perplexity=perplexity, random_state=0).fit_transform(centred)
    return placed


def _embed(network: nn.Module, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    planes = np.stack([image] * 3) if image.ndim == 2 else image.transpose(2, 0, 1)
    tensor = torch.from_numpy(planes.astype(np.float32) / 255)[None]
    with torch.inference_mode():
        tokens: torch.Tensor = network.embed(tensor)  # type: ignore[operator]
    mean: NDArray[np.float32] = tokens[0].mean(0).numpy()
    return mean


def _middle(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    top, left = (max(0, side - WINDOW) // 2 for side in image.shape[:2])
    return np.ascontiguousarray(image[top : top + WINDOW, left : left + WINDOW])


def _draw(points: Points, qualities: Sequence[int], method: str) -> Any:
    figure = new_figure("basicsr embed", 6, 5)
    from matplotlib import colormaps

    axis: Any = figure.subplots()
    for index, quality in enumerate(qualities):
        colour = colormaps["viridis"](index / max(1, len(qualities) - 1))
        axis.scatter(*points[:, index].T, s=18, color=colour, label=f"quality {quality}")
    title = {"pca": "PCA", "tsne": "t-SNE"}[method]
    axis.set(title=f"Embeddings of {len(points)} images, {title}", xticks=[], yticks=[])
    axis.legend(fontsize="small")
    return figure
