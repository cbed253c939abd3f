"""Finding an options file: a path, or the name of one that the package ships."""

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from cir_host.errors import OptionsError
from cir_host.file_names import expanded


def shipped() -> dict[str, Path]:
    """Return the options files that the package ships, by name."""
    folder = Path(str(files("cir_options")))
    return {path.name: path for path in sorted(folder.glob("*.yml"))}


def find(name: str) -> Path:
    """Return the path of an options file.

    Args:
        name: A path, or the name of a shipped file, or ``options/NAME`` where the current directory
            holds no such file.

    Raises:
        OptionsError: There is neither; the message names the near ones.
    """
    path = expanded(name)
    if path.is_file():
        return path
    ours = shipped()
    if path.name in ours and str(path.parent) in (".", "options"):
        return ours[path.name]
    near = get_close_matches(path.name, ours, n=3) or list(ours)
    raise OptionsError(
        f"-opt: no file {name}, and no options file of that name in the package"
        f" (it has: {', '.join(near)})"
    )
