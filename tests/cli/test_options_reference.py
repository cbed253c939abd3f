"""The reference of all options and the JSON schema, made from what checks them."""

import json
from pathlib import Path

import jsonschema
import pytest
from command_tools import train_options

from cir_cli import main
from cir_cli.options_reference import reference, schema_text

PAGE = Path(__file__).resolve().parents[2] / "docs/options.md"


def test_the_page_is_the_one_that_the_code_prints():
    assert PAGE.read_text(encoding="utf-8") == reference(), "basicsr options > docs/options.md"


@pytest.fixture(scope="module")
def schema():
    loaded = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(loaded)
    return jsonschema.Draft202012Validator(loaded)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("train__amp", "half"),
        ("train__acum_iter", 2),
        ("train__optim_g", {"type": "AdamW"}),
        ("datasets__train__quality", "high"),
        ("datasets__val__gt_sise", 4),
        ("logger__keep_checkpoints", 0),
        ("num_gpu", "all"),
    ],
)
def test_what_a_run_refuses_the_schema_refuses(schema, place, value):
    assert schema.is_valid(train_options())
    assert not schema.is_valid(train_options(**{place: value}))
    # what other models read is their own business
    assert schema.is_valid(train_options(model_type="SRModel", train__acum_iter=2))


def test_the_command_prints_both(capsys):
    assert main.main(["options"]) == 0
    assert capsys.readouterr().out == reference()
    assert main.main(["options", "--schema"]) == 0
    assert capsys.readouterr().out == schema_text()
