"""The weights that the package carries."""

from pathlib import Path

from cir_host.errors import UserError

_FOLDER = Path(__file__).parent


def path_of(name: str) -> Path:
    """Return the file of the weights of a name, such as ``cave_s_x1``.

    Raises:
        UserError: The package carries none of that name.
    """
    path = _FOLDER / f"{name}.safetensors"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in _FOLDER.glob("*.safetensors")))
        raise UserError(f"{name}: the package carries no such weights, but: {names or 'none'}")
    return path
