"""``basicsr restore`` on real files: what is written, said and returned."""

import io
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from command_tools import LAUNCH, TINY_PROMPTCIR, basicsr, photographs
from PIL import Image
from small_networks import SMALL

from cir_arch import Identity
from cir_cli import main, restore
from cir_data.datasets.sample_fields import to_tensor
from cir_host.files import part_of
from cir_model.restoring.inference import restore_tensor
from cir_model.restoring.pixel_quality import pixel_quality, quality_network


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three JPEGs in folders; the current directory is the one above."""
    monkeypatch.chdir(tmp_path)
    originals = photographs(tmp_path / "originals")
    for index, path in enumerate(sorted(originals.iterdir())):
        folder = tmp_path / "photos" / ("sub" if index else "")
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("RGB").save(folder / f"{path.stem}.jpg", quality=20)
    return tmp_path / "photos"


def run(*arguments):
    return restore.run([*map(str, arguments), "-m", "weights.pth"])


def written(folder="out"):
    return sorted(
        path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()
    )


def test_a_folder_is_restored_by_a_real_network(photos, capsys):
    torch.manual_seed(0)
    network = build_network(dict(TINY_PROMPTCIR)).eval()
    torch.save({"params": network.state_dict()}, "tiny.pth")
    command = ["restore", "photos", "-o", "out", "-m", "tiny.pth", "--precision", "fp32"]
    command.append("--no-consistency")  # the bare network
    assert main.main(command) == 0
    assert written() == ["astronaut.png", "sub/chelsea.png", "sub/coffee.png"]
    source = np.asarray(Image.open(photos / "astronaut.jpg"))
    image = torch.from_numpy(source.copy()).permute(2, 0, 1)[None] / 255
    expected = restore_tensor(network, image)[0].mul(255).clamp(0, 255).round().byte()
    restored = np.asarray(Image.open("out/astronaut.png"))
    assert np.array_equal(restored, expected.permute(1, 2, 0).numpy())
    lines = capsys.readouterr().err.splitlines()
    assert "photos/astronaut.jpg: JPEG quality 20, restored to out/astronaut.png" in lines
    assert lines[-1].startswith("3 restored, 0 copied, 0 skipped, 0 failed; 0.0 MP in ")
    assert "whole images, fp32" in lines[-1]


def test_two_models_are_averaged_and_tiles_are_told(photos, capsys):
    torch.manual_seed(0)
    for name in ("a.pth", "b.pth"):
        torch.save(build_network(dict(TINY_PROMPTCIR)).state_dict(), name)
    flags = ["--tile", "32", "--overlap", "8", "--self-ensemble", "transpose"]
    Image.open(photos / "astronaut.jpg").crop((0, 0, 32, 40)).save("part.jpg", quality=20)
    command = ["restore", "part.jpg", "-o", "out", *flags]
    assert main.main([*command, "-m", "a.pth", "-m", "b.pth"]) == 0
    assert "Tiles of 32 px, stride 16 (multiples of 16)" in capsys.readouterr().err
    with Image.open("out/part.png") as image:
        assert image.size == (32, 40)


def test_weights_of_the_average(photos, monkeypatch, capsys):
    class Adds(Identity):
        def __init__(self, value):
            super().__init__()
            self.value = value / 255

        def forward(self, x):
            return x + self.value

    networks = {"a.pth": Adds(20), "b.pth": Adds(60)}
    monkeypatch.setattr(restore, "load_network", lambda path: networks[str(path)])
    Image.new("RGB", (40, 30), (100, 100, 100)).save("grey.jpg", quality=90)
    command = ["restore", "grey.jpg", "--no-consistency", "--precision", "fp32", "-o"]
    for names, value, said in (
        (["a.pth=0.75", "b.pth=0.25"], 130, ", networks averaged: 2, weights 0.75, 0.25)"),
        (["a.pth=2", "b.pth=2"], 140, ", networks averaged: 2)"),
        (["a.pth=0", "b.pth=1"], 160, "(whole images, fp32)"),
        (["a.pth=0.3"], 120, "(whole images, fp32)"),
    ):
        flags = [flag for name in names for flag in ("-m", name)]
        assert main.main([*command, f"{value}.png", *flags]) == 0
        assert capsys.readouterr().err.splitlines()[-1].endswith(said)
        assert np.asarray(Image.open(f"{value}.png")).ravel()[0] == value


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.pth=0.8", "b.pth"], "-m b.pth: has no weight, but another -m has; give each one a"),
        (["a.pth", "b.pth=0.2"], "-m a.pth: has no weight, but another -m has; give each one a"),
        (["a.pth=0", "b.pth=0"], "weights: all are 0; give one network a positive weight"),
    ],
)
def test_weights_of_the_average_that_cannot_be_used(names, message, photos, identity, capsys):
    flags = [flag for name in names for flag in ("-m", name)]
    assert main.main(["restore", "photos", "-o", "out", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"basicsr restore: error: {message}")
    assert not Path("out").exists()


def test_several_tile_sizes_are_told(photos, identity, capsys):
    run(photos / "astronaut.jpg", "-o", "a.png", "--tile", "32,48,80", "--overlap", "16")
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("1 restored")]
    assert re.search(r"\(mean of tiles of 32 px,.*; tiles of 48 px,.*; whole images, ", line)


def test_an_interrupted_batch_goes_on(photos, identity, capsys):
    run(photos, "-o", "out")
    (photos / "../out/sub/coffee.png").unlink()
    before = (photos / "../out/astronaut.png").stat().st_mtime_ns
    part_of(photos / "../out/astronaut.png").write_bytes(b"half")
    assert run(photos, "-o", "out") == 0
    assert "1 restored, 0 copied, 2 skipped" in capsys.readouterr().err
    assert (photos / "../out/astronaut.png").stat().st_mtime_ns == before
    run(photos, "-o", "out", "--overwrite")
    assert (photos / "../out/astronaut.png").stat().st_mtime_ns > before


def test_shards_share_the_files(photos, identity, monkeypatch):
    run(photos, "-o", "out", "--shard", "1/2")
    assert written() == ["astronaut.png", "sub/coffee.png"]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run(photos, "-o", "out")
    assert written() == ["astronaut.png", "sub/chelsea.png", "sub/coffee.png"]


def test_processes_of_torchrun_share_a_folder(photos):
    torch.manual_seed(0)
    torch.save(build_network(dict(TINY_PROMPTCIR)).state_dict(), "tiny.pth")
    arguments = ["restore", "photos", "-o", "out", "-m", "tiny.pth", "--device", "cpu"]
    done = basicsr(".", *arguments, launch=LAUNCH)
    assert done.returncode == 0, done.stderr
    assert written() == ["astronaut.png", "sub/chelsea.png", "sub/coffee.png"]
    assert sorted(re.findall(r"\d restored, 0 copied, 0 skipped", done.stderr)) == [
        "1 restored, 0 copied, 0 skipped",
        "2 restored, 0 copied, 0 skipped",
    ]


def test_fine_files_are_copied_byte_for_byte(photos, identity, capsys):
    image = Image.open(photos / "astronaut.jpg")
    image.save(photos / "fine.jpg", quality=99)
    image.save(photos / "lossless.png")
    run(photos, "-o", "out", "--format", "webp")
    assert (photos / "../out/fine.jpg").read_bytes() == (photos / "fine.jpg").read_bytes()
    assert (photos / "../out/lossless.png").read_bytes() == (photos / "lossless.png").read_bytes()
    err = capsys.readouterr().err
    assert "fine.jpg: JPEG quality 99, copied (--force restores it)" in err
    assert "3 restored, 2 copied" in err
    run(photos, "-o", "forced", "--force")
    assert "lossless.png" in written("forced")
    assert "fine.png" in written("forced")
    run(photos, "-o", "finer", "--fine-quality", "20", "--format", "webp")
    assert "astronaut.jpg" in written("finer")


def test_bad_files_are_named_and_the_batch_goes_on(photos, identity, capsys):
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.jpg").write_text("no picture")
    data = (photos / "astronaut.jpg").read_bytes()
    (photos / "truncated.jpg").write_bytes(data[: len(data) * 9 // 10])
    Image.new("L", (300, 200)).save(photos / "large.jpg")
    assert run(photos, "-o", "out", "--max-pixels", "50000") == 1
    err = capsys.readouterr().err
    assert "4 restored, 0 copied, 0 skipped, 3 failed" in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1].rpartition("/")[2] for line in errors] == [
        "empty.jpg",
        "large.jpg",
        "text.jpg",
    ]
    assert "warning: " in err
    assert "truncated.jpg: truncated or damaged" in err
    assert run(photos, "-o", "strict", "--strict") == 1
    assert "truncated.png" not in written("strict")


def test_streams(photos, identity, monkeypatch):
    class Stream:
        def __init__(self, data=b""):
            self.buffer = io.BytesIO(data)

    out = Stream()
    monkeypatch.setattr("sys.stdin", Stream((photos / "astronaut.jpg").read_bytes()))
    monkeypatch.setattr("sys.stdout", out)
    assert run("-", "-o", "-") == 0
    restored = Image.open(io.BytesIO(out.buffer.getvalue()))
    assert (restored.format, restored.size) == ("PNG", (64, 64))


@pytest.mark.parametrize("size", [(1, 1), (65500, 1), (1, 300)])
def test_extreme_sizes(size, photos, identity):
    Image.new("RGB", size, (10, 20, 30)).save("thin.jpg", quality=50)
    assert run("thin.jpg", "-o", "thin.png", "--tile", "64") == 0
    restored, source = Image.open("thin.png"), Image.open("thin.jpg")
    assert np.array_equal(np.asarray(restored), np.asarray(source))


def test_flat_areas_keep_their_colour(photos, identity):
    for value in range(0, 256, 15):
        Image.new("L", (32, 32), value).save("flat.jpg", quality=90)
        run("flat.jpg", "-o", "flat.png", "--overwrite", "--bits", "16", "--self-ensemble", "x8")
        assert (
            np.asarray(Image.open("flat.png")) == np.asarray(Image.open("flat.jpg")) * 257.0
        ).all()


def test_grey_stays_grey_and_colour_passes_a_grey_network(photos, monkeypatch):
    for channels in (1, 3):
        network = build_network({"type": "Identity", "in_channels": channels})
        monkeypatch.setattr(restore, "load_network", lambda path, net=network: net)
        Image.open(photos / "astronaut.jpg").convert("L").save("grey.jpg", quality=50)
        run("grey.jpg", "-o", "grey.png", "--overwrite")
        restored, source = Image.open("grey.png"), Image.open("grey.jpg")
        assert restored.mode == "L"
        assert np.abs(np.asarray(restored, int) - np.asarray(source)).max() == 0
        run(photos / "astronaut.jpg", "-o", "colour.png", "--overwrite")
        source = np.asarray(Image.open(photos / "astronaut.jpg"), int)
        assert np.abs(np.asarray(Image.open("colour.png")) - source).max() == 0


def test_larger_scales_and_alpha(photos, monkeypatch):
    torch.manual_seed(0)
    network = build_network({"type": "HAT", **SMALL["HAT"], "upscale": 2}).eval()
    monkeypatch.setattr(restore, "load_network", lambda path: network)
    image = Image.open(photos / "astronaut.jpg").crop((0, 0, 21, 30))
    image.putalpha(77)
    image.save("alpha.webp")
    assert run("alpha.webp", "-o", "large.png", "--tile", "16") == 0
    restored = Image.open("large.png")
    assert restored.size == (42, 60)
    assert (np.asarray(restored)[..., 3] == 77).all()


def test_pixels_tell_the_quality_where_the_file_does_not(photos, identity, capsys):
    Image.open(photos / "astronaut.jpg").save("again.png")
    for flags, outcome in (
        ([], "lossless PNG, {}, blocks from row 0, column 0, copied"),
        (["--force"], "{}, blocks from row 0, column 0, restored to"),
    ):
        run("again.png", "-o", "out", "--overwrite", *flags)
        pattern = "again.png: " + outcome.format(r"pixels of JPEG quality about (\d+)")
        told = re.search(pattern, capsys.readouterr().err)
        assert abs(int(told[1]) - 20) <= 8


def test_the_quality_reaches_the_network(photos, monkeypatch):
    torch.manual_seed(0)
    network = build_network({"type": "FBCNN", **SMALL["FBCNN"]}).eval()
    seen = []
    real = network.forward
    network.forward = lambda x, quality=None: (
        (seen.append(quality) if x.device.type == "cpu" else None) or real(x, quality)
    )
    monkeypatch.setattr(restore, "load_network", lambda path: network)
    run(photos / "astronaut.jpg", "-o", "a.png")
    run(photos / "astronaut.jpg", "-o", "b.png", "--strength", "0.25")
    Image.open(photos / "astronaut.jpg").save("lossy.webp")
    run("lossy.webp", "-o", "c.png")
    pixels = to_tensor(np.asarray(Image.open("lossy.webp").convert("RGB")))[None] / 255
    own = 1 - pixel_quality(network, pixels) / 100
    probes = [0.0, 1.0]  # whether the network reacts
    assert seen == [pytest.approx(0.8), *probes, 0.25, pytest.approx(own)]


def test_the_bundled_weights_estimate_the_quality_of_pixels(photos, capsys):
    """Their own estimate of a WebP, without the estimator that other networks need."""
    quality_network.cache_clear()
    with Image.open(photos / "astronaut.jpg") as image:
        image.save("lossy.webp", quality=100)
    assert restore.run(["lossy.webp", "-o", "restored.png"]) == 0
    told = re.search(r"pixels of JPEG quality about (\d+)", capsys.readouterr().err)
    assert abs(int(told[1]) - 20) <= 10
    assert quality_network.cache_info().currsize == 0


def test_comparison_and_report(photos, identity):
    (photos / "a & b.jpg").write_bytes((photos / "astronaut.jpg").read_bytes())
    large = Image.open(photos / "astronaut.jpg").resize((200, 120))
    large.save(photos / "large.jpg", quality=30)
    flags = ["--compare", "strips", "--report", "report.html"]
    assert run(photos, "-o", "out", *flags) == 0
    assert written("strips") == [
        "a & b.jpg.png",
        "astronaut.jpg.png",
        "large.jpg.png",
        "sub/chelsea.jpg.png",
        "sub/coffee.jpg.png",
    ]
    assert Image.open("strips/large.jpg.png").width >= 600
    page = Path("report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 5
    assert "a &amp; b.jpg" in page
    assert "JPEG quality 30" in page
    assert "http" not in page


def test_a_file_whose_comparison_cannot_be_written_counts_once(photos, identity, capsys):
    Path("strips").mkdir()
    Path("strips/astronaut.jpg.png").mkdir()
    flags = ["--compare", "strips", "--report", "report.html"]
    assert run(photos, "-o", "out", *flags) == 1
    err = capsys.readouterr().err
    assert "error: strips/astronaut.jpg.png: cannot be written" in err
    assert "2 restored, 0 copied, 0 skipped, 1 failed" in err
    assert Path("report.html").read_text(encoding="utf-8").count("<figure>") == 3


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--precision", "fp16", "--device", "cpu"], "bf16"),
        (["--device", "cuda:99x"], "unknown"),
        (["--strength", "0.5"], "none of the networks"),
    ],
)
def test_flags_that_cannot_be_used(flags, reason, photos, identity, capsys):
    assert main.main(["restore", "photos", "-o", "out", "-m", "x.pth", *flags]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--cell", "0.5", "--no-consistency"], "--cell: changes nothing with --no-consistency"),
        (["--bits", "16", "--format", "jpeg"], "--bits 16: jpeg cannot hold 16 bits; write png or"),
        (["--bits", "16", "--format", "same"], "--bits 16: jpeg cannot hold 16 bits; write png or"),
        (["--bits", "16", "-o", "a.webp"], "--bits 16: webp cannot hold 16 bits; write png or"),
    ],
)
def test_flags_that_contradict_each_other_are_refused_before_networks_are_loaded(
    flags, reason, photos, monkeypatch, capsys
):
    monkeypatch.setattr(restore, "load_network", lambda path: pytest.fail("loaded"))
    assert main.main(["restore", "photos/astronaut.jpg", "-o", "out", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"basicsr restore: error: {reason}")


def test_a_cell_without_consistency_is_refused_for_generative_networks(photos, identity, capsys):
    facts = replace(identity.facts, generative=True)
    identity.__class__ = type("Generative", (type(identity),), {"facts": facts})
    command = ["restore", "photos", "-o", "out", "-m", "x.pth", "--cell", "0.3"]
    assert main.main(command) == 2
    assert "error: --cell: changes nothing for CODiff without" in capsys.readouterr().err
    assert main.main([*command, "--consistency"]) == 0


def test_a_strength_that_changes_nothing_is_refused(photos, capsys):
    """No unit of fbcnn_s_x1 that reads the quality is active."""
    flags = ["restore", "photos/astronaut.jpg", "--strength", "0.3"]
    assert main.main([*flags, "-o", "out", "--best"]) == 2
    assert "fbcnn_s_x1.safetensors restores the same at every strength" in capsys.readouterr().err
    assert not Path("out").exists()
    assert main.main([*flags, "-o", "out.png"]) == 0


def test_without_m_the_weights_of_the_package_restore(photos, identity, monkeypatch):
    asked = []
    monkeypatch.setattr(restore, "load_network", lambda path: asked.append(path) or identity)
    monkeypatch.setattr(restore, "default_weights", lambda: Path("ours.safetensors"))
    assert main.main(["restore", "photos", "-o", "out"]) == 0
    assert asked == [Path("ours.safetensors")]


def test_best_restores_with_the_larger_weights(photos, identity, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(restore, "load_network", lambda path: asked.append(path.stem) or identity)
    assert main.main(["restore", "photos", "-o", "out", "--best"]) == 0
    assert asked == ["fbcnn_s_x1"]
    capsys.readouterr()
    assert main.main(["restore", "photos", "-o", "out2", "--best", "-m", "x.pth"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("basicsr restore: error: --best: ")
    assert not Path("out2").exists()


def test_networks_that_do_not_go_together(photos, monkeypatch, capsys):
    found = iter([build_network({"type": "Identity", "in_channels": c}) for c in (1, 3)])
    monkeypatch.setattr(restore, "load_network", lambda path: next(found))
    command = ["restore", "photos", "-o", "out", "-m", "x.pth", "-m", "y.pth"]
    assert main.main(command) == 2
    assert "in channels differs (x.pth: 1, y.pth: 3)" in capsys.readouterr().err


def damaged(data):
    """Yield names and contents: truncated at twenty places, and 200 with flipped bytes."""
    for part in range(20):
        yield f"cut{part}.jpg", data[: len(data) * part // 20]
    rng = random.Random(0)
    for index in range(200):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 3, 30))):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        yield f"flip{index}.jpg", bytes(changed)


def test_damaged_files_do_not_stop_the_batch(photos, identity, capsys):
    source = Image.open(photos / "astronaut.jpg")
    buffer = io.BytesIO()
    exif = source.getexif()
    exif[274] = 6
    source.save(buffer, "JPEG", quality=60, exif=exif, progressive=True)
    folder = photos / "damaged"
    folder.mkdir()
    files = dict(damaged(buffer.getvalue()))
    for name, data in files.items():
        (folder / name).write_bytes(data)
    assert run(folder, "-o", "out", "--max-pixels", "10000000") == 1
    err = capsys.readouterr().err
    results = written()
    failed = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(results) + len(failed) == len(files)
    assert all("damaged/" in line for line in failed)
    assert len(results) > 60  # of the others, nothing can be decoded
    for name in results:
        Image.open(photos.parent / "out" / name).load()
    assert all((folder / name).read_bytes() == data for name, data in files.items())


def test_what_the_format_cannot_hold_names_the_file(photos, identity, capsys):
    image = Image.open(photos / "astronaut.jpg")
    image.putalpha(100)
    image.save(photos / "alpha.webp")
    Image.new("L", (17000, 1)).save(photos / "wide.jpg", quality=50)
    assert run(photos, "-o", "a", "--format", "jpeg") == 1
    assert run(photos, "-o", "b", "--format", "webp") == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 2
    assert "alpha.webp: JPEG cannot hold its alpha; write png or webp" in errors[0]
    assert "wide.jpg: webp holds at most 16383 pixels a side, and this is 17000 x 1" in errors[1]
