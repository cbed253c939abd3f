"""Lookups in BasicSR's registries: names that are not there."""

from pathlib import Path

import basicsr
import pytest
from basicsr.utils.registry import ARCH_REGISTRY, Registry

from cir_host import patches
from cir_host.errors import OptionsError
from cir_host.lookup import look_up, near


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("SRVGGNetCompct", "SRVGGNetCompact"), ("swinir", "SwinIR"), ("RRDBnet", "RRDBNet")],
)
def test_a_wrong_name_is_answered_with_the_near_ones(wrong, right):
    with pytest.raises(OptionsError) as caught:
        ARCH_REGISTRY.get(wrong)
    assert isinstance(caught.value, KeyError)  # which callers of BasicSR may expect
    message = str(caught.value)
    assert message.startswith(f"no '{wrong}' in BasicSR's arch registry; did you mean")
    assert f'"{right}"' in message
    assert str(Path(basicsr.__file__).parent) in message


def test_basicsr_itself_names_none(capsys):
    get = patches.original("basicsr.utils.registry:Registry.get")
    with pytest.raises(KeyError) as caught:
        get(ARCH_REGISTRY, "SRVGGNetCompct")
    if "SRVGGNetCompact" in str(caught.value):
        pytest.skip("mended upstream")
    assert "use name: SRVGGNetCompct_basicsr" in capsys.readouterr().out


def test_the_suffixed_name_is_found_quietly(capsys):
    registry = Registry("arch")
    registry.register(Path, suffix="basicsr")
    assert registry.get("Path") is Path
    assert capsys.readouterr().out == ""


def test_a_lookup_for_the_options_names_the_key():
    with pytest.raises(OptionsError, match=r"^network_g\.type: no 'SwnIR' .*\"SwinIR\""):
        look_up(ARCH_REGISTRY, "SwnIR", "network_g.type")
    with pytest.raises(OptionsError, match=r"^network_g\.type: no None"):
        look_up(ARCH_REGISTRY, None, "network_g.type")


def test_far_names_are_not_suggested():
    assert near("ema_deacy", ["ema_decay", "print_freq"]) == '; did you mean "ema_decay"?'
    assert near("colour_space", ["ema_decay", "print_freq"]) == ""
