"""What a user writes into an options file, and what is made of it before anything starts."""

from types import MappingProxyType
from typing import Literal

import msgspec
import pytest
import torch
import yaml
from basicsr.train import parse_options
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
)
from host_tools import fresh_logger, test_options, train_options, write_options, write_pairs

from cir_host import parsing, patches
from cir_host.errors import OptionsError
from cir_host.typed_options import DatasetOptions, typed


class Quality(msgspec.Struct, forbid_unknown_fields=True):
    choices: list[int] | None = None
    range: tuple[int, int] | None = None

    def __post_init__(self):
        if (self.choices is None) == (self.range is None):
            raise ValueError("give either choices or range")


class Options(DatasetOptions, kw_only=True):
    dataroot_gt: str | list[str]
    quality: int | Quality
    color: Literal["rgb", "y"] = "rgb"


class ValidationOptions(msgspec.Struct, forbid_unknown_fields=True):
    val_freq: int
    save_img: bool
    metrics: dict
    self_ensemble: Literal["none", "x8"] = "none"


SECTION = {"name": "T", "type": "D", "phase": "train", "dataroot_gt": "x", "quality": 3}


def test_a_right_section_becomes_a_struct():
    options = typed({**SECTION, "quality": {"range": [10, 70]}}, Options, "datasets.train")
    assert options.quality.range == (10, 70)
    assert options.color == "rgb"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qualty": 3}, '.qualty: unknown key; did you mean "quality"?'),
        ({"xyz": 3}, ".xyz: unknown key"),
        ({"quality": {"chioces": [1]}}, '.quality.chioces: unknown key; did you mean "choices"?'),
        ({"quality": "ten"}, ".quality: expected int | object, got str; it is 'ten'"),
        ({"quality": {"range": [1, "x"]}}, ".quality.range[1]: expected int, got str; it is 'x'"),
        ({"quality": {}}, ".quality: give either choices or range"),
        ({"color": "rgp"}, ".color: expected rgb or y; it is 'rgp'"),
        ({"dataset_enlarge_ratio": 0}, ".dataset_enlarge_ratio: expected float > 0.0; it is 0"),
        ({"dataroot_gt": None}, ".dataroot_gt: expected str | array, got null; it is None"),
        ({3: 4}, ": expected str"),
    ],
)
def test_a_wrong_section_is_one_line_naming_the_key(change, message):
    with pytest.raises(OptionsError) as caught:
        typed({**SECTION, **change}, Options, "datasets.train")
    assert str(caught.value) == f"datasets.train{message}"


def test_a_missing_key_is_named():
    section = {k: v for k, v in SECTION.items() if k != "quality"}
    with pytest.raises(OptionsError, match=r"^datasets\.train\.quality: missing$"):
        typed(section, Options, "datasets.train")


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """Parse options, or the text of an options file, as BasicSR's train.py and test.py do."""

    def run(options, *flags, is_train=True):
        if isinstance(options, dict):
            file = write_options(tmp_path, options)
        else:
            file = tmp_path / "options.yml"
            file.write_bytes(options if isinstance(options, bytes) else options.encode())
        monkeypatch.setattr("sys.argv", ["basicsr", "-opt", str(file), *flags])
        return parse_options(str(tmp_path), is_train=is_train)[0]

    return run


def change(options, path, value):
    *groups, key = path.split(".")
    for group in groups:
        options = options[group]
    options[key] = value


def remove(options, path):
    *groups, key = path.split(".")
    for group in groups:
        options = options[group]
    del options[key]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E5", 2e5),
        ("-1.5e-3", -1.5e-3),
        (".5e+1", 5.0),
        ("'1e-4'", "1e-4"),
        ('"1e-4"', "1e-4"),
        ("1e-4x", "1e-4x"),
        ("4:2:0", "4:2:0"),
        ("e-4", "e-4"),
        ("1.5", 1.5),
        ("12", 12),
    ],
)
def test_exponents_are_numbers_where_they_are_plain(text, value):
    from basicsr.utils.options import ordered_yaml

    loaded = yaml.load(f"lr: {text}", Loader=ordered_yaml()[0])["lr"]
    assert (loaded, type(loaded)) == (value, type(value))


