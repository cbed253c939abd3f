"""The list of images of a data set, stored so that data loader workers share its memory."""

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

from cir_data.storage.image_source import ImageSource, StoredImage


class StoredImages(Sequence[StoredImage]):
    """Images of a data set: all names in one array, objects created on access.

    A list of objects would be copied, page by page, into the memory of every worker that reads it,
    because Python writes reference counts into the objects.
    """

    def __init__(self, images: Iterable[StoredImage]) -> None:
        sources: dict[ImageSource, int] = {}
        text, ends, of = bytearray(), array("q", [0]), array("i")
        for source, name in images:
            of.append(sources.setdefault(source, len(sources)))
            text += name.encode("utf-8", "surrogatepass")  # in every locale
            ends.append(len(text))
        self._sources = list(sources)
        self._text, self._ends, self._of = bytes(text), ends, of

    def __len__(self) -> int:
        return len(self._of)

    @overload
    def __getitem__(self, index: int) -> StoredImage: ...

    @overload
    def __getitem__(self, index: slice) -> "StoredImages": ...

    def __getitem__(self, index: int | slice) -> "StoredImage | StoredImages":
        """Return one image; a slice gives several.

        Raises:
            IndexError: The index is out of range.
        """
        if isinstance(index, slice):
            return StoredImages(self[i] for i in range(*index.indices(len(self))))
        index = range(len(self))[index]
        name = self._text[self._ends[index] : self._ends[index + 1]]
        return StoredImage(self._sources[self._of[index]], name.decode("utf-8", "surrogatepass"))
