"""The documents say what the code does: patches, networks, flags, files."""

import re
from pathlib import Path

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY

import cir_arch  # noqa: F401
from cir_cli import restore
from cir_cli.options_files import shipped
from cir_host.patches import PATCHES, table

ROOT = Path(__file__).resolve().parents[1]

DOCUMENTS = [
    path.relative_to(ROOT).as_posix()
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "cir_weights/*.md",
        "options/*.md",
        "experiments/pretrained_models/*.md",
        "benchmarks/results/*.md",
    )
    for path in sorted(ROOT.glob(pattern))
]


def text_of(document):
    return (ROOT / document).read_text(encoding="utf-8")


def anchors(text):
    """Those that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_table_of_patches_is_the_one_in_the_code():
    page = "docs/basicsr_patches.md"
    assert table() in text_of(page), f"print cir_host.patches.table() into {page}"
    assert all(f"`{patch.target.removeprefix('basicsr.')}`" in table() for patch in PATCHES)


def test_networks_of_the_table_are_the_registered_ones_with_their_sizes():
    page = text_of("docs/networks.md")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*?\| ([\d,]+) \|", page, re.MULTILINE))
    ours = {name for name, cls in ARCH_REGISTRY if cls.__module__.startswith("cir_arch.")}
    assert set(rows) == ours
    for name, count in rows.items():
        with torch.device("meta"):
            network = build_network({"type": name})
        assert sum(p.numel() for p in network.parameters()) == int(count.replace(",", ""))


def test_the_page_on_restoring_names_every_flag(capsys):
    with pytest.raises(SystemExit):
        restore.run(["--help"])
    flags = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    written = set(re.findall(r"--[a-z][a-z-]+", text_of("docs/restoring.md")))
    assert flags - written <= {"--output", "--model"}, "which stand there as -o and -m"
    assert written <= flags


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_it_refers_to_exists(document):
    text = text_of(document)
    folder = (ROOT / document).parent
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)]*)\)", text):
        target = folder / link if link else ROOT / document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{link}#{anchor}"
    for name in re.findall(r"-opt ([\w/.]+\.yml)", text):
        assert name in {*shipped(), "mine.yml", "NAME.yml"}, name


def test_every_page_is_found_from_the_readme():
    linked = {
        (ROOT / link).resolve() for link in re.findall(r"\]\(([^)#:]+)", text_of("README.md"))
    }
    pages = {path.resolve() for path in (ROOT / "docs").glob("*.md")}
    assert pages <= linked