def test_basicsr_reads_exponents_as_text():
    ordered_yaml = patches.original("basicsr.utils.options:ordered_yaml")
    assert yaml.load("lr: 1e-4", Loader=ordered_yaml()[0])["lr"] == "1e-4"
    assert yaml.safe_load("lr: 1e-4") == {"lr": "1e-4"}, "PyYAML itself was changed"
    assert patches.original("basicsr.utils.options:_postprocess_yml_value")("1e-4") == "1e-4"


def test_forced_values_are_numbers_too(parse, tmp_path):
    opt = parse(
        train_options(tmp_path),
        *("--force_yml", "train:optim_g:lr=1e-4", "train:warmup_iter=-1", "val=none"),
        *("train:optim_g:betas=[0.9, 0.999]", "logger:print_freq=7"),
    )
    assert opt["train"]["optim_g"]["lr"] == 1e-4
    assert opt["train"]["optim_g"]["betas"] == [0.9, 0.999]
    assert opt["train"]["warmup_iter"] == -1
    assert opt["logger"]["print_freq"] == 7
    assert opt["val"] is None


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("foo:bar=3", "no section foo"),
        ("train:foo:bar=3", r"no section train\.foo"),
        ("train:total_iter:bar=3", r"no section train\.total_iter"),
        ("name", "a single `=`"),
        ("name=a=b", "a single `=`"),
        ("train:optim_g:betas=[0.9,", "cannot read the value"),
    ],
)
def test_a_forced_value_that_cannot_be_set_is_named(parse, tmp_path, entry, reason):
    with pytest.raises(OptionsError, match=reason) as caught:
        parse(train_options(tmp_path), "--force_yml", entry)
    assert str(caught.value).startswith(f"--force_yml {entry}: ")


def test_an_alias_is_a_section_of_its_own(parse, tmp_path):
    """BasicSR pops and sets keys of a section, which must not change its copies."""
    options = train_options(tmp_path)
    options["train"]["optim_d"] = options["train"]["optim_g"]
    options["datasets"]["val_2"] = options["datasets"]["val"]
    text = yaml.safe_dump(options, sort_keys=False)
    assert "optim_d: *" in text
    assert "val_2: *" in text
    opt = parse(text, "--force_yml", "datasets:val_2:name=other", "train:optim_d:betas=[0, 0.9]")
    assert opt["train"]["optim_g"].pop("type") == opt["train"]["optim_d"].pop("type") == "Adam"
    assert opt["train"]["optim_g"]["betas"] == [0.9, 0.99]
    assert opt["train"]["optim_d"]["betas"] == [0, 0.9]
    assert opt["datasets"]["val"]["name"] == "val"
    opt["datasets"]["val"]["io_backend"]["type"] = "lmdb"
    assert opt["datasets"]["val_2"]["io_backend"]["type"] == "disk"


def test_a_section_merges_another_one(parse, tmp_path):
    options = train_options(tmp_path)
    text = yaml.safe_dump(options, sort_keys=False).replace("  val:", "  val: &val")
    text = text.replace("\nnetwork_g", "\n  val_2:\n    <<: *val\n    name: other\nnetwork_g")
    datasets = parse(text)["datasets"]
    assert datasets["val_2"] == {**datasets["val"], "name": "other"}
    assert datasets["val"]["name"] == "val"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: [1, 2\nb: 3", "line 2: not YAML"),
        ("a: \t- b", "line 1: not YAML"),
        ("a: &a\n  b: *a", "line 1: not YAML: found unconstructable recursive node"),
        ("a:\n  val: 1\n  'val': 2", "line 3: not YAML: the key 'val' is repeated"),
        ("<<: 1", "line 1: not YAML: expected a mapping"),
        ("a: &a [*a]", "line 1: not YAML: found unconstructable recursive node"),
        ("just text", "expected lines `key: value`; it holds 'just text'"),
        ("", "it holds None"),
        ("name: caf\xe9".encode("latin-1"), "neither UTF-8"),
    ],
)
def test_a_file_that_holds_no_options_is_named(parse, content, reason):
    with pytest.raises(OptionsError, match=rf"^-opt .*options\.yml.*{reason}") as caught:
        parse(content)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["basicsr", "-opt", str(tmp_path / "no.yml")])
    with pytest.raises(OptionsError, match=r"-opt .*no\.yml: No such file"):
        parse_options(str(tmp_path))


