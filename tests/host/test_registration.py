"""Names in BasicSR's registries, shared with other packages."""

import importlib
import sys

import pytest
from basicsr.utils.registry import Registry
from host_tools import basicsr_log

from cir_host.registration import register


def define(module, name="Net"):
    return type(name, (), {"__module__": module})


def test_ours_registers_once_and_again_silently():
    registry = Registry("arch")
    first, again = define("cir_arch.net"), define("cir_arch.net")
    with basicsr_log() as log:
        register(registry)(first)
        register(registry)(again)
    assert registry.get("Net") is again
    assert list(registry.keys()) == ["Net"]
    assert log == []


def test_reload_of_a_module_replaces_its_registration(tmp_path, monkeypatch):
    (tmp_path / "cir_reloaded.py").write_text(
        "from basicsr.utils.registry import ARCH_REGISTRY\n"
        "from cir_host.registration import register\n"
        "@register(ARCH_REGISTRY)\n"
        "class ReloadedNet: pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from basicsr.utils.registry import ARCH_REGISTRY

    monkeypatch.setattr(ARCH_REGISTRY, "_obj_map", dict(ARCH_REGISTRY._obj_map))
    try:
        module = importlib.import_module("cir_reloaded")
        with basicsr_log() as log:
            importlib.reload(module)
        assert ARCH_REGISTRY.get("ReloadedNet") is module.ReloadedNet
        assert log == []
    finally:
        sys.modules.pop("cir_reloaded", None)


def test_first_holder_keeps_the_name():
    registry = Registry("arch")
    theirs, ours = define("other.archs"), define("cir_arch.net")
    registry.register(theirs)
    with basicsr_log() as log:
        register(registry)(ours)
        register(registry)(define("cir_arch.net"))
    assert registry.get("Net") is theirs
    assert registry.get("Net_cir").__module__ == "cir_arch.net"
    assert len(log) == 1
    assert all(part in log[0] for part in ("Net", "arch", "other.archs", "Net_cir"))


def test_a_package_after_us_is_imported_under_its_own_name():
    registry = Registry("arch")
    ours, theirs = define("cir_arch.net"), define("other.archs.net")
    register(registry)(ours)
    with basicsr_log() as log:
        assert registry.register()(theirs) is theirs
    assert registry.get("Net") is ours
    assert registry.get("Net_other") is theirs
    assert len(log) == 1
    assert all(part in log[0] for part in ("Net", "arch", "Net_other"))


def test_a_suffixed_name_after_us_is_shared_too():
    registry = Registry("dataset")
    register(registry)(define("cir_data.x", "Pairs_new"))
    registry.register(define("other", "Pairs"), suffix="new")
    assert set(registry.keys()) == {"Pairs_new", "Pairs_new_other"}


def test_others_among_themselves_stay_basicsr_s_business():
    registry = Registry("arch")
    registry.register(define("one"))
    with pytest.raises(AssertionError, match="already registered"):
        registry.register(define("two"))
    register(registry)(define("cir_arch.net", "Ours"))
    registry.register(define("one", "Ours"))
    with pytest.raises(AssertionError, match="already registered"):
        registry.register(define("one", "Ours"))
