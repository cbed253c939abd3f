"""Pictures for the tests of the page."""

from importlib.resources import files
from pathlib import Path

from PIL import Image


def photo(size=(96, 64), start=(120, 60)):
    """Return a part of a photograph of scikit-image."""
    with Image.open(Path(str(files("skimage.data"))) / "astronaut.png") as image:
        left, top = start
        return image.convert("RGB").crop((left, top, left + size[0], top + size[1]))


def write_pictures(folder):
    """Write a JPEG, one that its EXIF turns, a half one, a cut screenshot and two bad files."""
    folder.mkdir(parents=True)
    photo().save(folder / "plain.jpg", quality=20)
    turned = Image.Exif()
    turned[0x0112], turned[0x010E] = 6, "a description"
    photo().save(folder / "turned (1).jpg", quality=40, exif=turned, dpi=(300, 300))
    data = (folder / "plain.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(data[: len(data) * 5 // 6])
    with Image.open(folder / "plain.jpg") as image:
        image.convert("RGB").crop((3, 5, 96, 64)).save(folder / "screenshot.png")
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.jpg").touch()
    return folder