@pytest.mark.parametrize("flags", [[], ["-opt"], ["--force_yml"], ["--launcher", "magic"]])
def test_usage_stays_basicsr_s_business(monkeypatch, flags, capsys):
    monkeypatch.setattr("sys.argv", ["basicsr", *flags])
    with pytest.raises(SystemExit):
        parse_options("root")
    assert "usage: " in capsys.readouterr().err


TRAINING_NEEDS = [
    *("name", "model_type", "num_gpu", "datasets", "path", "train", "logger", "network_g"),
    *("datasets.train", "datasets.train.name", "datasets.train.type", "datasets.val.type"),
    *("datasets.train.batch_size_per_gpu", "datasets.train.num_worker_per_gpu"),
    *("train.total_iter", "train.optim_g", "train.optim_g.type", "train.optim_g.lr"),
    *("train.scheduler", "train.scheduler.type", "network_g.type", "val.val_freq"),
    *("val.save_img", "val.metrics.psnr.type", "val.metrics.psnr.crop_border"),
    *("logger.print_freq", "logger.save_checkpoint_freq", "logger.use_tb_logger"),
]


@pytest.mark.parametrize("key", TRAINING_NEEDS)
def test_a_key_that_training_needs_is_named(parse, tmp_path, key):
    options = train_options(tmp_path)
    remove(options, key)
    text = yaml.safe_dump(options)
    with pytest.raises(OptionsError, match=rf"^{key}: missing"):
        parse(text)


def test_a_file_for_a_test_is_not_trained(parse, tmp_path):
    with pytest.raises(OptionsError, match=r"^train: missing; .* is one for `basicsr test`"):
        parse(test_options(tmp_path, "net.pth"))


@pytest.mark.parametrize("key", ["val", "val.save_img", "val.suffix", "network_g", "path"])
def test_a_key_that_a_test_needs_is_named(parse, tmp_path, key):
    options = test_options(tmp_path, "net.pth")
    remove(options, key)
    with pytest.raises(OptionsError, match=rf"^{key}: missing"):
        parse(options, is_train=False)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.optim_g.lr", "1e-4x", "expected float, got str; it is '1e-4x'"),
        ("train.total_iter", 0, "expected float > 0"),
        ("val.val_freq", 0, "expected float > 0"),
        ("path", None, "expected object, got null"),
        ("datasets.val", None, "expected object, got null"),
        ("num_gpu", "all", "expected auto"),
        ("datasets.test_1", {"name": "a", "type": "b"}, "must start with train or val"),
    ],
)
def test_a_value_that_basicsr_would_trip_over_is_named(parse, tmp_path, key, value, message):
    options = train_options(tmp_path)
    change(options, key, value)
    with pytest.raises(OptionsError) as caught:
        parse(options)
    assert str(caught.value).startswith(f"{key}: ")
    assert message in str(caught.value)


def test_right_options_pass_without_a_word(parse, tmp_path, capsys):
    opt = parse({**train_options(tmp_path), "num_gpu": "auto"}, "--debug", "--auto_resume")
    assert opt["num_gpu"] == torch.cuda.device_count()
    assert opt["name"] == "debug_tiny"
    parse(test_options(tmp_path, "net.pth"), is_train=False)
    assert capsys.readouterr().err == ""


def test_every_data_set_gets_the_seed(parse, tmp_path):
    opt = parse({**train_options(tmp_path), "manual_seed": 7})
    assert [section["manual_seed"] for section in opt["datasets"].values()] == [7, 7]
    options = train_options(tmp_path)
    del options["manual_seed"]
    opt = parse(options)
    assert opt["datasets"]["train"]["manual_seed"] == opt["manual_seed"] > 0


