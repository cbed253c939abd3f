"""The training step of ``CIRModel``: what each option does to it."""

import csv
import json
import os
import unicodedata
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from basicsr.data import build_dataset
from basicsr.utils import tensor2img
from basicsr.utils.registry import DATASET_REGISTRY
from command_tools import photographs, train_options
from host_tools import TinyBatchNorm, basicsr_log
from hypothesis import given
from name_tools import different_paths, not_utf8
from small_networks import SMALL
from torch import nn
from torch.utils.data import DataLoader
from training_tools import assert_close, batch, model, step, weights

import cir_data  # noqa: F401 (registers its data sets)
from cir_host.errors import OptionsError, UserError
from cir_host.sampler import Stage
from cir_host.typed_options import typed
from cir_model import CIRModel
from cir_model.measuring.validation_files import UniqueNames
from cir_model.options import TrainOptions, ValOptions


def test_the_step_is_the_plain_formula():
    made, plain = model(), model()
    log = step(made)
    data = batch()
    loss = (plain.net_g(data["lq"]) - data["gt"]).abs().mean()
    loss.backward()
    gradients = [p.grad for p in plain.net_g.parameters()]
    with torch.no_grad():
        for parameter in plain.net_g.parameters():
            parameter -= 0.1 * parameter.grad
    assert_close(weights(made), weights(plain))
    assert log["l_pix"] == pytest.approx(float(loss))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    assert log["grad_norm"] == pytest.approx(float(norm))


def test_parts_of_a_step_are_the_whole_batch():
    whole, parts = model(), model(accum_iter=4)
    assert_close(weights(whole), weights(parts))
    for iteration in range(3):
        logs = [step(made, batch(seed=iteration), iteration) for made in (whole, parts)]
        assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    assert_close(weights(whole), weights(parts), rtol=1e-5, atol=1e-7)


def test_clipping_limits_the_norm_of_the_whole_gradient():
    free, clipped = model(), model(grad_clip=1e-3)
    norm = step(free)["grad_norm"]
    assert step(clipped)["grad_norm"] == pytest.approx(norm)  # logged as it was
    start = weights(model())
    moved = [
        torch.cat([(after[k] - start[k]).flatten() for k in start]).norm()
        for after in (weights(free), weights(clipped))
    ]
    assert float(moved[0]) == pytest.approx(0.1 * norm, rel=1e-3)
    assert float(moved[1]) == pytest.approx(0.1 * 1e-3, rel=1e-2)


def test_losses_are_added_and_named():
    one = {"type": "L1Loss", "loss_weight": 2.0}
    log = step(model(pixel_opt=None, losses={"first": one, "square": {"type": "MSELoss"}}))
    plain = step(model())
    assert log["l_first"] == pytest.approx(2 * plain["l_pix"])
    assert 0 < log["l_square"] < log["l_first"]
    assert "l_pix" not in log


def group_facts(made):
    """By parameter: learning rate and weight decay."""
    names = {id(p): name for name, p in made.net_g.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in made.optimizer_g.param_groups
        for p in group["params"]
    }


def test_groups_freeze_slow_down_and_do_not_decay():
    made = model(
        {"type": "HFT", **SMALL["HFT"]},
        optim_g={"type": "AdamW", "lr": 1e-3, "weight_decay": 0.5},
        no_decay=True,
        groups=[
            {"pattern": "^conv_first", "freeze": True},
            {"pattern": r"^layers\.0", "lr_factor": 0.5},
        ],
    )
    facts = group_facts(made)
    names = dict(made.net_g.named_parameters())
    assert {n for n in names if n not in facts} == {"conv_first.weight", "conv_first.bias"}
    for name, (rate, decay) in facts.items():
        assert rate == (5e-4 if name.startswith("layers.0") else 1e-3), name
        plain = names[name].ndim == 1 or "bias_table" in name
        assert decay == (0 if plain else 0.5), name
    before = weights(made)
    step(made)
    for name, value in weights(made).items():
        if names.get(name) is not None:
            assert torch.equal(value, before[name]) == name.startswith("conv_first"), name


