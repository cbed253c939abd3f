"""The files in a folder that are not read, counted and named for the user."""

from collections import Counter
from dataclasses import dataclass, field

from cir_data.images.formats import OTHER_IMAGES
from cir_data.messages import first_few
from cir_host.file_names import printable


@dataclass
class SkippedFiles:
    """Files that were skipped; hidden files are not counted."""

    suffixes: Counter[str] = field(default_factory=Counter)
    """Number of skipped files per suffix, in lower case; "" is no suffix."""
    unusable: list[str] = field(default_factory=list)
    """One line for each image or folder that cannot be read, with the reason."""

    def add(self, other: "SkippedFiles") -> None:
        """Add the skipped files of another folder."""
        self.suffixes += other.suffixes
        self.unusable += other.unusable

    def describe(self) -> str:
        """Return the counts by suffix, the most frequent first.

        Example:
            >>> SkippedFiles(Counter({"": 1, ".heic": 3})).describe()
            '3 .heic, 1 without a suffix'
        """
        numbers = [
            f"{number:,} {printable(suffix) or 'without a suffix'}"
            for suffix, number in sorted(self.suffixes.items(), key=lambda i: (-i[1], i[0]))
        ]
        return first_few(numbers, 8)

    def other_images(self) -> "SkippedFiles":
        """Return only those whose suffix is that of an image format."""
        return SkippedFiles(Counter({s: n for s, n in self.suffixes.items() if s in OTHER_IMAGES}))