def test_lists_of_folders_pass_the_parser(parse, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("USERPROFILE", "/home/someone")
    options = train_options(tmp_path)
    options["datasets"]["train"]["dataroot_gt"] = ["~/a", "b"]
    assert parse(options)["datasets"]["train"]["dataroot_gt"] == ["/home/someone/a", "b"]


MISSPELLED = [
    ("manual_sed", "manual_seed"),
    ("path.strict_lod_g", "strict_load_g"),
    ("path.pretrain_netwrok_g", "pretrain_network_g"),
    ("train.ema_deacy", "ema_decay"),
    ("train.warmup_itr", "warmup_iter"),
    ("train.perceptual_otp", "perceptual_opt"),
    ("val.pbra", "pbar"),
    ("val.metrics.psnr.test_y_chanel", "test_y_channel"),
    ("logger.use_tb_loger", "use_tb_logger"),
    ("datasets.train.dataset_enlarge_rato", "dataset_enlarge_ratio"),
    ("datasets.train.prefetch_mod", "prefetch_mode"),
    ("datasets.val.meta_info_fil", "meta_info_file"),
]
"""Keys of BasicSR's sections with a mistake, and without."""


@pytest.mark.parametrize(("key", "near"), MISSPELLED)
def test_a_misspelled_key_of_basicsr_is_a_warning_with_the_near_one(
    parse, tmp_path, capsys, key, near
):
    options = train_options(tmp_path)
    change(options, key, None)
    parse(options)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"warning: {key}: ")
    assert f'"{near}"' in lines[0]


def test_basicsr_says_nothing_of_a_misspelled_key(parse, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(globals(), "parse_options", patches.original("basicsr.train:parse_options"))
    options = train_options(tmp_path)
    options["train"]["ema_deacy"] = 0.9
    parse(options)
    out, err = capsys.readouterr()
    assert "ema_deacy" not in out + err


def test_a_misspelled_path_makes_no_folder(parse, tmp_path, monkeypatch):
    """BasicSR makes a folder of every path that it does not know, or fails on a file there."""
    monkeypatch.chdir(tmp_path)
    options = train_options(tmp_path)
    options["path"]["pretrain_netwrok_g"] = "weights.pth"
    opt = parse(options)
    patches.original("basicsr.train:make_exp_dirs")(opt)
    assert (tmp_path / "experiments/tiny/models").is_dir()
    assert not (tmp_path / "weights.pth").exists()


@pytest.mark.parametrize("is_master", [True, False])
def test_the_first_process_alone_warns(parse, tmp_path, capsys, monkeypatch, is_master):
    rank = 0 if is_master else 1
    monkeypatch.setattr("basicsr.utils.options.get_dist_info", lambda: (rank, 2))
    options = train_options(tmp_path)
    options["train"]["ema_deacy"] = 0.9
    parse(options)
    assert ("ema_deacy" in capsys.readouterr().err) == is_master


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("network_g.num_fet", 4, ["network_g.num_fet", "SRVGGNetCompact", '"num_feat"']),
        ("train.pixel_opt.loss_wieght", 1, ["train.pixel_opt.loss_wieght", '"loss_weight"']),
        ("network_g.type", "SRVGGNetCompct", ["network_g.type", '"SRVGGNetCompact"']),
        ("model_type", "SRModl", ["model_type", '"SRModel"']),
        ("datasets.val.type", "PairedImageDatset", ["datasets.val.type", '"PairedImageDataset"']),
        ("train.pixel_opt.type", "L1Los", ["train.pixel_opt.type", '"L1Loss"']),
        ("val.metrics.psnr.type", "calculate_pnsr", ["val.metrics.psnr.type", '"calculate_psnr"']),
        (
            "val.averaged_with",
            ["a.pth", {"path": "b.pth", "network": {"type": "SRVGGNetCompact", "num_fet": 4}}],
            ["val.averaged_with[1].network.num_fet", '"num_feat"'],
        ),
    ],
)
def test_what_basicsr_would_fail_on_later_fails_at_once(parse, tmp_path, key, value, words):
    options = train_options(tmp_path)
    change(options, key, value)
    with pytest.raises(OptionsError) as caught:
        parse(options)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.fixture
def ours(monkeypatch):
    """Register things as a package of ours would."""

    def register(registry, thing):
        thing.__module__ = "cir_model.things"
        monkeypatch.setitem(registry._obj_map, thing.__name__, thing)

    return register