def test_normalisations_of_any_shape_do_not_decay():
    made = model(
        {"type": "UnifyFormer", **SMALL["UnifyFormer"]},
        optim_g={"type": "AdamW", "lr": 1e-3, "weight_decay": 0.5},
        no_decay=True,
    )
    scales = {n: f for n, f in group_facts(made).items() if n.endswith("body.g")}
    assert scales
    assert all(decay == 0 for _, decay in scales.values())


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([{"pattern": "no_such"}], r"groups\[0\]\.pattern: 'no_such' matches no parameter"),
        ([{"pattern": "("}], r"groups\[0\]\.pattern: '\(' is not a regular expression"),
        ([{"pattern": "", "freeze": True}], "nothing to train"),
    ],
)
def test_groups_that_cannot_be_meant_are_named(groups, message):
    with pytest.raises(OptionsError, match=message):
        model(groups=groups)


class Statistics(TinyBatchNorm):
    pass


def test_a_step_that_is_not_finite_leaves_everything_as_it_was(monkeypatch):
    monkeypatch.setattr("cir_model.measuring.validation.SRModel.print_network", lambda *_: None)
    monkeypatch.setattr("basicsr.models.sr_model.build_network", lambda _: Statistics())
    made = model(ema_decay=0.9, max_nonfinite=3)
    step(made)
    before = weights(made), weights(made, "net_g_ema")
    poisoned = batch()
    poisoned["lq"][0, 0, 0, 0] = float("nan")
    with basicsr_log() as log:
        for iteration in (2, 3):
            assert step(made, poisoned, iteration)["skipped"] == iteration - 1
    assert_close(weights(made), before[0], rtol=0, atol=0)
    assert_close(weights(made, "net_g_ema"), before[1], rtol=0, atol=0)
    assert "Iteration 3 is skipped: not finite (l_pix: nan" in log[-1]
    step(made, iteration=4)  # a sound step: the row ends, the count stays
    for iteration in (5, 6):
        step(made, poisoned, iteration)
    with pytest.raises(UserError, match=r"3 steps in a row, up to iteration 7.*lower train"):
        step(made, poisoned, 7)


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_mixed_precision_computes_coarsely_and_keeps_whole_weights(kind):
    exact, coarse = model(), model(amp=kind)
    seen = []
    coarse.net_g.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    first, second = step(exact), step(coarse)
    assert seen == [torch.bfloat16 if kind == "bf16" else torch.float16]
    assert first["l_pix"] != second["l_pix"]
    assert first["l_pix"] == pytest.approx(second["l_pix"], rel=0.02)
    assert {v.dtype for v in weights(coarse).values()} == {torch.float32}
    assert_close(weights(exact), weights(coarse), rtol=0, atol=5e-3)


def test_the_scaler_is_part_of_the_state():
    made = model(amp="fp16")
    start = made.state_of_training()
    start["scaler"]["scale"] = 2.0**40  # too large: the gradients overflow
    made.resume_state_of_training(start)
    assert step(made)["skipped"] == 1
    state = made.state_of_training()
    other = model(amp="fp16")
    other.resume_state_of_training(state)
    assert other.scaler.get_scale() == 2.0**39
    assert other.skipped == 1


