import numpy as np
import pytest
from data_tools import make, plain_jpeg, save, smooth_image, to_uint8

from cir_data.images.color import to_color
from cir_host.errors import OptionsError, UserError


def test_compressed_images_without_originals(tmp_path):
    image = smooth_image(33, 47)
    save(tmp_path / "sub/a.jpeg", image, quality=12)
    save(tmp_path / "b.png", image)
    data_set = make("JPEGFolderDataset", phase="test", dataroot_lq=str(tmp_path))
    png, jpeg = data_set[0], data_set[1]
    assert len(data_set) == 2
    assert "gt" not in jpeg
    assert jpeg["lq_path"] == str(tmp_path / "sub/a.jpeg")
    assert np.array_equal(to_uint8(jpeg["lq"]), plain_jpeg(image, 12))
    assert [jpeg[k] for k in ("quality", "subsampling", "codec")] == [12, "4:2:0", "JPEG"]
    assert [png[k] for k in ("quality", "subsampling", "codec")] == [-1, "unknown", "PNG"]


def test_colour(tmp_path):
    save(tmp_path / "a.jpg", smooth_image(33, 47), quality=12)
    sample = make("JPEGFolderDataset", phase="val", dataroot_lq=str(tmp_path), color="y")[0]
    assert np.array_equal(
        to_uint8(sample["lq"]), to_color(plain_jpeg(smooth_image(33, 47), 12), "y")
    )


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match=r"dataroot_lq: .*no images"):
        make("JPEGFolderDataset", phase="test", dataroot_lq=str(tmp_path))
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.jpg: cannot be read"):
        make("JPEGFolderDataset", phase="test", dataroot_lq=str(tmp_path))[0]
    with pytest.raises(OptionsError, match="no original images to train on"):
        make("JPEGFolderDataset", phase="train", dataroot_lq=str(tmp_path))
