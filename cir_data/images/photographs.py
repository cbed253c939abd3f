"""Photographs of scikit-image, to show what restoring does.

BasicSR requires scikit-image, so they are always available. None of them was used to train the
bundled weights.
"""

import io
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from PIL import Image

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Showpiece:
    """A photograph, and the part of it that is shown."""

    name: str
    """Name in ``skimage.data``, without suffix."""
    box: Box
    quality: int
    """Of the JPEG that is made of it."""
    credit: str

    def original(self) -> Image.Image:
        """Return the photograph."""
        with Image.open(photograph(self.name)) as image:
            return image.convert("RGB")

    def jpeg(self) -> bytes:
        """Return the photograph as a JPEG file."""
        buffer = io.BytesIO()
        self.original().save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()


SHOWPIECES = (
    Showpiece("chelsea", (110, 60, 270, 180), 10, "Stéfan van der Walt, CC0"),
    Showpiece("coffee", (90, 110, 250, 230), 15, "Rachel Michetti, CC0"),
    Showpiece("astronaut", (150, 30, 310, 150), 20, "NASA, public domain"),
    Showpiece("astronaut", (300, 330, 460, 450), 10, "NASA, public domain"),
)
"""Photographs whose licence allows showing them anywhere."""


def photograph(name: str) -> Path:
    """Return the file of a photograph in ``skimage.data``."""
    return Path(str(files("skimage.data"))) / f"{name}.png"