@pytest.mark.parametrize("option", ["channels_last", "compile"])
def test_other_ways_of_computing_give_the_same(option, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    plain, other = model(), model(**{option: True})
    assert step(plain) == pytest.approx(step(other), rel=1e-5)
    assert_close(weights(plain), weights(other))  # under the same names too
    if option == "channels_last":
        convolution = next(m for m in other.net_g.modules() if isinstance(m, nn.Conv2d))
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
        assert other.lq.is_contiguous(memory_format=torch.channels_last)
    else:
        assert other.network is not other.net_g


def test_recomputed_blocks_give_the_same_step():
    network = {"type": "PromptCIR", **SMALL["PromptCIR"]}
    plain, recomputing = model(network), model({**network, "use_checkpoint": True})
    data = batch(1, 32)
    assert step(plain, data) == pytest.approx(step(recomputing, data))
    assert_close(weights(plain), weights(recomputing))


def test_a_network_is_not_trained_in_a_precision_in_which_it_is_unsound():
    made = model({"type": "UnifyFormer", **SMALL["UnifyFormer"]})
    made.opt["train"] = {**train_options()["train"], "amp": "fp16"}
    with pytest.raises(OptionsError, match=r"^train\.amp: UnifyFormer .* bf16 and fp32, not fp16"):
        made.rehearse(made.net_g)


@pytest.mark.parametrize(
    ("network", "change", "message"),
    [
        ({"scale": 2}, {}, "scale: it is 1, but network_g is RRDBNet of scale 2"),
        (
            {"scale": 1},
            {"color": "y"},
            "datasets.train.color: images of 1 channel, but network_g is RRDBNet for 3",
        ),
        (
            {"scale": 1},
            {"gt_size": 30},
            r"datasets\.train\.gt_size: must be a multiple of 4, .* 30",
        ),
        ({"scale": 1, "num_in_ch": 1, "num_out_ch": 1}, {}, "images of 3 channels, but .* for 1"),
        ({"scale": 1, "num_in_ch": 1, "num_out_ch": 1}, {"color": "y"}, None),
        ({"scale": 1, "num_in_ch": 1, "num_out_ch": 1}, {"color": "gray"}, None),
        (  # BasicSR's own data sets do not know gray
            {"scale": 1, "num_in_ch": 1, "num_out_ch": 1},
            {"type": "PairedImageDataset", "color": "gray"},
            "images of 3 channels, but .* for 1",
        ),
        ({"scale": 1}, {"type": "SomebodysDataset", "color": "y"}, None),
    ],
)
def test_a_network_of_other_images_is_named(network, change, message, monkeypatch):
    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "SomebodysDataset", Board)
    network = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_block": 1, **network}
    made = model({"type": "RRDBNet", "num_grow_ch": 4, **network})
    made.opt["train"] = train_options()["train"]
    made.opt["datasets"]["train"].update(change)
    with pytest.raises(OptionsError, match=f"^.*{message}") if message else nullcontext():
        made.rehearse(made.net_g)


def test_an_output_of_another_shape_is_not_broadcast_to_the_ground_truth():
    data = batch()
    data["gt"] = data["gt"][:, :1]
    message = "gives images of 3x16x16, but datasets.train has ground truth of 1x16x16"
    with pytest.raises(UserError, match=message):
        step(model(), data)


class Board:
    def __init__(self):
        self.images = {}

    def add_image(self, tag, image, step, dataformats):
        self.images[tag, step] = image

    def add_scalar(self, *_):
        pass


def test_validation_shows_images_and_keeps_the_best_of_all_data_sets(tmp_path):
    """The second data set alone would keep the weights of the first validation."""
    photographs(tmp_path / "photos", size=24)
    made = model()
    made.opt["val"] = {**made.opt["val"], "save_best": "psnr"}
    made.validation_options = typed(made.opt["val"], ValOptions, "val")
    made.opt["path"].update(experiments_root=str(tmp_path), models=str(tmp_path))
    section = {**made.opt["datasets"]["val"], "dataroot_gt": str(tmp_path / "photos")}
    section.update(phase="val", scale=1, manual_seed=0)
    loaders = []
    for key, quality in (("val", 10), ("val_2", 40)):
        made.opt["datasets"][key] = {**section, "name": key, "quality": quality}
        loaders.append(DataLoader(build_dataset(made.opt["datasets"][key]), 1))
    board, best = Board(), tmp_path / "net_g_best.pth"
    made.nondist_validation(loaders[0], 1, board, False)
    assert not best.exists()  # one data set is not all
    made.nondist_validation(loaders[1], 1, board, False)
    first = best.read_bytes()
    means = [made.results[name].mean("psnr", "output") for name in ("val", "val_2")]
    assert made.best_mean == pytest.approx(sum(means) / 2)
    assert len(board.images) == 6
    assert {image.shape for image in board.images.values()} == {(24, 72, 3)}
    with torch.no_grad():
        for parameter in made.net_g.parameters():
            parameter.mul_(0)  # black images are worse
    for loader in loaders:
        made.nondist_validation(loader, 2, None, False)
    assert best.read_bytes() == first


# Names of saved images


@given(different_paths)
def test_names_of_saved_images_are_distinct_on_every_file_system(paths):
    names = UniqueNames()
    taken = [names.take(path) for path in paths]
    for form in ("NFC", "NFD"):
        assert len({unicodedata.normalize(form, n).casefold() for n in taken}) == len(paths)
    assert not {"", ".", ".."} & set(taken)
    assert not any("/" in name for name in taken)


