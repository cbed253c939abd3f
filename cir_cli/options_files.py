"""Finding an options file by its path, or by the name of a shipped file."""

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from cir_host.errors import OptionsError
from cir_host.file_names import expanded


def shipped() -> dict[str, Path]:
    """Return the shipped options files by name."""
    folder = Path(str(files("cir_options")))
    return {path.name: path for path in sorted(folder.glob("*.yml"))}


def find(name: str) -> Path:
    """Return the path of an options file.

    Args:
        name: A path, or ``NAME`` or ``options/NAME`` of a shipped file if the path does not exist.

    Raises:
        OptionsError: There is no such file; the message names similar ones.
    """
    path = expanded(name)
    if path.is_file():
        return path
    ours = shipped()
    if path.name in ours and str(path.parent) in (".", "options"):
        return ours[path.name]
    near = get_close_matches(path.name, ours, n=3) or list(ours)
    raise OptionsError(
        f"-opt {name}: no such file, and no shipped options file of that name (there are:"
        f" {', '.join(near)})"
    )
