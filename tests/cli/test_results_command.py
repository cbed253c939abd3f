"""``basicsr results``: what is measured, resuming, and the page."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from basicsr.archs import build_network
from command_tools import photographs
from name_tools import not_utf8
from PIL import Image

from cir_cli import main, results
from cir_cli.results_page import fill, write_page
from cir_host.errors import UserError
from cir_model.measuring import protocol, runner
from cir_model.measuring.protocol import COLUMNS, store_at
from cir_model.measuring.provenance import facts_of_run
from cir_model.measuring.runner import measure, plan
from cir_model.restoring.inference import Restorer
from cir_model.restoring.settings import InferenceOptions
from cir_weights import path_of


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Small test sets: three photographs, one of them grey, and one held out."""
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "datasets/LIVE1", size=48)
    photographs(tmp_path / "datasets/train", ("coffee", "chelsea"), size=48)
    grey = tmp_path / "datasets/Classic5/grey.png"
    grey.parent.mkdir()
    Image.open(tmp_path / "datasets/LIVE1/chelsea.png").convert("L").save(grey)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/photographs_val.txt").write_text("coffee.png (48,48,3)\n")
    monkeypatch.setattr(protocol, "LISTS", tmp_path / "lists")
    Path("net.pth").write_bytes(b"weights")
    return Path("datasets")


@pytest.fixture
def restorer():
    return Restorer([build_network({"type": "Identity"}).eval()], InferenceOptions())


@pytest.fixture
def few(monkeypatch):
    """The main qualities and two others, which tell as much as all."""
    some = {q: protocol.JPEG_ONCE[q] for q in (*protocol.MAIN_QUALITIES, 45, 95)}
    monkeypatch.setattr(protocol, "JPEG_ONCE", some)


def measured(restorer, data, file="out/net.csv", every=1, part=slice(None)):
    store = store_at(Path(file))
    facts = facts_of_run(Path("net.pth"), restorer)
    measure(restorer, store, list(plan(data, every))[part], facts)
    return store


def scores(store, *key):
    """``scores(metric, kind)`` of the one measurement with a key."""
    (found,) = (r for r in store.read() if (r.data_set, r.made_by["input"], r.image) == key)
    return lambda metric, kind: found.scores[metric].get(kind)


def test_figures_are_those_of_pillow_and_numpy(data, few, restorer):
    """Recomputed without our code: once in colour, once twice compressed on shifted grids."""
    store = measured(restorer, data, every=3)

    def compressed(image, quality):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        return np.array(Image.open(buffer))

    def psnr(image, original):
        return 10 * np.log10(255**2 / np.mean((image.astype(float) - original) ** 2))

    original = np.array(Image.open(data / "LIVE1/coffee.png").convert("RGB"))
    found = scores(store, "LIVE1", "q10", "coffee")
    assert found("psnr", "input") == pytest.approx(psnr(compressed(original, 10), original))
    assert found("psnr", "output") == found("psnr", "input")  # the network changes nothing
    rows, columns = protocol.DOUBLE_SHIFT
    first = compressed(original, 20)[rows:, columns:]
    found = scores(store, "photographs", "q20 shifted q75", "coffee")
    expected = psnr(compressed(first, 75), original[rows:, columns:])
    assert found("psnr", "input") == pytest.approx(expected)
    grey = np.array(Image.open(data / "Classic5/grey.png"))
    found = scores(store, "Classic5", "q40", "grey")
    assert found("psnr", "input") == pytest.approx(psnr(compressed(grey, 40), grey))
    assert found("psnr", "output") == pytest.approx(found("psnr", "input"), abs=0.01)


def test_an_image_of_any_name_is_measured_once(data, few, restorer, monkeypatch):
    odd = not_utf8(data / "LIVE1", b"caf\xe9.png")
    odd.write_bytes((data / "LIVE1/coffee.png").read_bytes())
    name = "x" * 250
    weights = Path(f"{name}.pth")
    weights.write_bytes(b"weights")
    planned = [image for image in plan(data, 1) if image.key[:2] == ("LIVE1", "q10")]
    for _ in range(2):
        store = store_at(Path("out") / f"{name}.csv")
        measure(restorer, store, planned, facts_of_run(weights, restorer))
        monkeypatch.setattr(runner, "_measured", None)  # would fail if it were called
    assert len(store.read()) == 4
    assert scores(store, "LIVE1", "q10", "caf\\udce9")("psnr", "input")


def test_files_that_cannot_be_written_are_one_line(data, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "_measure", full)
    with pytest.raises(UserError, match=r"^out: No space left on device$"):
        results.run(["-o", "out"])
    Path("card.md").write_bytes(b"\xe9")
    with pytest.raises(UserError, match=r"^--fill card\.md: not UTF-8"):
        fill(Path("card.md"), None)


def test_what_is_measured(data):
    found = [image.key for image in plan(data, every=2)]
    assert found[0] == ("LIVE1", "q10", "astronaut")
    assert len(found) == len(set(found))
    by_input = {}
    for test_set, name, _ in found:
        by_input.setdefault(name, []).append(test_set)
    assert by_input["q40"] == ["LIVE1"] * 3 + ["Classic5", "photographs"]
    assert by_input["q45"] == ["LIVE1"] * 2 + ["Classic5", "photographs"]
    assert by_input["clean"] == ["photographs"]
    assert set(by_input) >= {f"q{q}" for q in range(5, 100, 5)}
    assert list(plan(Path("nothing"), 1)) == []


