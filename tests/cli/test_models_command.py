"""``basicsr models``: all networks, and what a file holds."""

import json
import os
import re
import zipfile

import pytest
import torch
import yaml
from basicsr.archs import build_network
from safetensors.torch import save_file
from small_networks import SMALL
from torch.utils.flop_counter import FlopCounterMode

from cir_arch.network import entries
from cir_arch.recognition import NetworkOptions
from cir_arch.running import facts_of, run
from cir_cli.main import main


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_multiplications_are_as_stated(entry):
    network = NetworkOptions(entry.name, entry.published).outline().eval()
    facts = facts_of(network)
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad(), counter:
        run(network, torch.empty(1, facts.in_channels, 128, 128))
    assert entry.gmacs == pytest.approx(counter.get_total_flops() / 2e9, rel=0.002)


def test_multiplications_of_attention_are_counted():
    """By hand: one layer of attention, 32 channels of a 4 x 4 map in 2 x 2 windows."""
    network = NetworkOptions("SCUNet", {"dim": 8, "head_dim": 2, "window_size": 2}).outline()
    msa = network.m_body[0].trans_block.msa
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad(), counter:
        msa(torch.empty(1, 4, 4, 32))
    tokens, channels, window = 16, 32, 4
    assert counter.get_total_flops() == 2 * tokens * channels * (4 * channels + 2 * window)


def test_the_table_names_every_network_and_where_its_weights_are(capsys):
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    lines = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    assert lines["UCIP"].split()[:3] == ["UCIP", "11,424,291", "196.4"]
    assert "any, padded to 7" in lines["SwinIR"]
    assert "x4" in lines["HAT"]
    assert "codiff.pkl" in lines["CODiff,"]
    for entry in entries():
        assert entry.name in lines


def test_published_weights_of_every_network(capsys):
    """File, container, licence and what it was trained for; a network without any says so."""
    assert main(["models"]) == 0
    table, _, published = capsys.readouterr().out.partition("Published weights")
    assert "UCIP" in table
    lines = published.splitlines()
    for entry in entries():
        for weights in entry.weights:
            (line,) = (line for line in lines if line.startswith(f"  {entry.name}: {weights.file}"))
            assert f"({weights.container}; {weights.licence}), for {weights.trained_for}" in line
            assert weights.trained_for
            assert f"    {weights.link}" in lines
    assert "  GRL: none" in lines
    assert "  HFT: none" in lines
    assert not any(line.startswith("  Identity") for line in lines)  # which has no weights at all
    named = {line.split(":")[0].strip() for line in lines if re.match(r"  \w", line)}
    apart = "CODiff, a diffusion model (docs/diffusion.md)"  # no network of the table
    assert named == {entry.name for entry in entries()} - {"Identity"} | {apart}


def saved(folder, name="UCIP"):
    network = build_network({"type": name, **SMALL[name]})
    state = network.state_dict()
    wrapped = {f"module.{key}": value for key, value in state.items()}
    torch.save({"params": wrapped, "params_ema": state}, folder / "net.pth")
    return network, folder / "net.pth"


def test_what_a_file_holds_is_a_section_to_paste(tmp_path, capsys):
    network, path = saved(tmp_path)
    assert main(["models", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "params_ema (also there: params)" in shown
    assert "172 of 172 tensors" in shown
    section = yaml.safe_load(shown[shown.index("network_g:") :])["network_g"]
    assert build_network(section).facts == network.facts


def test_json_for_programs(tmp_path, capsys):
    network, path = saved(tmp_path)
    assert main(["models", str(path), "--key", "params", "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert (held["container"], held["keys"]) == ("zip", ["params", "params_ema"])
    assert (held["key"], held["prefix"], held["dtypes"]) == ("params", "module.", ["float32"])
    assert held["parameters"] == sum(p.numel() for p in network.parameters())
    assert held["network_g"]["type"] == "UCIP"
    assert held["facts"]["scale"] == 4


def test_a_file_of_an_unknown_or_impossible_network_is_shown_all_the_same(tmp_path, capsys):
    torch.save({"stem": torch.zeros(2, 3)}, tmp_path / "net.pth")
    assert main(["models", str(tmp_path / "net.pth")]) == 0
    shown = capsys.readouterr().out
    assert "network:      unknown" in shown
    assert "1 of 6 numbers" in shown
    section = json.dumps({"type": "Another", "width": 8})
    save_file({"stem": torch.zeros(2, 3)}, tmp_path / "net.safetensors", {"network_g": section})
    assert main(["models", str(tmp_path / "net.safetensors")]) == 0
    assert "Another, which cannot be built here" in capsys.readouterr().out


def test_a_file_that_lacks_tensors_says_so(tmp_path, capsys):
    network, path = saved(tmp_path)
    state = network.state_dict()
    state.pop("conv_hr.bias")
    torch.save(state, path)
    assert main(["models", str(path)]) == 0
    assert "1 missing (conv_hr.bias)" in capsys.readouterr().out


def test_weights_that_are_not_finite_are_described_and_named(tmp_path, capsys):
    network, path = saved(tmp_path)
    state = network.state_dict()
    state["conv_hr.bias"][0] = float("inf")
    torch.save(state, path)
    assert main(["models", str(path)]) == 0
    shown = capsys.readouterr().out
    assert (
        "1 of 172 tensors hold NaN or infinity (first conv_hr.bias): the file is damaged" in shown
    )
    assert "UCIP, 172 of 172 tensors" in shown
    assert main(["models", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["not_finite"] == ["conv_hr.bias"]


def test_a_zipped_checkpoint_of_any_name_is_described(tmp_path, capsys):
    _, path = saved(tmp_path)
    archive = tmp_path / os.fsdecode(b"caf\xe9\n.zip")
    with zipfile.ZipFile(archive, "w") as file:
        file.write(path, "net.pth")
    assert main(["models", str(archive)]) == 0
    shown = capsys.readouterr().out
    assert "caf\\udce9\\n.zip\n" in shown
    assert "of net.pth" in shown
    assert "172 of 172 tensors" in shown
    assert main(["models", str(archive), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["member"] == "net.pth"


def test_no_checkpoint_is_one_line(tmp_path, capsys):
    assert main(["models", str(tmp_path / "net.pth")]) == 2
    assert capsys.readouterr().err.endswith("net.pth: no such file\n")
