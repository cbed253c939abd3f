"""The bundled weights: ``NAME.safetensors``, each with its model card ``NAME.md``."""

from pathlib import Path

from cir_host import checkpoint
from cir_host.errors import UserError

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of all bundled weights."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def path_of(name: str) -> Path:
    """Return the file of the bundled weights of a name.

    Raises:
        UserError: No weights have that name; the message lists the names.

    Example:
        >>> path_of("fbcnn_s_x1").name
        'fbcnn_s_x1.safetensors'
    """
    if name not in names():
        raise UserError(
            f"{name}: no such file, and no bundled weights of that name (there are:"
            f" {', '.join(names()) or 'none'})"
        )
    return _FOLDER / f"{name}.safetensors"


def default_weights() -> Path:
    """Return the file of the weights that restore by default, the fastest of the bundled ones."""
    return path_of("fbcnn_xs_x1")


def best_weights() -> Path:
    """Return the file of the bundled weights that gain most, at several times the computation."""
    return path_of("fbcnn_s_x1")


@checkpoint.register_finder
def _find(path: Path) -> Path | None:
    """Return the bundled weights of a name without a folder, with or without ``.safetensors``."""
    if path.name != str(path) or path.suffix not in ("", ".safetensors"):
        return None
    return path_of(path.stem)
