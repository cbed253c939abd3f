"""The weights that the package carries: ``NAME.safetensors``, each with its card ``NAME.md``."""

from pathlib import Path

from cir_host import checkpoint
from cir_host.errors import UserError

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of all weights."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def path_of(name: str) -> Path:
    """Return the file of the weights of a name.

    Raises:
        UserError: There are none; the message lists the names.
    """
    if name not in names():
        raise UserError(
            f"{name}: no such file, nor weights of that name in the package (it has:"
            f" {', '.join(names()) or 'none'})"
        )
    return _FOLDER / f"{name}.safetensors"


def default_weights() -> Path:
    """Return the file of the weights that restore where no others are named."""
    return path_of("promptcir_s_x1")


def _find(path: Path) -> Path | None:
    """Take a name without a folder, with or without ``.safetensors``, for weights of ours."""
    if path.name != str(path) or path.suffix not in ("", ".safetensors"):
        return None
    return path_of(path.stem)


checkpoint.finders.append(_find)