def test_names_of_saved_images_are_stems_where_they_can_be():
    names = UniqueNames()
    paths = ["x/a.png", "y/b.png", "x/A.jpg", "y/a.png", "y/a.png", "y/a.png", "...png"]
    expected = ["a", "b", "A_jpg", "a_png", "y_a_png", "a_2", "___png"]
    assert [names.take(path) for path in paths] == expected


def validated(folder, made, board=None, number=1):
    """Validate the images of a folder, which are saved."""
    made.opt["path"] = {
        name: str(folder) for name in ("experiments_root", "results_root", "models")
    } | {"visualization": str(folder / "saved")}
    section = {**made.opt["datasets"]["val"], "dataroot_gt": str(folder / "photos")}
    section.update(phase="val", scale=1, manual_seed=0)
    for _ in range(number):
        made.nondist_validation(DataLoader(build_dataset(section), 1), 1, board, True)


def test_images_of_every_name_are_saved_and_told(tmp_path):
    photographs(tmp_path / "photos", ("chelsea",), size=24)
    chelsea = tmp_path / "photos/chelsea.png"
    odd = not_utf8(tmp_path / "photos", b"caf\xe9.png")
    for path in (odd, tmp_path / f"photos/{'x' * 251}.png", tmp_path / "photos/a\nb.png"):
        path.write_bytes(chelsea.read_bytes())
    board = Board()
    validated(tmp_path, model(), board)
    saved = [path for path in (tmp_path / "saved").rglob("*.png") if path.is_file()]
    assert len(saved) == 4
    assert os.fsencode(tmp_path / "saved/held_out") + b"/caf\xe9/caf\xe9_1.png" in [
        os.fsencode(path) for path in saved
    ]
    assert all(tag.isprintable() for tag, _ in board.images)
    told = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    paths = [image["image"] for image in told["data_sets"]["held_out"]["images"]]
    assert str(odd) in paths  # JSON gives the name back
    validated(tmp_path, model())  # and reads its own tables again
    (tmp_path / "metrics.md").read_text(encoding="utf-8")
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open(encoding="utf-8", newline="")))
    assert [row["image"].rpartition("/")[2] for row in rows[:2]] == ["a\nb.png", "caf\\udce9.png"]


@pytest.mark.parametrize("is_train", [True, False])
def test_results_that_cannot_be_written_end_no_run(tmp_path, is_train):
    """A training goes on; a test measures every data set, then fails."""
    photographs(tmp_path / "photos", ("chelsea",), size=24)
    (tmp_path / "saved").touch()  # is a file
    (tmp_path / "metrics.csv").mkdir()
    made = model()
    made.is_train = is_train
    made.opt["datasets"] = {"val": made.opt["datasets"]["val"], "val_2": {"name": "x"}}
    with basicsr_log() as log:
        if is_train:
            validated(tmp_path, made, number=2)
        else:
            with pytest.raises(
                UserError, match=r"^4 results files could not be written: .*chelsea"
            ):
                validated(tmp_path, made, number=2)
    errors = [line for line in log if line.startswith("2 files could not be written")]
    assert len(errors) == 2
    assert "/metrics.*: Is a directory" in errors[0]
    assert len([line for line in log if line.startswith("Validation held_out")]) == 2


def stages(devices=1, **train):
    opt = train_options()
    opt["train"].update(train)
    return CIRModel.training_stages(opt, devices * opt["datasets"]["train"]["batch_size_per_gpu"])


