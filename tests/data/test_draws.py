import numpy as np
import pytest

from cir_data.draws import Mixture
from cir_data.options import JPEGRestorationOptions
from cir_host.errors import OptionsError
from cir_host.typed_options import typed


def options(quality, phase="train"):
    section = {"name": "T", "type": "JPEGRestorationDataset", "phase": phase, "gt_size": 32}
    section |= {"dataroot_gt": "x", "quality": quality}
    return typed(section, JPEGRestorationOptions, f"datasets.{phase}")


def drawn(quality, count=6000):
    rng = np.random.default_rng(0)
    chosen = Mixture.of(options(quality).quality)
    values, counts = np.unique([chosen.draw(rng) for _ in range(count)], return_counts=True)
    return dict(zip(values.tolist(), (counts / count).tolist(), strict=True))


def test_integer():
    assert drawn(37) == {37: 1}


def test_choices_are_drawn_alike():
    shares = drawn({"choices": [10, 20, 70]})
    assert list(shares) == [10, 20, 70]
    assert all(abs(share - 1 / 3) < 0.03 for share in shares.values())


def test_range_has_both_ends_and_all_between_alike():
    shares = drawn({"range": [10, 15]})
    assert list(shares) == [10, 11, 12, 13, 14, 15]
    assert all(abs(share - 1 / 6) < 0.03 for share in shares.values())


def test_mixture_takes_entries_by_their_weights():
    entries = [{"choices": [10, 20], "weight": 3}, {"range": [50, 51], "weight": 1}]
    shares = drawn([*entries, {"range": [20, 20], "weight": 4}])
    expected = {10: 3 / 16, 20: 3 / 16 + 1 / 2, 50: 1 / 16, 51: 1 / 16}
    assert shares.keys() == expected.keys()
    assert all(abs(shares[value] - expected[value]) < 0.03 for value in shares)


@pytest.mark.parametrize(
    ("quality", "message"),
    [
        (0, r"datasets\.train\.quality: .*1"),
        (101, r"datasets\.train\.quality: .*100"),
        (10.5, r"datasets\.train\.quality: .*10\.5"),
        ("ten", r"datasets\.train\.quality: .*ten"),
        (True, r"datasets\.train\.quality: .*True"),
        ([10, 20], r"datasets\.train\.quality\[0\]: expected object, got int; it is 10"),
        ({}, r"datasets\.train\.quality: .*choices or range"),
        ({"choices": []}, r"datasets\.train\.quality\.choices: "),
        ({"choices": [10, 0]}, r"datasets\.train\.quality\.choices\[1\]: .*it is 0"),
        (
            {"range": [70, 10]},
            r"datasets\.train\.quality: .*range \[70, 10\]: the first end must not exceed",
        ),
        ({"range": [10]}, r"datasets\.train\.quality\.range: "),
        ({"range": [10, 120]}, r"datasets\.train\.quality\.range\[1\]: .*it is 120"),
        ({"choices": [10], "range": [10, 20]}, r"datasets\.train\.quality: .*choices or range"),
        ([], r"datasets\.train\.quality: .*length >= 1"),
        ([{"range": [10, 70]}], r"datasets\.train\.quality\[0\]\.weight: missing"),
        (
            [{"range": [10, 70], "weight": 0}],
            r"datasets\.train\.quality\[0\]\.weight: .*> 0.*it is 0",
        ),
        ([{"weight": 1}], r"datasets\.train\.quality\[0\]: .*choices or range"),
        ({"rnage": [10, 70]}, r"quality\.rnage: unknown key.*\"range\""),
    ],
)
def test_bad_values_are_named(quality, message):
    with pytest.raises(OptionsError, match=message):
        options(quality)


@pytest.mark.parametrize("phase", ["val", "test"])
def test_a_measurement_needs_one_quality(phase):
    assert options(40, phase).quality == 40
    with pytest.raises(OptionsError, match=rf"datasets\.{phase}.*quality must be one integer"):
        options({"range": [10, 70]}, phase)