def test_an_interrupted_run_is_resumed_and_shares_make_the_whole(data, few, restorer, monkeypatch):
    whole = measured(restorer, data, "whole/net.csv", every=3).read()
    count = []
    real = runner._measured
    monkeypatch.setattr(runner, "_measured", lambda *a: count.append(1) or real(*a))
    for part in (slice(0, None, 2), slice(0, 20), slice(1, None, 2)):
        store = measured(restorer, data, every=3, part=part)
    assert len(count) == len(whole)
    measured(restorer, data, every=3)
    assert len(count) == len(whole)
    assert store.path.read_text().splitlines()[0] == ",".join(COLUMNS.names)
    assert [replace(r, seconds=0) for r in whole] == [replace(r, seconds=0) for r in store.read()]


def test_a_half_written_row_is_measured_again(data, few, restorer):
    store = measured(restorer, data, every=3)
    text = store.path.read_text()
    store.path.write_text(text[: text.rindex(",coffee") + 9])
    assert len(store.read()) == text.count("\n") - 2
    again = measured(restorer, data, every=3).read()
    assert len(again) == text.count("\n") - 1
    assert {record.height for record in again} == {45, 48}  # 45: shifted


def test_a_damaged_image_does_not_end_the_run(data, few, restorer):
    damaged = data / "LIVE1/chelsea.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(UserError, match=r"^could not measure: .*chelsea\.png.* in out/net\.csv"):
        measured(restorer, data)
    images = {(r.data_set, r.image) for r in store_at(Path("out/net.csv")).read()}
    assert ("photographs", "coffee") in images  # the last set
    assert ("LIVE1", "chelsea") not in images


def test_a_set_without_its_listed_images_is_left_out(data, caplog):
    (data / "train/coffee.png").unlink()
    assert {image.key[0] for image in plan(data, 1)} == {"LIVE1", "Classic5"}
    assert "photographs is left out: " in caplog.text
    assert "coffee" in caplog.text


def test_figures_of_other_weights_are_not_mixed(data, few, restorer):
    measured(restorer, data, every=3)
    Path("net.pth").write_bytes(b"other")
    with pytest.raises(UserError, match=r"out/net\.csv: has figures of another sha256"):
        measured(restorer, data, every=3)


def test_the_command_and_its_page(data, restorer, monkeypatch, capsys):
    monkeypatch.setattr(results, "load_network", lambda path: restorer.networks[0])
    monkeypatch.setattr(results, "SHOWPIECES", results.SHOWPIECES[:1])
    Path("card.md").write_text("# Card\n\n<!-- results -->\nold\n<!-- end -->\n\nafter\n")
    flags = ["-m", "net.pth", "-o", "docs/out", "--every", "2", "--page", "RESULTS.md"]
    assert main.main(["results", *flags, "--shard", "1/2"]) == 0
    assert not Path("RESULTS.md").exists()
    assert main.main(["results", *flags, "--fill", "card.md"]) == 0
    page = Path("RESULTS.md").read_text(encoding="utf-8")
    for link in ("docs/out/net.csv", "docs/out/gain.png", "docs/out/picture_1.webp"):
        assert f"({link})" in page
        assert Path(link).stat().st_size > 100
    rows = list(csv.DictReader(Path("docs/out/net.csv").read_text().splitlines()))
    some = [float(r["psnr_input"]) for r in rows if (r["set"], r["input"]) == ("LIVE1", "q10")]
    assert len(some) == 3
    mean = f"{np.mean(some):.2f}"
    assert f"| 10 | 3 | {mean} / {mean} / +0.00 |" in page
    assert "FBCNN (quoted) | 71.92M | 27.77 / 0.803 / 27.51" in page
    assert "| clean | 1 | – / 100.00 / – | – / 1.0000 / – |" in page
    card = Path("card.md").read_text(encoding="utf-8")
    assert card.startswith("# Card\n\n<!-- results -->\n\n| LIVE1 |")
    assert card.endswith("<!-- end -->\n\nafter\n")
    assert "old" not in card
    before = page
    assert main.main(["results", *flags, "--page-only"]) == 0
    assert Path("RESULTS.md").read_text(encoding="utf-8") == before
    Path("card.md").write_text("no marks")
    with pytest.raises(UserError, match=r"--fill card\.md: has no lines"):
        fill(Path("card.md"), store_at(Path("docs/out/net.csv")))
    assert "LPIPS is left out: " in capsys.readouterr().out


def test_a_page_needs_figures(tmp_path):
    with pytest.raises(UserError, match=r"net\.csv: holds no results"):
        write_page(store_at(tmp_path / "net.csv"), tmp_path / "RESULTS.md")


def test_no_test_sets(data, restorer, monkeypatch, capsys):
    assert main.main(["results", "-m", "net.pth", "--data", "nowhere"]) == 2
    message = "--data nowhere: holds none of the test sets; it needs at least one of the folders"
    assert f"{message} LIVE1, Classic5, Set14, train" in capsys.readouterr().err


def test_bundled_weights_are_measured_by_name(data, monkeypatch):
    asked = []
    monkeypatch.setattr(results, "_measure", lambda options, weights, store: asked.append(weights))
    results.run(["-m", "promptcir_s_x1", "--shard", "1/2"])
    assert asked == [path_of("promptcir_s_x1")]