def test_stages_of_the_training():
    assert stages(devices=3) == (Stage(8, 6),)
    assert stages(accum_iter=4) == (Stage(8, 8),)
    progressive = [
        {"iters": 5, "gt_size": 16, "batch_size_per_gpu": 8},
        {"iters": 3, "gt_size": 32, "batch_size_per_gpu": 1},
    ]
    made = stages(devices=2, accum_iter=3, progressive=progressive)
    assert made == (Stage(5, 48, 16), Stage(8, 6, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"amp": "half"}, r"^train\.amp: expected bf16 or fp16 or off; it is 'half'"),
        ({"grad_clip": 0}, r"^train\.grad_clip: .* > 0"),
        ({"acum_iter": 2}, r'^train\.acum_iter: unknown key; did you mean "accum_iter"'),
        ({"pixel_opt": None}, "one loss is needed"),
        ({"losses": {"a": {}}}, r"losses\.a\.type missing"),
        (
            {"accum_iter": 2, "pixel_opt": {"type": "L1Loss", "reduction": "sum"}},
            r"pixel_opt\.reduction must be mean with accum_iter",
        ),
        (
            {"progressive": [{"iters": 7, "gt_size": 8, "batch_size_per_gpu": 1}]},
            "progressive has stages of 7 iterations, total_iter is 8",
        ),
        ({"optim_g": {"type": "AdamW", "lr": 1, "betas": [0.9]}}, r"^train\.optim_g\.betas: "),
        ({"scheduler": {"type": "MultiStepLR"}}, r"scheduler\.milestones missing"),
    ],
)
def test_options_that_cannot_be_meant_are_named(change, message):
    with pytest.raises(OptionsError, match=message):
        typed({**train_options()["train"], **change}, TrainOptions, "train")


@pytest.mark.parametrize("wanted", [True, False])
def test_tf32_is_switched_for_products_and_convolutions(wanted):
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = not wanted
        model()
        assert [switch.allow_tf32 for switch in switches] == [not wanted] * 2  # as it was
        model(tf32=wanted)
        assert [switch.allow_tf32 for switch in switches] == [wanted] * 2
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


UCIP = {"type": "UCIP", **SMALL["UCIP"], "upscale": 1}


def test_the_codec_is_told_where_it_is_asked_for():
    codecs = torch.tensor([0, 3, 5, 3])
    blind, told, plain = model(UCIP), model(UCIP, tell_codec=True), model(UCIP)
    data = {**batch(), "codec_index": codecs}
    losses = [step(made, data)["l_pix"] for made in (blind, told)]
    with torch.no_grad():
        outputs = [plain.net_g(data["lq"]), plain.net_g(data["lq"], codecs)]
    wanted = [float((output - data["gt"]).abs().mean()) for output in outputs]
    assert losses == pytest.approx(wanted, rel=1e-5)
    assert losses[0] != pytest.approx(losses[1], rel=1e-5)
    # banks of codecs that are not in the batch learn nothing
    moved = (weights(told)["prompts.0.prompt"] != weights(plain)["prompts.0.prompt"]).flatten(1)
    assert moved.any(1).tolist() == [True, False, False, True, False, True]


def test_validation_tells_the_codec_too(tmp_path):
    made = model(UCIP)
    made.opt["val"] = {"save_img": False, "tell_codec": True}
    made.validation_options = made.val_options(made.opt)
    made.restorer = made._restorer()
    made.net_g_ema.load_state_dict(made.net_g.state_dict())
    sample = {k: v[:1] for k, v in batch().items()}
    shown = made._restore({**sample, "codec_index": torch.tensor([4])})["output"]
    with torch.no_grad():
        wanted = made.net_g_ema(sample["lq"], 4)
    assert (shown == tensor2img([wanted])).all()
    with pytest.raises(UserError, match=r"^val\.tell_codec: the samples .* UCSRDataset's do"):
        made._restore(sample)


def test_validation_moves_the_blocks_that_a_jpeg_sample_states():
    made = model()
    made.restorer = made._restorer()
    sample = {k: v[:1] for k, v in batch().items()}
    made._restore({**sample, "codec": ["JPEG"], "block_offset": torch.tensor([[0, 0]])})
    assert "block grid" not in made.restorer.describe()
    made._restore({**sample, "codec": ["JPEG"], "block_offset": torch.tensor([[5, 3]])})
    assert made.restorer.describe()["block grid"] == "not at the corner in 1 images, moved there"


@pytest.mark.parametrize("section", ["train", "val"])
def test_a_network_that_takes_no_codec_is_named(section):
    made = model()
    made.opt = train_options(**{f"{section}__tell_codec": True})
    with pytest.raises(OptionsError, match=rf"^{section}\.tell_codec: SRVGGNetCompact does not"):
        made.rehearse(made.net_g)
    if section == "train":
        with pytest.raises(UserError, match=r"^train\.tell_codec: the samples"):
            step(model(UCIP, tell_codec=True))
