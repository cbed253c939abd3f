"""How long BasicSR trains, what its loaders refuse, and where its last validation stands."""

import basicsr.train
import pytest
import torch
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.models.base_model import BaseModel
from host_tools import (
    TinyBatchNorm,
    basicsr_log,
    checkpoints,
    run_here,
    test_options,
    train_options,
    write_pairs,
)

from cir_host import patches
from cir_host.errors import UserError
from cir_host.sampler import DataPlan, Stage, TrainingBatches


@pytest.fixture
def options(tmp_path):
    write_pairs(tmp_path)
    return train_options(tmp_path)


def test_training_reaches_total_iter(tmp_path, options, monkeypatch):
    options["datasets"]["train"]["batch_size_per_gpu"] = 3  # 8 images: 2 batches, not 3
    run_here(monkeypatch, tmp_path, options)
    assert checkpoints(tmp_path) == [4, 8, 12]


def test_basicsr_ends_before_total_iter(tmp_path, options, monkeypatch):
    for name in ("create_train_val_dataloader", "MessageLogger"):  # ours logs the plan of the other
        monkeypatch.setattr(basicsr.train, name, patches.original(f"basicsr.train:{name}"))
    options["datasets"]["train"]["batch_size_per_gpu"] = 3
    run_here(monkeypatch, tmp_path, options)
    if checkpoints(tmp_path) == [4, 8, 12]:
        pytest.skip("mended upstream")
    assert checkpoints(tmp_path) == [4, 8]


def test_a_resumed_run_reaches_total_iter_with_smaller_batches(tmp_path, options, monkeypatch):
    """The epoch of the state counts 1 batch; the options now give 8."""
    options["datasets"]["train"]["batch_size_per_gpu"] = 8
    options["train"]["total_iter"] = 8
    run_here(monkeypatch, tmp_path, options)
    options["datasets"]["train"]["batch_size_per_gpu"] = 1
    options["train"]["total_iter"] = 12
    run_here(monkeypatch, tmp_path, options, "--auto_resume")
    assert checkpoints(tmp_path) == [4, 8, 12]


def test_a_batch_larger_than_the_data_set_is_refused(tmp_path, options, monkeypatch):
    options["datasets"]["train"]["batch_size_per_gpu"] = 16
    with pytest.raises(UserError, match=r"'train': 8 images .* batch of 16; lower batch_size"):
        run_here(monkeypatch, tmp_path, options)


def test_an_enlarged_data_set_fills_the_batch(tmp_path, options, monkeypatch):
    options["datasets"]["train"].update(batch_size_per_gpu=16, dataset_enlarge_ratio=2)
    run_here(monkeypatch, tmp_path, options)
    assert checkpoints(tmp_path) == [4, 8, 12]


@pytest.mark.parametrize("section", ["train", "val"])
def test_an_empty_data_set_is_refused(tmp_path, options, monkeypatch, section):
    for kind in ("gt", "lq"):
        for file in (tmp_path / section / kind).iterdir():
            file.unlink()
    with pytest.raises(UserError, match=f"'{section}': holds no images"):
        run_here(monkeypatch, tmp_path, options)


def test_training_without_a_training_set_is_refused(tmp_path, options, monkeypatch):
    del options["datasets"]["train"]
    with pytest.raises(UserError, match=r"datasets\.train: missing"):
        run_here(monkeypatch, tmp_path, options)


def validations(log):
    return [message for message in log if message.startswith("Validation")]


@pytest.mark.parametrize(("val_freq", "iterations"), [(6, [6, 12]), (5, [5, 10, 12]), (100, [12])])
def test_the_last_validation_stands_at_total_iter_once(
    tmp_path, options, monkeypatch, val_freq, iterations
):
    seen = []
    inner = basicsr.models.sr_model.SRModel.nondist_validation

    def nondist_validation(self, dataloader, current_iter, *args):
        seen.append((dataloader.dataset.opt["name"], current_iter))
        inner(self, dataloader, current_iter, *args)

    monkeypatch.setattr(basicsr.models.sr_model.SRModel, "nondist_validation", nondist_validation)
    options["val"].update(val_freq=val_freq, save_img=True)
    options["datasets"]["val_2"] = {**options["datasets"]["val"], "name": "second"}
    with basicsr_log() as log:
        run_here(monkeypatch, tmp_path, options)
    assert seen == [(name, i) for i in iterations for name in ("val", "second")]
    assert len(validations(log)) == 2 * len(iterations)
    pictures = (tmp_path / "experiments/tiny/visualization/000").iterdir()
    assert {p.stem for p in pictures} == {f"000_{i}" for i in iterations}


def test_a_test_is_validated_under_its_name_every_time(tmp_path, options, monkeypatch):
    run_here(monkeypatch, tmp_path, options)
    test = test_options(tmp_path, tmp_path / "experiments/tiny/models/net_g_latest.pth")
    with basicsr_log() as log:
        run_here(monkeypatch, tmp_path, test, command="test")
    assert "tiny_test iter" in validations(log)[0]


