import itertools

import numpy as np
from data_tools import coordinate_image, first_boundary

from cir_data.images.geometry import Orientation, Window

ALL = [Orientation(*flags) for flags in itertools.product((False, True), repeat=3)]


def test_boundary_follows_every_orientation_and_position():
    image = coordinate_image(64, 80)
    sizes = ((16, 16), (17, 20), (23, 31))
    windows = [
        Window(top, left, height, width)
        for top, left in itertools.product(range(9), range(9))
        for height, width in sizes
    ]
    for window, orientation in itertools.product(windows, ALL):
        crop = window.cut(image)
        found = orientation.move_boundary(window.move_boundary((0, 0)), crop)
        assert found == first_boundary(orientation.apply(crop)), (window, orientation)


def test_random_orientation_reaches_what_the_options_allow():
    image = np.arange(4, dtype=np.uint8).reshape(2, 2)

    def reached(use_hflip, use_rot):
        rng = np.random.default_rng(0)
        results = (Orientation.random(rng, use_hflip, use_rot).apply(image) for _ in range(200))
        return {tuple(result.ravel().tolist()) for result in results}

    assert reached(False, False) == {(0, 1, 2, 3)}
    assert reached(True, False) == {(0, 1, 2, 3), (1, 0, 3, 2)}
    assert reached(False, True) == {(0, 1, 2, 3), (2, 3, 0, 1), (0, 2, 1, 3), (2, 0, 3, 1)}
    assert len(reached(True, True)) == 8


def test_random_window_reaches_both_ends():
    rng = np.random.default_rng(0)
    windows = [Window.random(rng, (12, 10), 8) for _ in range(300)]
    assert {w.top for w in windows} == set(range(5))
    assert {w.left for w in windows} == set(range(3))
    on_grid = [Window.random(rng, (47, 24), 8, grid=(16, 8)) for _ in range(300)]
    assert {w.top for w in on_grid} == {0, 16, 32}
    assert {w.left for w in on_grid} == {0, 8, 16}
