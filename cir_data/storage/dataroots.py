"""The options ``dataroot_*`` and ``meta_info_file``: from their values to lists of images."""

import logging
from collections.abc import Sequence

from cir_data.messages import first_few
from cir_data.storage.folder_source import FolderSource
from cir_data.storage.image_source import StoredImage
from cir_data.storage.lmdb_source import LmdbSource, is_lmdb
from cir_data.storage.meta_info import read_meta_info
from cir_data.storage.skipped_files import SkippedFiles
from cir_host.errors import UserError
from cir_host.file_names import expanded

_logger = logging.getLogger("basicsr")


def open_images(
    key: str, roots: str | list[str], meta_info_files: str | list[str | None] | None = None
) -> list[list[StoredImage]]:
    """List the images of one root or of several, and log which image files are skipped.

    Args:
        key: The option that gave the roots, for messages.
        roots: Folders, or LMDBs, which end in ``.lmdb``. A leading ``~`` is the home folder.
        meta_info_files: One file per root that lists which images to take; None takes all.

    Returns:
        A list for each root, in the order of the names, or of the file that lists them.

    Raises:
        UserError: A root or listed image does not exist, or an image cannot be used.
    """
    opened, skipped = find_images(key, roots, meta_info_files)
    if skipped.unusable:
        raise UserError(
            f"{key}: {first_few(skipped.unusable)}; mend or remove what cannot be used, or list"
            " the images in a meta_info_file"
        )
    if others := skipped.other_images().describe():
        _logger.warning(
            "%s: skips files that may be images: %s. To use them, convert them to PNG, or"
            " rename JPEG files to .jpg.",
            key,
            others,
        )
    return opened


def find_images(
    key: str, roots: str | list[str], meta_info_files: str | list[str | None] | None = None
) -> tuple[list[list[StoredImage]], SkippedFiles]:
    """List images as :func:`open_images` does, but return what cannot be used.

    Returns:
        A list for each root, and the skipped files of all roots.

    Raises:
        UserError: A root or a listed image does not exist, or a root holds no images.
    """
    paths = [expanded(root) for root in as_list(roots)]
    files: Sequence[str | None] = [None] * len(paths)
    if meta_info_files:
        files = meta_info_files if isinstance(meta_info_files, list) else [meta_info_files]
    opened: list[list[StoredImage]] = []
    skipped = SkippedFiles()
    try:
        lists = [read_meta_info(expanded(file)) if file else None for file in files]
    except UserError as error:
        raise UserError(f"meta_info_file: {error}") from error
    try:
        for root, listed in zip(paths, lists, strict=True):
            source = (LmdbSource if is_lmdb(root) else FolderSource)(root)
            opened.append([StoredImage(source, name) for name in source.names(listed)])
            skipped.add(source.skipped)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    return opened, skipped


def as_list(value: str | list[str]) -> list[str]:
    """Return an option that takes one value or several as a list.

    Example:
        >>> as_list("photos"), as_list(["photos", "scans"])
        (['photos'], ['photos', 'scans'])
    """
    return [value] if isinstance(value, str) else value
