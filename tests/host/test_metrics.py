"""Metrics of images that have no figure in BasicSR, or one that no mean survives."""

import math

import numpy as np
import pytest
import torch
from basicsr import metrics
from basicsr.utils.registry import METRIC_REGISTRY
from host_tools import basicsr_log, run_python

from cir_host import metric_guards, patches
from cir_host.errors import UndefinedMetric


def noise(height, width, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def measure(metric, first, second, **options):
    """As a validation does."""
    options = {"type": f"calculate_{metric}", "crop_border": 0, **options}
    return metrics.calculate_metric({"img": first, "img2": second}, options)


def test_equal_images_count_as_100_db_and_one_line_says_so():
    image = noise(16, 16)
    originals = patches.original("basicsr.utils.registry:METRIC_REGISTRY._obj_map")
    if not math.isinf(originals["calculate_psnr"](image, image, crop_border=0)):
        pytest.skip("mended upstream")
    metric_guards._tell_of_identical_images.cache_clear()
    with basicsr_log() as log:
        assert measure("psnr", image, image) == 100.0
        assert metrics.calculate_psnr(image, image, 0, test_y_channel=True) == 100.0
    assert len(log) == 1
    assert "100 dB" in log[0]


@pytest.mark.parametrize("metric", ["psnr", "ssim"])
@pytest.mark.parametrize("options", [{}, {"test_y_channel": True}, {"crop_border": 3}])
def test_other_figures_stay_what_they_were(metric, options):
    first, second = noise(24, 20), noise(24, 20, seed=1)
    originals = patches.original("basicsr.utils.registry:METRIC_REGISTRY._obj_map")
    expected = originals[f"calculate_{metric}"](first, second, **{"crop_border": 0, **options})
    assert measure(metric, first, second, **options) == expected


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((10, 40), {}),
        ((40, 10), {}),
        ((18, 40), {"crop_border": 4}),
        ((10, 40), {"input_order": "CHW"}),
    ],
)
def test_ssim_of_small_images_is_undefined(size, options):
    first, second = noise(*size), noise(*size, seed=1)
    if options.get("input_order") == "CHW":
        first, second = first.transpose(2, 0, 1), second.transpose(2, 0, 1)
    with pytest.raises(UndefinedMetric, match=rf"^SSIM needs .* 11x11 .*{size[1]}x{size[0]}"):
        measure("ssim", first, second, **options)


def test_ssim_of_the_smallest_image_is_defined():
    image = noise(11, 11)
    assert measure("ssim", image, image) == pytest.approx(1)
    assert METRIC_REGISTRY.get("calculate_ssim_pt")(
        torch.rand(2, 3, 11, 30), torch.rand(2, 3, 11, 30), crop_border=0
    ).shape == (2,)


def test_metrics_of_tensors_are_guarded_too():
    batch = torch.rand(1, 3, 10, 40)
    with pytest.raises(UndefinedMetric, match="40x10"):
        METRIC_REGISTRY.get("calculate_ssim_pt")(batch, batch, crop_border=0)
    assert METRIC_REGISTRY.get("calculate_psnr_pt")(batch, batch, crop_border=0).shape == (1,)


def test_nothing_left_inside_the_border_is_undefined():
    image = noise(8, 8)
    with pytest.raises(UndefinedMetric, match=r"PSNR needs .* 8x8 less a border of 4"):
        measure("psnr", image, image, crop_border=4)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (noise(45, 200), "at least 96x96"),
        (noise(96, 191), "two blocks of 96x96"),
        (np.full((96, 192, 3), 90, np.uint8), "too flat"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_niqe_without_a_value_says_why(image, reason):
    with pytest.raises(UndefinedMetric, match=f"^NIQE .*{reason}"):
        metrics.calculate_metric({"img": image}, {"type": "calculate_niqe", "crop_border": 0})


def test_registry_and_module_hold_the_same_guards():
    for name in metrics.__all__:
        assert getattr(metrics, name) is METRIC_REGISTRY.get(name)


WITHOUT_SCIPY_S_FILTERS = """
import sys
from importlib.machinery import PathFinder
import scipy.ndimage  # today's own package still imports the module

del sys.modules["scipy.ndimage.filters"]

class WithoutFilters(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = name == "scipy.ndimage.filters"
        return None if missing else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutFilters
{first}
import basicsr.metrics, numpy
image = numpy.random.default_rng(0).integers(0, 256, (96, 192, 3)).astype("uint8")
print(basicsr.metrics.calculate_niqe(image, 0))
"""


def test_niqe_works_where_scipy_has_dropped_its_old_module(tmp_path):
    """The stand-in for torchvision's module is supplied in both, so that SciPy's alone decides."""
    done = run_python(["-c", WITHOUT_SCIPY_S_FILTERS.format(first="import cir_host")], tmp_path)
    assert float(done.stdout) > 0
    only_torchvision = (
        "import torchvision.transforms.functional as f\n"
        "sys.modules['torchvision.transforms.functional_tensor'] = f"
    )
    alone = run_python(
        ["-c", WITHOUT_SCIPY_S_FILTERS.format(first=only_torchvision)], tmp_path, check=False
    )
    if alone.returncode == 0:
        pytest.skip("mended upstream")
    assert "scipy.ndimage.filters" in alone.stderr
