"""``basicsr embed``: the embeddings, their projection, the picture."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from command_tools import photographs
from PIL import Image
from small_networks import SMALL

from cir_arch import load_network
from cir_cli import embed
from cir_host.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "photos", size=96)
    for name in ("CaVE", "FBCNN"):
        torch.manual_seed(0)
        network = build_network({"type": name, **SMALL[name]})
        torch.save({"params": network.state_dict()}, f"{name}.pth")
    return tmp_path


def test_the_picture_shows_a_colour_for_each_quality(folder, capsys):
    pytest.importorskip("matplotlib")
    embed.run(["photos", "-m", "CaVE.pth", "-o", "a.png", "--qualities", "10", "90"])
    assert capsys.readouterr().out == "a.png\n"
    colours = np.unique(np.asarray(Image.open("a.png").convert("RGB")).reshape(-1, 3), axis=0)
    for end in ((68, 1, 84), (253, 231, 37)):  # of viridis
        assert (np.abs(colours.astype(int) - end).max(1) < 4).any()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_images_that_cannot_be_read_are_left_out_and_named(folder):
    pytest.importorskip("matplotlib")
    (folder / "photos/broken.png").write_bytes(b"no image")
    pipe = folder / "pipe.png"
    os.mkfifo(pipe)
    files = [*sorted((folder / "photos").iterdir()), pipe]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed, "list_pictures", lambda *_: files)
        message = r"^2 of 5 images could not be read; a\.png shows the others\..*broken.*pipe"
        with pytest.raises(UserError, match=message):
            embed.run(["photos", "-m", "CaVE.pth", "-o", "a.png", "--qualities", "10"])
    assert Image.open("a.png").width > 100


def test_what_the_folders_hold_beside_images_is_told(folder, capsys):
    pytest.importorskip("matplotlib")
    (folder / "photos/notes.txt").write_text("x")
    embed.run(["photos", "-m", "CaVE.pth", "-o", "a.png", "--qualities", "10"])
    said = capsys.readouterr().err
    assert "left out: files of other kinds: 1 (by suffix: 1 .txt)" in said


def test_a_picture_that_cannot_be_written_is_one_line(folder):
    pytest.importorskip("matplotlib")
    Path("a.png").mkdir()
    with pytest.raises(UserError, match=r"^-o a\.png: Is a directory"):
        embed.run(["photos/coffee.png", "-m", "CaVE.pth", "-o", "a.png"])


def test_embedding_is_the_mean_token_of_the_jpeg(folder):
    network = load_network("CaVE.pth")
    file = sorted((folder / "photos").iterdir())[0]
    found = embed.embeddings(network, [np.asarray(Image.open(file))], [20, 80])
    assert found.shape == (1, 2, SMALL["CaVE"]["nc"][3])
    Image.open(file).convert("RGB").save("twenty.jpg", quality=20)
    pixels = np.array(Image.open("twenty.jpg")).transpose(2, 0, 1)[None]
    with torch.no_grad():
        expected = network.embed(torch.from_numpy(pixels) / 255)[0].mean(0)
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-5, atol=1e-6)


def test_pca_keeps_the_largest_spread():
    along = np.random.default_rng(0).normal(size=50)
    noise = np.random.default_rng(1).normal(size=(50, 1))
    vectors = np.concatenate([np.outer(along, [1, -2, 5]), noise, np.ones((50, 1))], 1)
    points = embed.project(vectors, "pca")
    assert points.shape == (50, 2)
    assert abs(np.corrcoef(points[:, 0], along)[0, 1]) > 0.99
    assert abs(np.corrcoef(points[:, 1], noise[:, 0])[0, 1]) > 0.95


def test_tsne_or_what_it_needs():
    vectors = np.random.default_rng(0).normal(size=(8, 5))
    try:
        import sklearn  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"--method tsne, .* pip install 'basicsr-cir\[tsne\]'"):
            embed.project(vectors, "tsne")
    else:
        assert embed.project(vectors, "tsne").shape == (8, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "-m", "CaVE.pth", "-o", "a.txt"], "-o a.txt: give a name that ends in"),
        (["photos", "-m", "CaVE.pth", "-o", "no/a.png"], "-o no/a.png: no folder no"),
        (["nothing", "-m", "CaVE.pth", "-o", "a.png"], "nothing: no such file"),
        (["photos", "-m", "FBCNN.pth", "-o", "a.png"], "FBCNN has no embedding; CaVE"),
    ],
)
def test_what_cannot_be_drawn_is_named(folder, arguments, message):
    with pytest.raises(UserError, match=message):
        embed.run(arguments)
