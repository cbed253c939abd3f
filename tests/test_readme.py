"""The README says what the code does: patches, networks, files."""

import re
from pathlib import Path

import pytest

from cir_arch.network import entries
from cir_cli import models
from cir_cli.models import markdown
from cir_cli.options_files import shipped
from cir_host.patches import PATCHES, table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_patches_is_the_one_in_the_code():
    assert table() in README, "print cir_host.patches.table() into the README"
    assert all(f"`{patch.target.removeprefix('basicsr.')}`" in table() for patch in PATCHES)


def test_the_table_of_networks_is_the_one_in_the_code(capsys):
    """It stands in one of the documents; the example of CONTRIBUTING.md is not in it."""
    printed = markdown([entry for entry in entries() if entry.package != "example_network"])
    documents = [README, *(file.read_text("utf-8") for file in (ROOT / "docs").glob("*.md"))]
    assert sum(printed in text for text in documents) == 1, "put in `basicsr models --markdown`"
    models.run(["--markdown"])
    assert set(printed.splitlines()) <= set(capsys.readouterr().out.splitlines())


def test_the_example_of_contributing_is_the_one_that_the_tests_run():
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    example = (ROOT / "tests" / "example_network.py").read_text(encoding="utf-8")
    assert f"```python\n{example}```" in contributing


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_files_that_it_names_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
    for name in re.findall(r"-opt ([\w/.]+\.yml)", text):
        assert name in {*shipped(), "mine.yml", "NAME.yml"}, name
