"""Figures of the commands that draw; matplotlib is an extra."""

from typing import Any

from cir_host.errors import UserError


def new_figure(command: str, width: float, height: float) -> Any:
    """Return an empty figure of matplotlib, of a width and height in inches.

    Raises:
        UserError: matplotlib is not installed; the message names the command.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(f"{command} needs matplotlib; `pip install matplotlib`") from None
    return Figure(figsize=(width, height), layout="constrained")
