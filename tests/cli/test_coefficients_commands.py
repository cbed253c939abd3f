"""Networks that take DCT coefficients: what ``basicsr restore`` and ``test`` do and refuse."""

import io
import json
import sys

import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from command_tools import basicsr, one_line_error, photographs, train_options, write_options
from PIL import Image
from small_networks import SMALL
from training_tools import model
from vector_tools import coefficients, filled, image

from cir_arch import JDEC, Identity
from cir_cli import main
from cir_cli.options_files import shipped
from cir_data.images.jpeg_planes import read_planes
from cir_host.errors import OptionsError, UserError
from cir_host.rehearsal import model_without_networks
from cir_model import restore_image
from cir_model.measuring.checks import check_coefficients
from cir_model.restoring.inference import Restorer
from cir_model.restoring.on_disk import restore_bytes
from cir_model.restoring.settings import InferenceOptions, RestoreOptions

pytest.importorskip("jpeglib", reason="extra libjpeg is not installed")


@pytest.fixture(scope="module")
def network():
    return filled(build_network({"type": "JDEC", **SMALL["JDEC"]}))


def saved(pixels, quality=20, file_format="JPEG", **settings):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format, quality=quality, **settings)
    return file.getvalue()


def photo(height=60, width=75):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height // 4, width // 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)


def restored(network, data, **options):
    restorer = Restorer([network], InferenceOptions(**options))
    outcome = restore_bytes(data, "photo", "png", restorer, RestoreOptions(force=True))
    return np.asarray(Image.open(io.BytesIO(outcome.data))), outcome


def by_hand(network, data):
    """Return the network's output for a file, (H, W, 3), in float."""
    jpeg = read_planes(data)
    with torch.inference_mode():
        out = network(torch.from_numpy(jpeg.planes)[None])
    return out[0, :, : jpeg.height, : jpeg.width].permute(1, 2, 0).numpy()


def rounded(values):
    return (255 * values).clip(0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_a_jpeg_is_restored_from_its_coefficients(network, subsampling):
    data = saved(photo(), subsampling=subsampling)
    image, outcome = restored(network, data)
    assert np.array_equal(image, rounded(by_hand(network, data)))
    assert outcome.note == "JPEG quality 20"
    reduced = "its chroma is reduced to half the resolution (4:2:0) for the network"
    assert outcome.warnings == (() if subsampling == "4:2:0" else (reduced,))


def test_of_a_grey_jpeg_the_luma_is_restored(network):
    data = saved(photo()[..., 0])
    image, _ = restored(network, data)
    expected = rounded(by_hand(network, data) @ np.array([0.299, 0.587, 0.114]))
    assert image.shape == (60, 72)
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_a_turned_jpeg_comes_back_upright(network):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(photo(), exif=exif)
    image, _ = restored(network, data)
    assert np.array_equal(image, np.rot90(rounded(by_hand(network, data)), -1))


def test_a_result_is_held_to_the_file(network):
    data = saved(photo(64, 64), subsampling="4:4:4")
    assert not np.array_equal(
        restored(network, data)[0], restored(network, data, consistency=True)[0]
    )


def test_tiles_begin_at_whole_windows(network):
    """A tile of 112 is what the network makes of these blocks alone, but for the overlaps."""
    data = saved(photo(120, 340))
    jpeg = read_planes(data)
    restorer = Restorer([network], InferenceOptions(tile=100, overlap=0))
    found = restorer(torch.from_numpy(jpeg.planes)[None])
    parts = []
    for left in range(0, jpeg.planes.shape[2], 112):
        part = torch.from_numpy(jpeg.planes[:, :112, left : left + 112])[None]
        with torch.inference_mode():
            parts.append(network(part))
    torch.testing.assert_close(found[..., :112, :], torch.cat(parts, -1), rtol=0, atol=1e-5)
    assert "tiles of 112 px" in restorer.describe()["inference"]


def test_the_grid_is_not_searched(network, monkeypatch):
    monkeypatch.setattr("cir_model.restoring.block_grid.block_offset", lambda image: 1 / 0)
    x = torch.from_numpy(read_planes(saved(photo())).planes)[None]
    usual = Restorer([network], InferenceOptions())(x)
    assert torch.equal(Restorer([network], InferenceOptions(grid="none"))(x), usual)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"self_ensemble": "flips"},
            "self_ensemble: flips needs a network that takes pixels; JDEC",
        ),
        ({"tiling": "ntire2024", "tile": 112}, "tiling: ntire2024 needs .*: give blended"),
    ],
)
def test_what_needs_pixels_is_refused(network, options, message):
    with pytest.raises(UserError, match=message):
        Restorer([network], InferenceOptions(**options))


def test_networks_with_other_inputs_are_not_averaged(network):
    with pytest.raises(UserError, match=r"their input kind differs \(JDEC: coefficients, "):
        Restorer([network, Identity()], InferenceOptions())


def test_pixels_are_refused(network):
    restorer = Restorer([network], InferenceOptions())
    message = "JDEC takes the DCT coefficients of a JPEG file, and this is none"
    with pytest.raises(UserError, match=message):
        restore_image(photo(), restorer)
    with pytest.raises(UserError, match=f"photo: {message}"):
        restored(network, saved(photo(), file_format="WEBP"))


