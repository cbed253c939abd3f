"""The README says what the code does: patches, networks, files."""

import re
from pathlib import Path

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY

import cir_arch  # noqa: F401
from cir_cli.options_files import shipped
from cir_host.patches import PATCHES, table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_patches_is_the_one_in_the_code():
    assert table() in README, "print cir_host.patches.table() into the README"
    assert all(f"`{patch.target.removeprefix('basicsr.')}`" in table() for patch in PATCHES)


def test_networks_of_the_table_are_the_registered_ones_with_their_sizes():
    rows = dict(re.findall(r"^\| `(\w+)` \|.*?\| ([\d,]+) \|", README, re.MULTILINE))
    ours = {name for name, cls in ARCH_REGISTRY if cls.__module__.startswith("cir_arch.")}
    assert set(rows) == ours
    for name, count in rows.items():
        with torch.device("meta"):
            network = build_network({"type": name})
        assert sum(p.numel() for p in network.parameters()) == int(count.replace(",", ""))


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_files_that_it_names_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
    for name in re.findall(r"-opt ([\w/.]+\.yml)", text):
        assert name in {*shipped(), "mine.yml", "NAME.yml"}, name