def test_persistent_workers_without_workers_are_no_error(tmp_path, options, monkeypatch):
    for dataset in options["datasets"].values():
        dataset["persistent_workers"] = True
    run_here(monkeypatch, tmp_path, options)
    assert checkpoints(tmp_path) == [4, 8, 12]
    test = test_options(tmp_path, tmp_path / "experiments/tiny/models/net_g_latest.pth")
    test["datasets"]["test_1"]["persistent_workers"] = True
    run_here(monkeypatch, tmp_path, test, command="test")


def test_persistent_workers_stay_where_there_are_workers(options):
    train = {**options["datasets"]["train"], "phase": "train", "scale": 1}
    train.update(num_worker_per_gpu=1, persistent_workers=True)
    dataset = basicsr.train.build_dataset(train)
    assert basicsr.train.build_dataloader(dataset, train, num_gpu=0).persistent_workers


def trained_and_averaged():
    model = BaseModel({"num_gpu": 0, "is_train": True})
    model.net_g, model.net_g_ema = TinyBatchNorm(), TinyBatchNorm()
    model.net_g(torch.rand(2, 3, 8, 8))  # moves the running statistics
    return model


def test_averaged_weights_have_the_buffers_of_the_network():
    model = trained_and_averaged()
    before = {k: v.clone() for k, v in model.net_g_ema.named_parameters()}
    model.model_ema(decay=0.75)
    buffers = dict(model.net_g.named_buffers())
    assert buffers["body.1.num_batches_tracked"] == 1
    for name, averaged in model.net_g_ema.named_buffers():
        assert torch.equal(averaged, buffers[name])
        assert averaged.data_ptr() != buffers[name].data_ptr()
    for name, averaged in model.net_g_ema.named_parameters():
        now = dict(model.net_g.named_parameters())[name]
        torch.testing.assert_close(averaged, 0.75 * before[name] + 0.25 * now)


def test_averaged_weights_keep_what_is_cached_for_another_size():
    model = trained_and_averaged()
    for network, size in ((model.net_g, 2), (model.net_g_ema, 3)):
        network.register_buffer("mask", torch.zeros(size), persistent=False)
    model.model_ema(decay=0.75)
    assert model.net_g_ema.mask.shape == (3,)
    assert model.net_g_ema.body[1].num_batches_tracked == 1


def batches(plan, total_iter, ranks=1):
    """The samples of every iteration as (epoch, position), over all processes."""
    loaders = [list(TrainingBatches(plan, total_iter, rank, ranks)) for rank in range(ranks)]
    return [
        [(i.epoch, i.position) for group in zip(*parts, strict=True) for i in group]
        for parts in zip(*loaders, strict=True)
    ]


@pytest.mark.parametrize(("images", "ratio"), [(7, 1), (3, 2.5)])
def test_the_stream_keeps_basicsr_s_order_and_crosses_epochs(images, ratio):
    theirs = EnlargedSampler(range(images), 1, 0, ratio)
    plan = DataPlan(images, len(theirs), (Stage(100, 3),))
    drawn = [index for batch in TrainingBatches(plan, 10) for index in batch]
    assert len(drawn) == 30
    for epoch in range(30 // len(theirs)):
        theirs.set_epoch(epoch)
        ours = drawn[epoch * len(theirs) : (epoch + 1) * len(theirs)]
        assert ours == list(theirs)
        assert {index.epoch for index in ours} == {epoch}
        assert sorted(index.position for index in ours) == list(range(len(theirs)))


STAGES = (Stage(4, 6, 16), Stage(9, 2, 32), Stage(12, 4, 48))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("start", [0, 3, 4, 7, 11])
def test_the_stream_goes_on_anywhere_in_any_number_of_processes(start, ranks):
    whole = DataPlan(5, 10, STAGES)
    rest = DataPlan(5, 10, STAGES, start, whole.drawn(start))
    assert batches(rest, 14, ranks) == batches(whole, 14)[start:]
    assert rest.drawn(14) == whole.drawn(14) == sum(map(len, batches(whole, 14)))
    assert rest.epoch(14) == batches(whole, 14)[-1][-1][0]


def test_stages_change_the_crops():
    sizes = [batch[0].crop_size for batch in TrainingBatches(DataPlan(5, 10, STAGES), 14)]
    assert sizes == [16] * 4 + [32] * 5 + [48] * 5


def test_basicsr_trains_with_our_sampler(tmp_path, options, monkeypatch):
    seen = []

    class Recording(basicsr.data.paired_image_dataset.PairedImageDataset):
        def __getitem__(self, index):
            seen.append((index.epoch, index.position))
            return super().__getitem__(index)

    registry = basicsr.utils.registry.DATASET_REGISTRY
    monkeypatch.setitem(registry._obj_map, "Recording", Recording)
    options["datasets"]["train"]["type"] = "Recording"
    run_here(monkeypatch, tmp_path, options)
    assert {epoch for epoch, _ in seen} >= {0, 1, 2}
    assert {position for _, position in seen} == set(range(8))
