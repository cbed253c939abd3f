"""Keys of images in an LMDB, which are also the names of files in a folder of sub-images."""

import re
from collections.abc import Sequence
from urllib.parse import quote

from cir_data.storage.image_source import StoredImage
from cir_host.errors import UserError
from cir_host.file_names import LONGEST_NAME, short_name

_NUMBER = "_s000000"  # the longest number of a sub-image
_LONGEST_KEY = 511 - len(_NUMBER)  # LMDB's limit
_LONGEST_PART = LONGEST_NAME - len(_NUMBER + ".png")
_SAFE = "/ !#$&'()+,;=@[]{}~^`"


def keys_of(images: Sequence[StoredImage], remove_suffix: str = "") -> list[str]:
    """Return a distinct key for each image that BasicSR can read from an LMDB.

    A key is the path below the root, without suffix; with several roots, the root's name comes
    first. Dots and characters outside ASCII are percent-encoded as in URLs (``%2E`` for a dot), and
    so are capitals where two keys differ only in case, which some file systems ignore. Images whose
    keys would still be equal keep their suffix. A part of the path that is too long for a file
    name is cut, and ends in a digest of the full name.

    Args:
        images: Images of one root or of several.
        remove_suffix: An ending to remove from the names, such as ``x4``.

    Raises:
        UserError: Several roots have the same name, or a root is given twice.

    Example:
        >>> from pathlib import Path
        >>> from cir_data.storage.folder_source import FolderSource
        >>> photos = FolderSource(Path())
        >>> keys_of([StoredImage(photos, n) for n in ("a.png", "b/a.jpg", "b/a.png", "v1.2.png")])
        ['a', 'b/a%2Ejpg', 'b/a%2Epng', 'v1%2E2']
    """
    roots = {image.source.root: image.source.root.resolve().stem for image in images}
    names = list(roots.values())
    if len(set(names)) < len(names):
        raise UserError(
            f"several input folders are named {names[0]}; give the folder above them instead"
        )
    if len({(image.source.root, image.name) for image in images}) < len(images):
        raise UserError("the inputs name a folder twice; give each once")
    # 0: plain; 1: capitals quoted; 2: with suffix; 3: both; from 4 on: numbered, odd ones quoted
    forms = [0] * len(images)

    def key_of(index: int) -> str:
        image, form = images[index], forms[index]
        name = _without(image.stem, remove_suffix) if form < 2 else image.name
        if form > 3:  # only if a name was chosen to collide with a shortened one
            folder, slash, _ = name.rpartition("/")
            name = folder + slash + short_name(f"{name}~{form}", longest=0)
        if len(roots) > 1:
            name = f"{roots[image.source.root]}/{name}"
        return _short(_quoted(name, capitals=form % 2 == 1))

    keys = [key_of(index) for index in range(len(images))]
    while True:
        alike: dict[str, list[int]] = {}
        for index, key in enumerate(keys):
            alike.setdefault(key.lower(), []).append(index)
        if len(alike) == len(keys):
            return keys
        for group in (group for group in alike.values() if len(group) > 1):
            plainest = min(forms[index] for index in group)
            for index in (index for index in group if forms[index] == plainest):
                forms[index] += 1
                keys[index] = key_of(index)


def _without(stem: str, suffix: str) -> str:
    shorter = stem.removesuffix(suffix)
    return stem if shorter.endswith("/") or not shorter else shorter


def _quoted(name: str, capitals: bool) -> str:
    key = quote(name, safe=_SAFE, errors="surrogateescape").replace(".", "%2E")
    # neither a meta_info file nor a folder can hold a name that starts with one of these
    key = re.sub("(?<![^/])[ /]", lambda match: f"%{ord(match[0]):X}", key)
    if capitals:
        key = re.sub(
            "(%..)|[A-Z]", lambda match: match[1] or f"%{ord(match[0]):X}", key, flags=re.DOTALL
        )
    return key


def _short(key: str) -> str:
    """Cut a key so that each part fits a file name, and the whole key an LMDB."""
    parts = [_cut(part, _LONGEST_PART) for part in key.split("/")]
    whole = "/".join(parts)
    if len(whole) > _LONGEST_KEY:
        whole = f"{_cut('/'.join(parts[:-1]), _LONGEST_PART)}/{parts[-1]}"
    return whole


def _cut(text: str, longest: int) -> str:
    short = short_name(text, longest=longest)
    return short if short == text else re.sub("%.?(?=~[0-9a-f]{16}$)", "", short)
