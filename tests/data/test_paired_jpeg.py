import numpy as np
import pytest
from data_tools import (
    coordinate_image,
    first_boundary,
    make,
    plain_jpeg,
    save,
    to_uint8,
    write_lmdb,
)
from PIL import Image
from torch.utils.data import DataLoader

from cir_host.errors import OptionsError, UserError
from cir_host.sampler import SampleIndex

GT = {
    "a": coordinate_image(50, 70),
    "sub/a": coordinate_image(61, 45),
    "b.c": coordinate_image(9, 8),
}


@pytest.fixture
def roots(tmp_path):
    for i, (stem, image) in enumerate(GT.items()):
        save(tmp_path / f"gt/{stem}.png", image)
        save(tmp_path / f"lq/{stem}.jpg", image, quality=20 + i)
    return tmp_path


def pairs(roots, phase="test", **options):
    defaults = {"dataroot_gt": str(roots / "gt"), "dataroot_lq": str(roots / "lq")}
    return make("PairedJPEGDataset", phase=phase, **{**defaults, **options})


def test_whole_pairs(roots):
    data_set = pairs(roots)
    assert [
        sample["gt_path"][len(str(roots)) :] for sample in map(data_set.__getitem__, range(3))
    ] == [
        "/gt/a.png",
        "/gt/b.c.png",
        "/gt/sub/a.png",
    ]
    sample = data_set[2]
    assert sample["lq_path"] == str(roots / "lq/sub/a.jpg")
    assert np.array_equal(to_uint8(sample["gt"]), GT["sub/a"])
    assert np.array_equal(to_uint8(sample["lq"]), plain_jpeg(GT["sub/a"], 21))
    facts = [sample[key] for key in ("quality", "subsampling", "codec")]
    assert facts == [21, "4:2:0", "JPEG"]
    assert sample["block_offset"].tolist() == [0, 0]


def test_crops_are_aligned(roots):
    data_set = pairs(roots, "train", gt_size=24, use_hflip=True, use_rot=True)
    for position in range(60):
        index = (0, 2)[position % 2]
        sample = data_set[SampleIndex(index, 0, position)]
        stem, quality = [("a", 20), ("sub/a", 21)][position % 2]
        gt, lq = to_uint8(sample["gt"]), to_uint8(sample["lq"])
        rows, columns = gt[..., 0], gt[..., 1]
        assert gt.shape == (24, 24, 3)
        assert np.array_equal(lq, plain_jpeg(GT[stem], quality)[rows, columns])
        assert tuple(sample["block_offset"].tolist()) == first_boundary(gt)
    small = data_set[1]
    assert small["lq"].shape == small["gt"].shape == (3, 24, 24)
    batch = next(iter(DataLoader(data_set, 3)))
    assert batch["quality"].tolist() == [20, 22, 21]
    assert batch["block_offset"].shape == (3, 2)


def test_pairs_from_lmdb_and_lists(roots):
    lmdb = write_lmdb(roots / "gt.lmdb", GT)
    lq = str(roots / "lq")
    data_set = pairs(roots, dataroot_gt=[str(roots / "gt"), lmdb], dataroot_lq=[lq, lq])
    assert len(data_set) == 6
    for first, second in ((0, 3), (1, 5), (2, 4)):  # the LMDB keeps the order of its making
        folder, database = data_set[first], data_set[second]
        assert folder["lq_path"] == database["lq_path"]
        assert np.array_equal(folder["gt"], database["gt"])


def test_missing_partners_are_named(roots):
    (roots / "lq/sub/a.jpg").rename(roots / "lq/sub/other.jpg")
    with pytest.raises(UserError, match=r"gt/sub/a\.png \(no compr.*, .*lq/sub/other\.jpg \(no or"):
        pairs(roots)
    listed = roots / "list.txt"
    listed.write_text("a.png\n", encoding="utf-8")
    assert len(pairs(roots, meta_info_file=str(listed))) == 1


def test_ambiguous_partners_are_named(roots):
    save(roots / "lq/a.webp", GT["a"])
    with pytest.raises(UserError, match=r"lq/a\.jpg and .*lq/a\.webp differ in the extension only"):
        pairs(roots)


def test_different_sizes_are_named(roots):
    save(roots / "lq/a.jpg", GT["a"][:40])
    with pytest.raises(UserError, match=r"gt/a\.png is 70 x 50 .*lq/a\.jpg is 70 x 40"):
        pairs(roots)[0]


def test_turned_jpeg_matches_its_upright_original(roots):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: upright after a quarter turn clockwise
    stored = np.rot90(GT["a"])
    save(roots / "lq/a.jpg", stored, quality=95, exif=exif)
    sample = pairs(roots)[0]
    assert np.array_equal(to_uint8(sample["lq"]), np.rot90(plain_jpeg(stored, 95), -1))
    # the grid starts at the corner that is now at the top right; 50 columns were stored as rows
    assert sample["block_offset"].tolist() == [0, 70 % 8]


def test_crops_of_a_turned_jpeg_know_its_grid(roots):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(roots / "lq/a.jpg", np.rot90(GT["a"]), quality=95, exif=exif)
    data_set = pairs(roots, "train", gt_size=24, use_hflip=True, use_rot=True)
    for position in range(30):
        sample = data_set[SampleIndex(0, 0, position)]
        as_stored = to_uint8(sample["gt"]).astype(int)
        as_stored[..., 1] = 69 - as_stored[..., 1]  # columns were stored as rows, from the last on
        assert tuple(sample["block_offset"].tolist()) == first_boundary(as_stored)


def test_damaged_compressed_image_is_replaced_or_an_error(roots):
    (roots / "lq/a.jpg").write_bytes(b"no image")
    data_set = pairs(roots, "train", gt_size=8)
    samples = [data_set[SampleIndex(0, epoch, 0)] for epoch in range(20)]
    taken = {(sample["gt_path"], sample["lq_path"]) for sample in samples}
    assert taken == {
        (str(roots / f"gt/{stem}.png"), str(roots / f"lq/{stem}.jpg")) for stem in ("b.c", "sub/a")
    }
    assert len(data_set.unreadable) == 1
    for strict in (pairs(roots, "train", gt_size=8, strict=True), pairs(roots)):
        with pytest.raises(UserError, match=r"lq/a\.jpg: cannot be read as an image"):
            strict[0]


def test_unequal_lists_are_an_error(roots):
    with pytest.raises(OptionsError, match="the same number of roots"):
        pairs(roots, dataroot_gt=[str(roots / "gt")] * 2)


def test_an_image_may_be_listed_twice(roots):
    (roots / "l.txt").write_text("a.png\nb.c.png\na.png\n")
    data_set = pairs(roots, meta_info_file=str(roots / "l.txt"))
    found = [data_set[i]["lq_path"] for i in range(len(data_set))]
    assert found == [str(roots / f"lq/{stem}.jpg") for stem in ("a", "b.c", "a")]
