"""BasicSR can be imported, also by workers that are spawned."""

import importlib.util
import sys
import warnings

import pytest
from host_tools import paired, run_python, write_pairs

from cir_host import compat


def test_basicsr_without_us_is_the_defect_that_the_stand_in_mends(tmp_path):
    alone = run_python(["-c", "import basicsr"], tmp_path, check=False)
    if alone.returncode == 0:
        pytest.skip("mended upstream: this BasicSR imports with this torchvision")
    assert "torchvision.transforms.functional_tensor" in alone.stderr
    from basicsr.data.degradations import rgb_to_grayscale
    from torchvision.transforms.functional import rgb_to_grayscale as current

    assert rgb_to_grayscale is current


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torchvision.transforms.functional_tensor", "rgb_to_grayscale"),
        ("scipy.ndimage.filters", "convolve"),
    ],
)
def test_a_removed_module_is_supplied(monkeypatch, module, name):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(compat, "find_spec", lambda m: None if m == module else find_spec(m))
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, module)  # the line above restores what was there
    compat.supply_missing_modules()
    assert callable(getattr(importlib.import_module(module), name))


def test_a_module_that_exists_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "cir_present", compat)
    compat._stand_in("cir_present", "json")
    assert sys.modules["cir_present"] is compat
    compat._stand_in("json.decoder", "json")
    assert sys.modules["json.decoder"].__file__


PATIENT = """
import warnings
from cir_cli.main import main
assert warnings.filters[0][0] == "error"
raise SystemExit(main(["models"]))
"""


def test_warnings_of_other_packages_are_no_errors(tmp_path):
    """PYTHONWARNINGS=error, which stays in force for the importing program."""
    done = run_python(["-W", "error", "-c", PATIENT], tmp_path)
    assert "PromptCIR" in done.stdout


def test_filters_that_packages_set_are_kept():
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with compat.warnings_stay_warnings():
            warnings.filterwarnings("ignore", "of a package")
        assert warnings.filters[0][0] == "ignore"


PROBE = """
from basicsr.utils.registry import DATASET_REGISTRY
from cir_host.registration import register

@register(DATASET_REGISTRY)
class SpawnProbe:
    pass

def collate(samples):
    names = [name for name in DATASET_REGISTRY.keys() if "SpawnProbe" in name]
    return samples[0]["lq"].shape, names
"""

SPAWN = """
import cir_host
from basicsr.data import build_dataloader, build_dataset
from torch.utils.data import DataLoader
import cir_probe
dataset = build_dataset({options})
build_dataloader(dataset, dataset.opt)
loader = DataLoader(
    dataset, num_workers=1, multiprocessing_context="spawn", collate_fn=cir_probe.collate
)
print(*next(iter(loader)))
"""


def test_spawned_workers_import_and_register(tmp_path):
    """The main code is a string, which a spawned worker cannot import again."""
    write_pairs(tmp_path, train=0, val=1)
    (tmp_path / "cir_probe.py").write_text(PROBE)
    options = paired(tmp_path, "val", phase="val", scale=1)
    done = run_python(["-c", SPAWN.format(options=options)], tmp_path)
    assert done.stdout.endswith("torch.Size([3, 24, 32]) ['SpawnProbe']\n")
    assert "belongs to" not in done.stderr


FIRST = """
import cir_host.{module}
from basicsr.utils.registry import ARCH_REGISTRY, Registry
from cir_host import patches
assert Registry.get is not patches.original("basicsr.utils.registry:Registry.get")
import cir_arch
assert ARCH_REGISTRY.get("Identity") is cir_arch.Identity
"""


@pytest.mark.parametrize("module", ["patches", "progress"])
def test_a_module_of_ours_that_needs_basicsr_can_be_imported_first(module, tmp_path):
    """BasicSR is patched after the module, since its patches need that module whole."""
    run_python(["-c", FIRST.format(module=module)], tmp_path)
