"""The documents say what the code does: patches, networks, flags, files."""

import re
from pathlib import Path

import pytest
import yaml
from basicsr.utils.registry import ARCH_REGISTRY
from PIL import Image

from cir_arch.network import entries
from cir_cli import models, restore
from cir_cli.models import markdown
from cir_cli.options_files import shipped
from cir_host.patches import PATCHES, table

ROOT = Path(__file__).resolve().parents[2]

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


def test_the_table_of_networks_is_the_one_in_the_code(capsys):
    """The example of CONTRIBUTING.md is not in it."""
    printed = markdown([entry for entry in entries() if entry.package != "example_network"])
    assert printed in text_of("docs/networks.md"), "put in `basicsr models --markdown`"
    models.run(["--markdown"])
    assert set(printed.splitlines()) <= set(capsys.readouterr().out.splitlines())


def systems_of_the_papers():
    """The rows of the section: system, network, options files, remarks."""
    section = text_of("docs/networks.md").partition("## The systems of the papers\n")[2]
    section = re.split(r"^## ", section, flags=re.MULTILINE)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    return [row for row in rows if row[0] != "system" and not row[0].startswith("---")]


@pytest.mark.parametrize("row", systems_of_the_papers(), ids=lambda row: row[0])
def test_a_system_of_the_papers_exists_as_its_row_says(row):
    """Its networks are registered, its options files are shipped and train one of them."""
    _, networks, files, remarks = row
    names = re.findall(r"`(\w+)`", networks)
    recipes = re.findall(r"`(\w+\.yml)`", files)
    assert (networks == "–") == (not names)
    assert (files == "–") == (not recipes)
    assert all(name in ARCH_REGISTRY for name in names)
    assert set(recipes) <= shipped().keys()
    for recipe in recipes:
        section = yaml.safe_load(shipped()[recipe].read_text(encoding="utf-8"))["network_g"]
        assert section["type"] in names, recipe
    assert remarks


def test_every_network_belongs_to_a_system_of_the_papers():
    named = {name for row in systems_of_the_papers() for name in re.findall(r"`(\w+)`", str(row))}
    ours = {entry.name for entry in entries() if entry.package != "example_network"}
    assert ours - named == {"Identity", "CaVEQuality"}


def test_the_example_of_contributing_is_the_one_that_the_tests_run():
    contributing = text_of("CONTRIBUTING.md")
    example = (ROOT / "tests" / "example_network.py").read_text(encoding="utf-8")
    assert f"```python\n{example}```" in contributing


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


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```", text_of("README.md"), re.MULTILINE | re.DOTALL)
    Image.radial_gradient("L").resize((24, 16)).convert("RGB").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    with Image.open("restored.png") as restored:
        assert (restored.mode, restored.size) == ("RGB", (24, 16))


def test_every_page_is_found_from_the_readme():
    linked = {
        (ROOT / link).resolve() for link in re.findall(r"\]\(([^)#:]+)", text_of("README.md"))
    }
    pages = {path.resolve() for path in (ROOT / "docs").glob("*.md")}
    assert pages <= linked
