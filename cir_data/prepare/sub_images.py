"""Where the sub-images of an image lie, by the rule of BasicSR's ``extract_subimages``."""

from cir_data.images.geometry import Window


def sub_windows(height: int, width: int, size: int, step: int, threshold: int) -> list[Window]:
    """Return the squares that cover an image, row by row.

    They start every ``step`` pixels. A remainder at the far border that is wider than ``threshold``
    gets one more square, flush with the border. An edge shorter than ``size`` is taken whole.

    Example:
        >>> [(w.top, w.left) for w in sub_windows(480, 700, size=480, step=240, threshold=0)]
        [(0, 0), (0, 220)]
    """
    return [
        Window(top, left, min(size, height), min(size, width))
        for top in _starts(height, size, step, threshold)
        for left in _starts(width, size, step, threshold)
    ]


def _starts(edge: int, size: int, step: int, threshold: int) -> list[int]:
    if edge <= size:
        return [0]
    starts = list(range(0, edge - size + 1, step))
    if edge - (starts[-1] + size) > threshold:
        starts.append(edge - size)
    return starts
