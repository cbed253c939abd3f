"""The protocol of ``basicsr results``: test sets, their inputs, metrics, and the file of scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cir_model.measuring.record import Measurement
from cir_model.measuring.store import Columns, Store

QUALITIES = tuple(range(5, 100, 5))
MAIN_QUALITIES = (10, 20, 30, 40)
"""The qualities of the papers' tables: always measured on all images."""

LISTS = Path(str(files("cir_options"))) / "meta_info"
"""The folder of the shipped lists of images, each one a ``meta_info_file``."""


@dataclass(frozen=True)
class EvaluationSet:
    """A set of lossless images."""

    name: str
    about: str
    options: Mapping[str, Any]
    """Keys of ``JPEGRestorationDataset``; ``dataroot_gt`` is relative to the folder of all sets,
    ``meta_info_file`` to :data:`LISTS`."""


@dataclass(frozen=True)
class InputRecipe:
    """How the inputs are made from the images of a set."""

    name: str
    """In the column ``input``."""
    options: Mapping[str, Any] | None
    """Keys of ``JPEGRestorationDataset``; None: the input is the ground truth itself."""


TEST_SETS = (
    EvaluationSet("LIVE1", "29 photographs, colour", {"dataroot_gt": "LIVE1"}),
    EvaluationSet("Classic5", "5 grey images", {"dataroot_gt": "Classic5", "color": "gray"}),
    EvaluationSet(
        "Set14", "14 images; the grey ones as three equal channels", {"dataroot_gt": "Set14"}
    ),
    EvaluationSet(
        "photographs",
        "26 crops, held out of the training images",
        {"dataroot_gt": "train", "meta_info_file": "photographs_val.txt"},
    ),
)
HELD_OUT = TEST_SETS[-1]
"""The only set on which :data:`FURTHER` is measured."""

JPEG_ONCE = {quality: InputRecipe(f"q{quality}", {"quality": quality}) for quality in QUALITIES}

DOUBLE_SHIFT = (3, 5)
"""Rows and columns that are cut off between two compressions."""

DOUBLE = tuple(
    InputRecipe(
        f"q{first} shifted q{last}",
        {"quality": last, "double": {"quality": first, "shift": list(DOUBLE_SHIFT)}},
    )
    for first, last in ((20, 75), (75, 20))
)
CLEAN = InputRecipe("clean", None)
FURTHER = (*DOUBLE, CLEAN)

METRICS: dict[str, dict[str, Any]] = {
    "psnr": {"type": "calculate_psnr", "crop_border": 0},
    "ssim": {"type": "calculate_ssim", "crop_border": 0},
    "psnrb": {"type": "calculate_psnrb", "crop_border": 0},
    "lpips": {"type": "calculate_lpips", "better": "lower"},
    "dists": {"type": "calculate_dists", "better": "lower"},
}

COLUMNS = Columns(
    facts={
        "set": "data_set",
        **{name: name for name in ("input", "image", "height", "width", "seconds")},
    },
    key=("set", "input", "image"),
    metrics=tuple(METRICS),
    kinds=("input", "output"),
    decimals=5,
)


def store_at(path: Path) -> Store:
    """Return the store of scores in a CSV file, which need not exist, sorted by the protocol."""
    return Store(path, COLUMNS, _place)


def _place(record: Measurement) -> tuple[int, int, str]:
    """Return the sort key of a record; sets and inputs that are not of the protocol come last."""
    sets = [evaluated.name for evaluated in TEST_SETS]
    recipes = [recipe.name for recipe in (*JPEG_ONCE.values(), *FURTHER)]
    own = record.data_set, record.made_by.get("input")
    places = [
        names.index(name) if name in names else len(names)
        for name, names in zip(own, (sets, recipes), strict=True)
    ]
    return places[0], places[1], record.image
