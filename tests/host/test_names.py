"""Names that become parts of paths, and text files of every editor, in an options file."""

import codecs
import importlib
import re

import host_tools
import numpy as np
import pytest
import yaml
from basicsr.train import parse_options
from basicsr.utils.registry import MODEL_REGISTRY
from host_tools import (
    fresh_logger,
    run_here,
    test_options,
    train_options,
    write_pairs,
)

from cir_host import patches
from cir_host.encoding import encoding_of
from cir_host.errors import OptionsError, UserError
from cir_host.folder_names import MOST_BYTES

UNSOUND = [
    *("../photos", "a/b", "/tmp/a", "a\\b", "a/", "", ".", ".."),
    *(" a", "a ", "a\t", "a\nb", "a\0b", "a\x1bb", "a\u2028b"),
    *("n" * (MOST_BYTES + 1), "\u00e9" * (MOST_BYTES // 2 + 1)),
]


def parse(monkeypatch, folder, options, *flags, is_train=True):
    file = folder / "options.yml"
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["basicsr", "-opt", str(file), *flags])
    return parse_options(str(folder), is_train=is_train)[0]


@pytest.mark.parametrize("name", [*UNSOUND, 7, True, None, ["a"]])
def test_what_cannot_name_one_folder_is_refused_by_its_key(monkeypatch, tmp_path, name):
    options = train_options(tmp_path)
    options["name"] = name
    with pytest.raises(OptionsError, match=rf"^name: .* 1 to {MOST_BYTES} bytes") as caught:
        parse(monkeypatch, tmp_path, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", UNSOUND)
def test_names_of_data_sets_and_suffixes_are_parts_of_paths_too(monkeypatch, tmp_path, name):
    options = test_options(tmp_path, "net.pth")
    options["datasets"]["test_1"]["name"] = name
    with pytest.raises(OptionsError, match=r"^datasets\.test_1\.name: "):
        parse(monkeypatch, tmp_path, options, is_train=False)
    options = test_options(tmp_path, "net.pth")
    options["val"]["suffix"] = name
    if name:  # BasicSR takes the run's name for an empty one
        with pytest.raises(OptionsError, match=r"^val\.suffix: "):
            parse(monkeypatch, tmp_path, options, is_train=False)


@pytest.mark.parametrize("value", ["name=../photos", "name=caf\udce9", "name=2024", "name="])
def test_a_forced_name_is_checked(monkeypatch, tmp_path, value):
    with pytest.raises(OptionsError, match=r"^name: "):
        parse(monkeypatch, tmp_path, train_options(tmp_path), "--force_yml", value)


@pytest.mark.parametrize("key", ['na"me', "na\\me", 'name"];print(1);opt["name'])
def test_a_forced_key_is_no_code(monkeypatch, tmp_path, key):
    with pytest.raises(OptionsError, match=r"^--force_yml .*KEY:KEY=VALUE"):
        parse(monkeypatch, tmp_path, train_options(tmp_path), "--force_yml", f"{key}=x")


def test_a_forced_list_that_cannot_be_evaluated_is_named(monkeypatch, tmp_path):
    with pytest.raises(OptionsError, match=r"^--force_yml .*division"):
        entry = "train:optim_g:betas=[1/0]"
        parse(monkeypatch, tmp_path, train_options(tmp_path), "--force_yml", entry)


@pytest.mark.parametrize("name", ["n" * MOST_BYTES, "Größe \u200c 画像 ☕", ".hidden", "-x", "~a"])
def test_every_sound_name_trains_and_is_archived(monkeypatch, tmp_path, name):
    """Also with the prefix of --debug."""
    write_pairs(tmp_path)
    options = {**train_options(tmp_path), "name": name}
    options["train"]["total_iter"] = 1
    monkeypatch.setattr(host_tools, "write_options", write_as("options.yml"))
    for _ in range(2):
        with fresh_logger():
            run_here(monkeypatch, tmp_path, options, "--debug")
    made = [path.name for path in (tmp_path / "experiments").iterdir()]
    assert sorted(len(n) - len(f"debug_{name}") for n in made) == [0, len("_archived_") + 15]
    assert list((tmp_path / "experiments" / f"debug_{name}").glob("*.log"))


def write_as(name, mark=b"", encoding="utf-8", newline="\n"):
    def write(folder, options):
        text = "# ☕\n" + yaml.safe_dump(options, allow_unicode=True)
        (folder / name).write_bytes(mark + text.replace("\n", newline).encode(encoding))
        return folder / name

    return write


def test_an_unsound_name_moves_and_makes_nothing(monkeypatch, tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/precious").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    for command in ("train", "test"):
        options = train_options(tmp_path)
        if command == "test":
            options = test_options(tmp_path, "net.pth")
        options["name"] = "x"
        with pytest.raises(OptionsError, match="name: "):
            forced = ("--force_yml", "name=../photos")
            run_here(monkeypatch, tmp_path, options, *forced, command=command)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "x.yml"])


def test_a_number_names_a_data_set(monkeypatch, tmp_path):
    """BasicSR would fail at the first image that it saves."""
    options = train_options(tmp_path)
    options["datasets"]["val"]["name"] = 100
    assert parse(monkeypatch, tmp_path, options)["datasets"]["val"]["name"] == "100"


@pytest.mark.parametrize(
    ("key", "value"),
    [("pretrain_network_g", 5), ("pretrain_network_g", ["a"]), ("resume_state", 1)],
)
def test_a_path_must_be_a_text(monkeypatch, tmp_path, key, value):
    options = train_options(tmp_path)
    options["path"][key] = value
    with pytest.raises(OptionsError, match=rf"^path\.{key}: expected a path"):
        parse(monkeypatch, tmp_path, options)


def test_a_folder_of_images_must_be_a_text(monkeypatch, tmp_path):
    options = train_options(tmp_path)
    options["datasets"]["val"]["dataroot_lq"] = 5
    with pytest.raises(OptionsError, match=r"^datasets\.val\.dataroot_lq: expected .*; it is 5"):
        parse(monkeypatch, tmp_path, options)


@pytest.mark.parametrize("is_train", [True, False])
def test_keys_of_path_make_no_folders_elsewhere(monkeypatch, tmp_path, capsys, is_train):
    """BasicSR makes a folder of the value of each key of ``path`` that it does not know."""
    write_pairs(tmp_path)
    options = train_options(tmp_path) if is_train else test_options(tmp_path, "net.pth")
    keys = {"experiments_root", "results_root", "models", "log", "visualization", "training_states"}
    others = {"scale", "type"}  # keys of other sections
    elsewhere = {key: str(tmp_path / "elsewhere" / key) for key in keys | others}
    options["path"] |= elsewhere
    opt = parse(monkeypatch, tmp_path, options, is_train=is_train)
    error = capsys.readouterr().err
    for key in keys:
        assert f"warning: path.{key}: has no effect; this run is written to " in error
    for key in others:
        assert f"warning: path.{key}: no code reads this key" in error
    module = "train" if is_train else "test"
    patches.original(f"basicsr.{module}:make_exp_dirs")(opt)
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / ("experiments" if is_train else "results") / options["name"]).is_dir()


