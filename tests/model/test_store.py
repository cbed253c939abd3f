"""The store of measurements: the same bytes again, damaged and foreign rows, several processes."""

import logging
from multiprocessing import get_context
from pathlib import Path

import pytest

from cir_cli.results_page import write_page
from cir_host.errors import UserError
from cir_model.measuring.protocol import COLUMNS, LISTS, TEST_SETS, store_at
from cir_model.measuring.provenance import read_provenance
from cir_model.measuring.record import Measurement
from cir_model.measuring.store import Columns, Store
from cir_model.measuring.validation_files import DataSetResult, columns, read_means, write_results

RESULTS = Path(__file__).resolve().parents[2] / "docs/results/promptcir_s_x1"


def published(tmp_path):
    """A copy of the published results."""
    for ending in ("csv", "json"):
        name = f"promptcir_s_x1.{ending}"
        (tmp_path / name).write_bytes((RESULTS / name).read_bytes())
    return store_at(tmp_path / "promptcir_s_x1.csv")


def record(image="a.png", psnr=30.0, **facts):
    scores = {"psnr": {"input": psnr, "output": psnr + 1, "gain": 1.0}}
    return Measurement(**{"data_set": "LIVE1", "image": image, "scores": scores, **facts})


def result(iteration, *records):
    return DataSetResult("LIVE1", iteration, {}, list(records))


def test_the_published_results_are_written_as_the_same_bytes(tmp_path):
    store = published(tmp_path)
    csv_bytes, json_bytes = store.path.read_bytes(), store.facts_path.read_bytes()
    records = store.read()
    store.tidy()
    assert store.path.read_bytes() == csv_bytes
    store.write_facts(store.facts)
    assert store.facts_path.read_bytes() == json_bytes
    store.path.unlink()
    store.begin(store.facts, ())
    for measured in records:
        store.append(measured)
    assert store.path.read_bytes() == csv_bytes
    assert read_provenance(store).parameters == 1461876


def test_the_published_page_is_written_as_the_same_bytes(tmp_path):
    pytest.importorskip("matplotlib")
    write_page(published(tmp_path), tmp_path / "RESULTS.md")
    assert (tmp_path / "RESULTS.md").read_bytes() == (RESULTS / "RESULTS.md").read_bytes()


def test_a_validation_is_read_and_written_as_the_same_bytes(tmp_path):
    made_by = {"quality": 10, "subsampling": "4:2:0", "codec": "JPEG (Pillow, libjpeg)"}
    undefined = Measurement("LIVE1", "tiny, 2.png", {"psnr": {}}, iteration=100)
    records = [record(made_by=made_by, iteration=100), undefined]
    write_results(tmp_path, {}, [result(100, *records)], ["psnr"])
    path = tmp_path / "metrics.csv"
    text = path.read_text()
    assert text == (
        "data_set,iteration,image,quality,subsampling,codec,psnr_input,psnr_output,psnr_gain\n"
        'LIVE1,100,a.png,10,4:2:0,"JPEG (Pillow, libjpeg)",30.000000,31.000000,1.000000\n'
        'LIVE1,100,"tiny, 2.png",,,,,,\n'
        "LIVE1,100,mean,,,,30.000000,31.000000,1.000000\n"
    )
    store = Store(path, columns(["psnr"]))
    assert [found.scores["psnr"].get("gain") for found in store.read()] == [1.0, None, 1.0]
    store.tidy()
    assert path.read_text() == text


def test_earlier_rows_stay_as_they_are(tmp_path):
    """Also numbers that a spreadsheet wrote in another way."""
    path = tmp_path / "metrics.csv"
    write_results(tmp_path, {}, [result(100, record(iteration=100))], ["psnr"])
    edited = path.read_text().replace("30.000000", "30,1").replace(",30,1,", ',"30,1",')
    path.write_text(edited)
    write_results(tmp_path, {}, [result(200, record(iteration=200))], ["psnr"])
    assert path.read_text().startswith(edited)
    assert path.read_text().count("\n") == edited.count("\n") + 2


