"""Figures of the commands that draw; matplotlib comes with the extra ``plot``."""

from typing import Any

from cir_host.extras import needs_extra


def new_figure(command: str, width: float, height: float) -> Any:
    """Return an empty figure of matplotlib, of a width and height in inches.

    Raises:
        UserError: matplotlib is not installed; the message names the command.
    """
    figures = needs_extra("matplotlib.figure", "plot", command)
    return figures.Figure(figsize=(width, height), layout="constrained")
