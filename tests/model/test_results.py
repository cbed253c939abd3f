"""The results files: means, history, missing values."""

import csv
import json
import math
from dataclasses import replace

import pytest

from cir_model.measuring.record import Measurement
from cir_model.measuring.validation_files import DataSetResult, markdown_table, write_results


def record(image, given, restored):
    scores = {"psnr": {"input": given, "output": restored, "gain": restored - given}}
    return Measurement("", image, scores, {"quality": 10, "codec": "JPEG"})


def result(name="LIVE1_q10", iteration=100, *records):
    of_set = [replace(record, data_set=name, iteration=iteration) for record in records]
    return DataSetResult(name, iteration, {"colour": "RGB"}, of_set)


def test_means_and_files(tmp_path):
    live = result("LIVE1_q10", "test", record("a.png", 20.0, 22.0), record("b, c.png", 30.0, 31.0))
    write_results(tmp_path, {"name": "run"}, [live], ["psnr"])
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open(encoding="utf-8")))
    assert [r["image"] for r in rows] == ["a.png", "b, c.png", "mean"]
    assert rows[0]["quality"] == "10"
    assert float(rows[2]["psnr_gain"]) == pytest.approx(1.5)
    stored = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert stored["data_sets"]["LIVE1_q10"]["mean"]["psnr"] == {
        "input": 25.0,
        "output": 26.5,
        "gain": 1.5,
    }
    assert stored["data_sets"]["LIVE1_q10"]["protocol"] == {"colour": "RGB"}
    assert "| LIVE1_q10 | 2 | 25.0000 / 26.5000 / +1.5000 |" in (tmp_path / "metrics.md").read_text(
        encoding="utf-8"
    )


def test_csv_keeps_earlier_iterations_and_replaces_repeated_ones(tmp_path):
    for iteration, value in ((100, 21.0), (200, 22.0), (100, 23.0)):
        write_results(tmp_path, {}, [result("A", iteration, record("a", 20.0, value))], ["psnr"])
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open(encoding="utf-8")))
    outputs = {r["iteration"]: float(r["psnr_output"]) for r in rows if r["image"] == "mean"}
    assert outputs == {"200": 22.0, "100": 23.0}
    assert len(rows) == 4


def test_an_image_without_a_value_is_left_out_of_the_mean_and_named():
    partial = result("A", 1, record("a", 20.0, 22.0), Measurement("A", "tiny", {"psnr": {}}))
    assert partial.mean("psnr", "output") == 22.0
    assert partial.undefined("psnr") == ["tiny"]
    assert math.isnan(partial.mean("ssim", "output"))
    table = markdown_table([partial], ["psnr", "ssim"])
    assert "– / – / –" in table
