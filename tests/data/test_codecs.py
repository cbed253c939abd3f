import shutil
import sys

import numpy as np
import pytest
from data_tools import make, plain_jpeg, save, smooth_image, to_uint8, write_folder

from cir_data.codecs.choice import make_codec
from cir_data.codecs.codec import CodecError
from cir_data.codecs.command import CommandCodec
from cir_data.options import CommandOptions
from cir_host.errors import OptionsError, UserError
from cir_host.sampler import SampleIndex

PACKAGES = {"hevc": "pillow_heif", "jxl": "pillow_jxl"}


def codec_or_skip(name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    try:
        return make_codec(name, "codec")
    except UserError as error:  # a Pillow built without it
        pytest.skip(str(error))


def error_of(decoded, image):
    return float(((decoded.astype(float) - image) ** 2).mean())


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif", "hevc", "jxl"])
@pytest.mark.parametrize("channels", [1, 3])
def test_codec_keeps_shapes_is_repeatable_and_better_at_a_higher_quality(name, channels):
    codec = codec_or_skip(name)
    image = smooth_image(37, 50, channels)
    coarse, fine = (codec.compress(image, quality) for quality in (10, 95))
    assert coarse.shape == fine.shape == image.shape
    assert coarse.dtype == np.uint8
    assert error_of(fine, image) < error_of(coarse, image)
    assert 0 < error_of(fine, image) < 30
    assert np.array_equal(coarse, codec.compress(image, 10))
    for quality in (codec.scale.lowest, codec.scale.highest):
        assert codec.compress(image[:1, :1], quality).shape == image[:1, :1].shape


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif", "hevc", "jxl"])
def test_codec_tells_its_version(name):
    codec = codec_or_skip(name)
    assert any(character.isdigit() for character in codec.version)
    assert codec.record(50, grey=False).codec == codec.version


@pytest.mark.parametrize(("name", "module"), PACKAGES.items())
def test_missing_package_is_named_with_the_extra(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"codec: {name} needs.*{module}.*basicsr-cir\[codecs\]"):
        make_codec(name, "codec")


# The data set


def test_data_set_cuts_crops_out_of_the_whole_compressed_image(tmp_path):
    codec = codec_or_skip("webp")
    image = smooth_image(70, 90)
    save(tmp_path / "a.png", image)
    section = {"dataroot_gt": str(tmp_path), "codec": "webp"}
    data_set = make("CodecRestorationDataset", gt_size=32, quality={"range": [5, 90]}, **section)
    for position in range(5):
        sample = data_set[SampleIndex(0, 0, position)]
        lq, gt = to_uint8(sample["lq"]), to_uint8(sample["gt"])
        whole = codec.compress(image, sample["quality"])
        places = np.argwhere((image == gt[0, 0]).all(axis=2)).tolist()
        found = [(r, c) for r, c in places if np.array_equal(image[r : r + 32, c : c + 32], gt)]
        assert [np.array_equal(whole[r : r + 32, c : c + 32], lq) for r, c in found] == [True]
        assert sample["codec"] == data_set.codec == codec.version
    whole = make("CodecRestorationDataset", phase="val", quality=30, **section)[0]
    assert np.array_equal(to_uint8(whole["lq"]), codec.compress(image, 30))
    assert np.array_equal(to_uint8(whole["gt"]), image)


def test_jpeg_as_a_codec_is_that_of_the_jpeg_data_set(tmp_path):
    options = {"dataroot_gt": write_folder(tmp_path), "gt_size": 24, "quality": {"range": [9, 60]}}
    first = make("JPEGRestorationDataset", **options)
    second = make("CodecRestorationDataset", codec="jpeg", **options)
    for index in range(3):
        assert first[index]["lq"].equal(second[index]["lq"])
        assert first[index]["quality"] == second[index]["quality"]


def test_context_compresses_less_of_the_image(tmp_path):
    codec = codec_or_skip("webp")
    save(tmp_path / "a.png", smooth_image(200, 300))
    options = {"dataroot_gt": str(tmp_path), "codec": "webp", "gt_size": 16, "quality": 20}
    data_set = make("CodecRestorationDataset", context=8, **options)
    sizes = []
    original = type(codec).compress
    type(codec).compress = lambda self, image, quality: (
        sizes.append(image.shape) or original(self, image, quality)
    )
    try:
        sample = data_set[0]
    finally:
        type(codec).compress = original
    assert max(sizes[0]) <= 64 + 8 + 16 + 8
    assert error_of(to_uint8(sample["lq"]), to_uint8(sample["gt"])) < 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 101}, r"datasets\.train\.quality: 101 is not a quality of WebP.* 0 to 100"),
        ({"quality": {"range": [-3, 5]}}, r"datasets\.train\.quality: -3 is not a quality"),
        ({"codec": "webq"}, r"datasets\.train\.codec: .*webq"),
        ({"codec": {"name": "x"}}, r"datasets\.train\.codec\.encode: missing"),
        ({"context": -1}, r"datasets\.train\.context"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    codec_or_skip("webp")
    section = {"codec": "webp", "quality": 50, "gt_size": 16, **options}
    with pytest.raises(OptionsError, match=message):
        make("CodecRestorationDataset", dataroot_gt=write_folder(tmp_path), **section)


# Commands

PYTHON = f"'{sys.executable}'"
JPEG_ENCODE = "import sys; from PIL import Image; a, b, q = sys.argv[1:]"
JPEG_ENCODE += "; Image.open(a).save(b, quality=int(q))"
JPEG_DECODE = "import sys; from PIL import Image; Image.open(sys.argv[1]).save(sys.argv[2])"
SCRIPTS = {
    "name": "scripts",
    "encode": f'{PYTHON} -c "{JPEG_ENCODE}" {{input}} {{bitstream}} {{quality}}',
    "decode": f'{PYTHON} -c "{JPEG_DECODE}" {{bitstream}} {{output}}',
    "suffix": ".jpg",
}


def command_codec(**options):
    return CommandCodec(CommandOptions(**{**SCRIPTS, **options}), "codec")


def test_commands_give_what_the_library_gives():
    image = smooth_image(40, 52)
    codec = command_codec(version=f"{PYTHON} --version")
    assert np.array_equal(codec.compress(image, 20), plain_jpeg(image, 20))
    assert codec.version == f"scripts (Python {sys.version.split()[0]})"
    grey = smooth_image(40, 52, channels=1)
    assert codec.compress(grey, 90).shape == (40, 52)


def needs_programs(*programs):
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@needs_programs("cwebp", "dwebp")
def test_cwebp():
    codec = command_codec(
        name="cwebp",
        encode="cwebp -quiet -q {quality} {input} -o {bitstream}",
        decode="dwebp -quiet {bitstream} -o {output}",
        version="cwebp -version",
        suffix=".webp",
    )
    image = smooth_image(64, 83)
    errors = [error_of(codec.compress(image, quality), image) for quality in (5, 50, 95)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 10


@needs_programs("x265", "ffmpeg")
def test_x265_at_a_qp():
    codec = command_codec(
        name="x265",
        encode=[
            "ffmpeg -v error -i {input} -pix_fmt yuv444p {folder}/video.y4m",
            "x265 --log-level none --pools 1 --frame-threads 1 --input {folder}/video.y4m"
            " --qp {quality} --keyint 1 -o {bitstream}",
        ],
        decode="ffmpeg -v error -i {bitstream} -frames:v 1 -pix_fmt rgb24 {output}",
        quality_range=(0, 51),
        suffix=".hevc",
    )
    image = smooth_image(66, 98)
    errors = [error_of(codec.compress(image, qp), image) for qp in (47, 32, 10)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 10


FAILING = f"{PYTHON} -c \"import sys; print(1); sys.exit('no {{quality}}\\nlast words')\""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"encode": f"{FAILING} {{input}} {{bitstream}}"},
            r"exit status 1: last words",
        ),
        (
            {"encode": f'{PYTHON} -c "import time; time.sleep(9)" {{input}} {{bitstream}}'},
            r"exceeded the timeout of 0\.5 s",
        ),
        ({"encode": "true {input} {bitstream}"}, r"true: succeeded, but wrote no bitstream"),
        ({"decode": "cp {bitstream} {output}", "encode": "cp /dev/null {bitstream} {input}"}, "cp"),
    ],
)
def test_failing_command_is_named(tmp_path, options, message):
    options = {**SCRIPTS, "timeout": 0.5, **options}
    folder = write_folder(tmp_path / "images")
    data_set = make(
        "CodecRestorationDataset", dataroot_gt=folder, codec=options, quality=30, gt_size=16
    )
    with pytest.raises(CodecError, match=rf"images/0\.png: .*{message}"):
        data_set[0]