def test_a_key_that_our_data_sets_do_not_know_is_an_error(parse, tmp_path, ours):
    class OurDataset:
        options_type = Options

    ours(DATASET_REGISTRY, OurDataset)
    options = train_options(tmp_path)
    section = {"name": "V", "type": "OurDataset", "dataroot_gt": "x", "quality": 10}
    options["datasets"]["val"] = section
    parse(options)
    section["qualty"] = 10
    with pytest.raises(OptionsError, match=r'^datasets\.val\.qualty: unknown .*"quality"'):
        parse(options)


def test_an_argument_that_ours_swallow_is_an_error(parse, tmp_path, ours):
    class OurNet:
        def __init__(self, window_size=4, **others):
            pass

    class OurLoss:
        def __init__(self, loss_weight=1.0, **others):
            pass

    def our_metric(img, img2, crop_border, test_y_channel=False, **others):
        return 0.0

    ours(ARCH_REGISTRY, OurNet)
    ours(LOSS_REGISTRY, OurLoss)
    ours(METRIC_REGISTRY, our_metric)
    right = train_options(tmp_path)
    right["network_g"] = {"type": "OurNet"}
    right["train"]["pixel_opt"] = {"type": "OurLoss"}
    right["val"]["metrics"] = {"m": {"type": "our_metric", "crop_border": 0, "better": "lower"}}
    parse(right)
    for place, wrong in (
        ("network_g", "window_sise"),
        ("train.pixel_opt", "loss_wieght"),
        ("val.metrics.m", "test_y_chanel"),
        ("network_g", "nothing_like_it"),
    ):
        change(right, f"{place}.{wrong}", 1)
        with pytest.raises(OptionsError, match=rf"^{place}\.{wrong}: "):
            parse(right)
        remove(right, f"{place}.{wrong}")


def test_options_of_our_models_are_known_and_their_misspellings_errors(
    parse, tmp_path, ours, capsys
):
    class OurModel(MODEL_REGISTRY.get("SRModel")):
        options_types = MappingProxyType({"val": ValidationOptions})

    ours(MODEL_REGISTRY, OurModel)
    options = {**train_options(tmp_path), "model_type": "OurModel"}
    change(options, "val.self_ensemble", "x8")
    parse(options)
    assert capsys.readouterr().err == ""
    change(options, "val.self_ensmble", "x8")
    with pytest.raises(OptionsError, match=r'^val\.self_ensmble: .*"self_ensemble"'):
        parse(options)


def test_a_missing_tensorboard_is_found_before_anything_is_made(parse, tmp_path, monkeypatch):
    monkeypatch.setattr(parsing, "find_spec", lambda name: None)
    options = train_options(tmp_path)
    parse(options)
    options["logger"]["use_tb_logger"] = True
    with pytest.raises(OptionsError, match=r"^logger\.use_tb_logger: tensorboard .*pip install"):
        parse(options)
    parse(options, "--debug")  # writes none
    assert not (tmp_path / "experiments").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_missing_gpu_is_named(parse, tmp_path):
    with pytest.raises(OptionsError, match=r"^num_gpu: it is 1, but there is no GPU"):
        parse({**train_options(tmp_path), "num_gpu": 1})


def test_the_log_file_keeps_warnings_and_every_character(parse, tmp_path):
    from basicsr.train import get_root_logger

    options = train_options(tmp_path)
    options["train"]["ema_deacy"] = 0.9
    parse(options)
    file = tmp_path / "train.log"
    with fresh_logger():
        get_root_logger(log_file=str(file)).info("café ☕")
    text = file.read_text(encoding="utf-8")
    assert text.count("WARNING: train.ema_deacy: ") == 1
    assert "INFO: café ☕" in text


def test_the_copy_of_the_options_keeps_every_character(tmp_path, monkeypatch):
    from basicsr.train import copy_opt_file

    write_pairs(tmp_path, 1, 1)
    file = tmp_path / "options.yml"
    file.write_text("# naïve ☕\nname: a\n", encoding="utf-8")
    (tmp_path / "run").mkdir()
    monkeypatch.setattr("sys.argv", ["basicsr", "caf\udce9"])  # a byte that is no UTF-8
    copy_opt_file(str(file), str(tmp_path / "run"))
    copied = (tmp_path / "run/options.yml").read_bytes()
    assert copied.endswith("# naïve ☕\nname: a\n".encode())
    assert b"caf\xe9" in copied