def test_without_jpeglib_one_line_says_what_to_install(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "jpeglib", None)
    with pytest.raises(UserError, match=r"jpeglib.*basicsr-cir\[libjpeg\]"):
        Restorer([network], InferenceOptions())


def test_others_of_a_batch_go_on(network, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name, file_format in (("a.webp", "WEBP"), ("b.jpg", "JPEG"), ("c.jpg", "JPEG")):
        (tmp_path / "photos" / name).write_bytes(saved(photo(), file_format=file_format))
    torch.save({"model": {"name": "jdec", "args": {}, "sd": network.state_dict()}}, "jdec.pth")
    command = ["restore", "photos", "-o", "out", "-m", "jdec.pth", "--precision", "fp32"]
    assert main.main([*command, "--no-consistency"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert (
        "error: photos/a.webp: jdec.pth takes the DCT coefficients of a JPEG file, and this is none"
        in lines
    )
    assert lines[-1].startswith("2 restored, 0 copied, 0 skipped, 1 failed; ")
    expected = rounded(by_hand(network, (tmp_path / "photos/b.jpg").read_bytes()))
    assert np.array_equal(np.asarray(Image.open("out/b.png")), expected)


def shipped_test():
    """The shipped test of JDEC, of a small network on a few photographs."""
    options = yaml.safe_load(shipped()["test_jdec_live1.yml"].read_text(encoding="utf-8"))
    options["num_gpu"] = 0
    options["network_g"] = {"type": "JDEC", **SMALL["JDEC"]}
    options["path"]["pretrain_network_g"] = "jdec.pth"
    for section in options["datasets"].values():
        section["dataroot_gt"] = "photos"
    return options


@pytest.fixture
def folder(tmp_path, network):
    photographs(tmp_path / "photos", size=76)
    torch.save({"params": network.state_dict()}, tmp_path / "jdec.pth")
    return tmp_path


def test_shipped_test_measures_what_restore_gives(folder, network):
    options = shipped_test()
    done = basicsr(folder, "test", "-opt", write_options(folder / "test.yml", options))
    assert done.returncode == 0, done.stdout + done.stderr
    stored = json.loads((folder / "results/test_jdec_live1/metrics.json").read_text())
    assert list(stored["data_sets"]) == [f"LIVE1_q{quality}" for quality in (10, 20, 30, 40)]
    original = np.asarray(Image.open(folder / "photos/coffee.png").convert("RGB"))
    for quality in (10, 40):
        name = f"results/test_jdec_live1/visualization/LIVE1_q{quality}"
        found = np.asarray(Image.open(folder / name / "coffee_test_jdec_live1.png"))
        assert np.array_equal(found, rounded(by_hand(network, saved(original, quality))))


def test_a_data_set_without_files_is_refused(folder):
    options = shipped_test()
    section = {"type": "CodecRestorationDataset", "codec": "webp", "quality": 20}
    options["datasets"] = {"test_1": {"name": "webp", "dataroot_gt": "photos", **section}}
    done = basicsr(folder, "test", "-opt", write_options(folder / "test.yml", options))
    assert "JDEC: photos/astronaut.png comes without its JPEG file; " in one_line_error(done)


def test_a_file_without_coefficients_is_named(folder):
    options = shipped_test()
    (folder / "others").mkdir()
    Image.open(folder / "photos/coffee.png").save(folder / "others/coffee.png")
    section = {"name": "others", "type": "JPEGFolderDataset", "dataroot_lq": "others"}
    options["datasets"] = {"test_1": section}
    done = basicsr(folder, "test", "-opt", write_options(folder / "test.yml", options))
    message = "others/coffee.png: JDEC restores JPEG files; is no JPEG, or its EXIF turns it"
    assert message in one_line_error(done)


@pytest.mark.parametrize(
    ("kind", "section", "message"),
    [
        (JDEC, {}, "coefficients: JDEC takes the DCT coefficients of JPEGs; set it to true"),
        (Identity, {"coefficients": True}, "coefficients: Identity takes images; remove the key"),
    ],
)
def test_training_needs_the_input_of_the_network(kind, section, message):
    with pytest.raises(OptionsError, match=f"datasets.train.{message}"):
        check_coefficients(kind(**SMALL[kind.__name__]), section)


def test_coefficients_of_the_right_network_pass():
    check_coefficients(JDEC(**SMALL["JDEC"]), {"coefficients": True})
    check_coefficients(Identity(), {"coefficients": False})


def test_training_is_on_the_coefficients():
    section = {"type": "JDEC", **SMALL["JDEC"]}
    made = model(section)
    options = {**train_options(network_g=section), "is_train": True, "dist": False, "rank": 0}
    planes = coefficients(32, 32, batch=2)
    restored = made.restored(image(32, 32, batch=2), {"coefficients": planes})
    assert torch.equal(restored, made.net_g(planes))
    with pytest.raises(OptionsError, match=r"datasets\.train\.coefficients"):
        model_without_networks(options).rehearse(made.net_g)