def test_decoder_that_writes_no_image_or_another_size_is_named():
    image = smooth_image(40, 52)
    words = "import sys; print('words', file=open(sys.argv[2], 'w'))"
    text = command_codec(decode=f'{PYTHON} -c "{words}" {{bitstream}} {{output}}')
    with pytest.raises(CodecError, match=r"wrote no image: output\.png: .*no format"):
        text.compress(image, 30)
    half = "import sys; from PIL import Image; i = Image.open(sys.argv[1])"
    half += "; i.resize((9, 9)).save(sys.argv[2])"
    other = command_codec(decode=f'{PYTHON} -c "{half}" {{bitstream}} {{output}}')
    with pytest.raises(CodecError, match=r"scripts: returned an image of shape \(9, 9, 3\)"):
        other.compress(image, 30)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    codec = command_codec(timeout=5)
    codec.compress(smooth_image(8, 8), 50)
    with pytest.raises(CodecError):
        command_codec(decode="false {bitstream} {output}").compress(smooth_image(8, 8), 50)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encode": "no_such_codec {input} {bitstream}"}, r"codec\.encode: no_such_codec: no"),
        ({"encode": "true {input}"}, r"codec\.encode: the placeholder \{bitstream\} is missing"),
        (
            {"decode": "true {bitstream} {output} {qp}"},
            r"codec\.decode: unknown placeholder \{qp",
        ),
        ({"encode": "true 'open"}, r"codec\.encode: .*quotation"),
        ({"encode": " "}, r"codec\.encode: the command is empty"),
    ],
)
def test_unusable_command_is_named(options, message):
    with pytest.raises(UserError, match=message):
        command_codec(**options)
