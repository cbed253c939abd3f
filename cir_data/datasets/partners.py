"""Matching compressed images with their originals."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from cir_data.messages import first_few
from cir_data.storage.image_source import StoredImage
from cir_host.errors import UserError


def partners(
    originals: Sequence[StoredImage], compressed: Iterable[StoredImage], all_needed: bool
) -> Iterator[StoredImage]:
    """Return the compressed image of each original in one root.

    Args:
        originals: The original images; duplicates are allowed.
        compressed: Images with the same paths, except for the suffix.
        all_needed: Whether a compressed image without an original is an error, too.

    Raises:
        UserError: An image has no partner, or two differ only in the suffix.
    """
    by_stem_gt, by_stem_lq = _by_stem(originals), _by_stem(compressed)
    alone = [f"{image.path} (no compressed image)" for image in _missing(by_stem_gt, by_stem_lq)]
    if all_needed:
        alone += [f"{image.path} (no original)" for image in _missing(by_stem_lq, by_stem_gt)]
    if alone:
        raise UserError(f"images without a partner: {first_few(alone)}")
    return (by_stem_lq[image.stem] for image in originals)


def _missing(
    images: Mapping[str, StoredImage], others: Mapping[str, StoredImage]
) -> list[StoredImage]:
    return [image for stem, image in images.items() if stem not in others]


def _by_stem(images: Iterable[StoredImage]) -> dict[str, StoredImage]:
    by_stem: dict[str, StoredImage] = {}
    for image in images:
        first = by_stem.setdefault(image.stem, image)
        if first != image:
            raise UserError(
                f"{first.path} and {image.path} differ in the extension only, which pairs ignore;"
                " remove one"
            )
    return by_stem
