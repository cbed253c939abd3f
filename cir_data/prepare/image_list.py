"""A ``meta_info`` file of images that stay where they are."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cir_data.messages import first_few
from cir_data.prepare.one_image import shape_of
from cir_data.prepare.outputs import PreparationReport, check_output
from cir_data.prepare.workers import ordered_map
from cir_data.storage.image_source import StoredImage
from cir_data.storage.meta_info import meta_info_bytes, meta_info_line
from cir_host.errors import UserError
from cir_host.files import write_bytes_whole


def write_meta_info(
    images: Sequence[StoredImage],
    output: Path,
    workers: int,
    *,
    overwrite: bool = False,
    unusable: Sequence[str] = (),
    progress: Callable[[], object] = lambda: None,
) -> PreparationReport:
    """Write a ``meta_info`` file: one line ``name (height,width,channels)`` per image.

    Raises:
        UserError: The file exists or cannot be written, or no image has a readable header.
    """
    check_output(output, overwrite)
    report = PreparationReport(unreadable=list(unusable))
    lines = []
    for image, shape in zip(images, ordered_map(shape_of, images, workers), strict=True):
        progress()
        if isinstance(shape, str):
            report.unreadable.append(shape)
        else:
            lines.append(meta_info_line(image.name, "({},{},{})".format(*shape)))
    report.images = report.entries = len(lines)
    if not lines:
        raise UserError(f"no image could be used: {first_few(report.unreadable)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_whole(output, meta_info_bytes(lines))
    except OSError as error:
        raise UserError(f"{output}: {error.strerror}") from error
    return report