def test_a_folder_that_cannot_be_made_is_named(monkeypatch, tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "experiments").write_text("a file")
    with pytest.raises(UserError, match=r"experiments.*: cannot be created \("):
        run_here(monkeypatch, tmp_path, train_options(tmp_path))


ENCODINGS = [
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
]


@pytest.mark.parametrize(("mark", "encoding"), ENCODINGS)
def test_text_files_of_every_editor_are_read(monkeypatch, tmp_path, mark, encoding):
    """The options, their copy in the run's folder, and the list of images."""
    write_pairs(tmp_path)
    options = train_options(tmp_path, "größe")
    options["train"]["total_iter"] = 1
    (tmp_path / "list.txt").write_bytes(mark + "000.png\n001.png\n".encode(encoding))
    for section in options["datasets"].values():
        section["meta_info_file"] = str(tmp_path / "list.txt")

    writer = write_as("marked.yml", mark, encoding, "\r\n")
    monkeypatch.setattr(host_tools, "write_options", writer)
    run_here(monkeypatch, tmp_path, options, "--force_yml", "manual_seed=3", "path:x=caf\udce9")
    copied = tmp_path / "experiments/größe/marked.yml"
    assert copied.read_bytes()[:2] in (mark[:2], codecs.BOM_UTF16)
    text = copied.read_text(encoding=encoding_of(copied), errors="surrogateescape")
    assert text.startswith("# GENERATE TIME")
    assert "# ☕" in text
    assert yaml.safe_load(re.sub("#.*", "", text))["name"] == "größe"


def test_utf_16_without_a_mark_is_named(monkeypatch, tmp_path):
    text = yaml.safe_dump(train_options(tmp_path))
    (tmp_path / "a.yml").write_bytes(text.encode("utf-16-le"))
    monkeypatch.setattr("sys.argv", ["basicsr", "-opt", str(tmp_path / "a.yml")])
    with pytest.raises(OptionsError, match=r"a\.yml: neither UTF-8 nor UTF-16.*save it as UTF-8"):
        parse_options(str(tmp_path))


def test_two_data_sets_of_one_name_would_overwrite_each_other_s_results(monkeypatch, tmp_path):
    class OurModel(MODEL_REGISTRY.get("SRModel")):
        pass

    OurModel.__module__ = "cir_model.things"
    monkeypatch.setitem(MODEL_REGISTRY._obj_map, "OurModel", OurModel)
    options = {**test_options(tmp_path, "net.pth"), "model_type": "OurModel"}
    options["datasets"]["test_2"] = {**options["datasets"]["test_1"], "name": "other"}
    parse(monkeypatch, tmp_path, options, is_train=False)
    options["datasets"]["test_2"]["name"] = options["datasets"]["test_1"]["name"]
    with pytest.raises(OptionsError, match=r"^datasets\.test_2\.name: val .* datasets\.test_1"):
        parse(monkeypatch, tmp_path, options, is_train=False)


def test_wandb_without_tensorboard_is_found_before_anything_is_made(monkeypatch, tmp_path):
    options = train_options(tmp_path)
    options["logger"]["wandb"] = {"project": "p"}
    with pytest.raises(
        OptionsError, match=r"^logger\.wandb\.project: needs logger\.use_tb_logger: true"
    ):
        parse(monkeypatch, tmp_path, options)


@pytest.mark.parametrize("place", ["basicsr.utils", "basicsr.models.sr_model"])
def test_an_image_whose_name_becomes_too_long_is_saved(tmp_path, place):
    """As that of an image and the name of a run may be together."""
    imwrite = importlib.import_module(place).imwrite
    pixels = np.zeros((8, 8, 3), np.uint8)
    imwrite(pixels, str(tmp_path / "folder/image_run.png"))
    assert (tmp_path / "folder/image_run.png").is_file()
    file = tmp_path / f"{'i' * 120}_{'r' * 140}.png"
    imwrite(pixels, str(file))
    (saved,) = tmp_path.glob("iii*.png")
    assert len(saved.name) == 255