def test_means_of_the_last_validation(tmp_path):
    assert read_means(tmp_path) == {}
    write_results(tmp_path, {"name": "run"}, [result(1, record(iteration=1))], ["psnr"])
    assert read_means(tmp_path) == {"LIVE1": {"psnr": {"input": 30, "output": 31, "gain": 1}}}
    for damaged in ("[]", "{", "{}", '{"data_sets": {"A": 1}}'):
        (tmp_path / "metrics.json").write_text(damaged)
        with pytest.raises(UserError, match=r"metrics\.json: "):
            read_means(tmp_path)


def test_a_file_that_is_no_csv_file_is_one_line(tmp_path):
    (tmp_path / "metrics.csv").write_text("data_set\n" + "x" * 200_000)
    with pytest.raises(UserError, match=r"metrics\.csv: no CSV file \(field larger"):
        write_results(tmp_path, {}, [result(1, record(iteration=1))], ["psnr"])


def test_incomplete_rows_are_counted_and_foreign_rows_stay(tmp_path, caplog):
    store = store_at(tmp_path / "net.csv")
    store.begin({}, ())
    for name, recipe in (("Mine", "q10"), ("LIVE1", "q7"), ("LIVE1", "q5")):
        store.append(record(data_set=name, made_by={"input": recipe}, height=8, width=8, seconds=1))
    complete = store.path.read_text().splitlines()[1]
    with store.path.open("a") as file:
        file.write(f"LIVE1,q5\n{complete.replace('30.0', '3O.0')}\n{complete},1\n")
    with caplog.at_level(logging.WARNING, "basicsr"):
        records = [(r.data_set, r.made_by["input"]) for r in store.read()]
        store.read()
    assert records == [("LIVE1", "q5"), ("LIVE1", "q7"), ("Mine", "q10")]
    warning = f"{store.path}: 3 incomplete rows are left out."
    assert [entry.getMessage() for entry in caplog.records] == [warning]


def append_many(path, process):
    store = store_at(path)
    store.begin({"sha256": 1}, ("sha256",))
    for number in range(100):
        store.append(record(f"{process}_{number}", made_by={"input": "q10"}))


def test_several_processes_share_a_file(tmp_path):
    path = tmp_path / "new/net.csv"
    fork = get_context("fork")
    processes = [fork.Process(target=append_many, args=(path, i)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert {r.image for r in store_at(path).read()} == {
        f"{process}_{number}" for process in range(4) for number in range(100)
    }


def test_damaged_facts_are_one_line(tmp_path):
    store = published(tmp_path)
    store.facts_path.write_text("[]")
    with pytest.raises(UserError, match=r"promptcir_s_x1\.json: holds no JSON object"):
        read_provenance(store)
    store.facts_path.write_text('{"weights": "net"}')
    with pytest.raises(UserError, match=r"promptcir_s_x1\.json: .*`sha256`"):
        read_provenance(store)


def test_of_two_records_of_one_image_the_later_one_counts(tmp_path):
    names = ("data_set", "image")
    only = Columns({name: name for name in names}, names, ("psnr",), ("output",), decimals=1)
    store = Store(tmp_path / "scores.csv", only)
    store.begin({}, ())
    store.append(record(psnr=20.0))
    store.append(record(psnr=29.0))
    assert [found.scores["psnr"]["output"] for found in store.read()] == [30.0]
    store.tidy()
    assert store.path.read_text() == "data_set,image,psnr_output\nLIVE1,a.png,30.0\n"


def test_the_lists_of_test_sets_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = [s.options["meta_info_file"] for s in TEST_SETS if "meta_info_file" in s.options]
    assert listed
    assert all((LISTS / name).is_file() for name in listed)
    assert COLUMNS.names[:3] == ("set", "input", "image")
