"""What spandrel's loader makes of our state dicts."""

import pytest
import torch
from basicsr.archs import build_network
from network_tools import restore
from small_networks import RETURN_THE_IMAGE, SMALL, untold_by
from vector_tools import filled, image

spandrel = pytest.importorskip("spandrel", reason="needs the extra [spandrel]")

from cir_arch.spandrel_support import install, offered  # noqa: E402 (needs spandrel)
from cir_cli import convert  # noqa: E402


@pytest.fixture
def loader():
    """A loader with a registry of its own, so that spandrel's stays as it was."""
    registry = spandrel.MAIN_REGISTRY.copy()
    install(registry)
    install(registry)  # a second time does nothing
    return spandrel.ModelLoader(registry=registry)


def saved(folder, name, **arguments):
    torch.manual_seed(0)
    network = build_network({"type": name, **SMALL[name], **arguments}).eval()
    torch.save({"params": network.state_dict()}, folder / "net.pth")
    return network, folder / "net.pth"


LACKING = [entry.name for entry in offered() if not entry.is_in_spandrel(entry.small)]
SPANDREL_S_TOO = {"FFTformer", "GRL", "SCUNet", "Swin2SR"}
"""Of these, the names that spandrel has, too: for other arguments, settings or files."""


def test_those_that_spandrel_has_are_not_offered():
    assert set(LACKING) >= {"PromptCIR", "PromptIR", "UCIP", "CaVE", "UnifyFormer", "SCUNet", "GRL"}
    assert not {"FBCNN", "HAT", "HFT", "SAFMN_BCIE", "SwinIR", "RRDBNet", "JDEC"} & set(LACKING)
    assert "Retinexformer" not in LACKING
    assert not RETURN_THE_IMAGE & set(LACKING)


@pytest.mark.parametrize("name", LACKING)
def test_networks_that_spandrel_lacks_are_ours(loader, tmp_path, name):
    network, path = saved(tmp_path, name)
    if untold := untold_by(name, network.state_dict()):  # spandrel asks nobody
        published = {key: network.entry.defaults[key] for key in untold}
        network, path = saved(tmp_path, name, **published)
    model = loader.load_from_file(path)
    assert model.architecture.id == (f"{name}_cir" if name in SPANDREL_S_TOO else name)
    assert type(model.model) is type(network)
    facts = network.facts
    assert (model.scale, model.input_channels) == (facts.scale, facts.in_channels)
    assert model.supports_half == ("fp16" in facts.precisions)
    assert model.purpose == ("SR" if facts.scale > 1 else "Restoration")
    x = image(21, 34)
    expected = restore(network, x).clamp(0, 1)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_retinexformer_for_grey_images_is_ours(loader, tmp_path):
    """spandrel's is for three channels."""
    network, path = saved(tmp_path, "Retinexformer", in_channels=1)
    model = loader.load_from_file(path)
    assert type(model.model) is type(network)
    assert model.input_channels == 1


def test_without_us_spandrel_takes_cave_for_another_network(tmp_path):
    """The reason why ours come first: its FBCNN then misses what CaVE has not."""
    _, path = saved(tmp_path, "CaVE", strides=(2, 2, 2))
    with pytest.raises(RuntimeError, match="Error\\(s\\) in loading state_dict for FBCNN"):
        spandrel.ModelLoader().load_from_file(path)


def test_without_us_spandrel_takes_windows_for_grl_that_nobody_published(tmp_path):
    """The reason why ours comes first: its GRL has windows of 8 and stripes of 8 x 8 pixels."""
    network, path = saved(tmp_path, "GRL")
    model = spandrel.ModelLoader().load_from_file(path)
    assert model.architecture.id == "GRL"
    assert not torch.allclose(model(image(24, 24)), restore(network, image(24, 24)), atol=0.1)


@pytest.mark.parametrize(
    ("name", "arguments", "identity"),
    [
        ("FBCNN", {"nc": (8, 8, 8, 512), "nb": 2, "quality_nc": 512}, "FBCNN"),
        ("HAT", {"embed_dim": 24, "num_feat": 64, "upscale": 2, "squeeze_factor": 6}, "HAT"),
        ("FFTformer", {"ffn_expansion_factor": 3.0}, "FFTformer"),
        ("SAFMN_BCIE", {}, "SAFMN BCIE"),
        ("Retinexformer", {}, "RetinexFormer"),
        (
            "SCUNet",
            {"dim": 64, "head_dim": 32, "window_size": 8, "config": [2] + [1] * 6},
            "SCUNet",
        ),
    ],
)
def test_networks_that_spandrel_has_stay_its_own(loader, tmp_path, name, arguments, identity):
    network, path = saved(tmp_path, name, **arguments)
    model = loader.load_from_file(path)
    assert type(model.model).__module__.startswith("spandrel.")
    assert model.architecture.name == identity or model.architecture.id == identity
    x = image(64, 64)
    torch.testing.assert_close(model(x), restore(network, x).clamp(0, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"window_size": 7, "upsampler": "", "upscale": 1, "img_range": 255.0},
        {"window_size": 8, "upsampler": "pixelshuffle_aux"},
    ],
)
def test_a_converted_swin2sr_loads_without_us(tmp_path, arguments):
    """spandrel recognises it by its tables, and uses its masks for images of 2 x 2 windows."""
    sizes = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3], "mlp_ratio": 2.0}
    network, path = saved(tmp_path, "Swin2SR", **sizes, **arguments)
    torch.save(filled(network).state_dict(), path)  # the masks matter to strong attention
    plain = spandrel.ModelLoader()
    with pytest.raises(spandrel.UnsupportedModelError):
        plain.load_from_file(path)
    convert.run([str(path), "-o", str(tmp_path / "net.safetensors")])
    model = plain.load_from_file(tmp_path / "net.safetensors")
    assert model.architecture.id == "Swin2SR"
    for rows, columns in ((2, 2), (3, 5)):
        x = image(rows * network.window_size, columns * network.window_size)
        out = restore(model.model.eval(), x)  # the descriptor pads images below 16 x 16
        torch.testing.assert_close(out, restore(network, x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("prepared", [False, True])
def test_swin2sr_is_ours_with_and_without_tables(loader, tmp_path, prepared):
    network, path = saved(tmp_path, "Swin2SR")
    tables = network.tables_for_others() if prepared else {}
    torch.save({**network.state_dict(), **tables}, path)
    assert type(loader.load_from_file(path).model) is type(network)
