"""Prefetching: it ends, it raises, and it needs no GPU. What could hang runs under a time limit."""

import sys
import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import ClassVar

import basicsr.train
import pytest
import torch
from basicsr.data.prefetch_dataloader import CPUPrefetcher, CUDAPrefetcher, PrefetchDataLoader
from host_tools import (
    basicsr_log,
    checkpoints,
    run_here,
    run_python,
    script,
    train_options,
    write_pairs,
)
from torch.utils.data import DataLoader

from cir_host import patches
from cir_host.errors import UserError
from cir_host.prefetch import PrefetchThread


@pytest.fixture
def options(tmp_path):
    write_pairs(tmp_path)
    options = train_options(tmp_path)
    options["datasets"]["train"]["prefetch_mode"] = "cpu"
    return options


def break_image(root, name="train/lq/003.png", size=100):
    file = root / name
    file.write_bytes(file.read_bytes()[:size])
    return file


def test_persistent_workers_reach_the_end(tmp_path, options):
    """8 images, batch 3: the last epoch ends early, with the prefetching thread at work."""
    options["datasets"]["train"].update(
        batch_size_per_gpu=3, num_worker_per_gpu=2, persistent_workers=True
    )
    options["train"]["total_iter"] = 13
    options["val"]["save_img"] = True
    done = run_python(script(tmp_path, options), tmp_path, timeout=60)
    assert checkpoints(tmp_path) == [4, 8, 12]
    assert (tmp_path / "experiments/tiny/visualization/000/000_13.png").is_file()
    assert "Traceback" not in done.stderr


def test_an_unreadable_image_ends_the_training_and_is_named(tmp_path, options):
    file = break_image(tmp_path)
    options["datasets"]["train"]["num_worker_per_gpu"] = 1
    done = run_python(script(tmp_path, options), tmp_path, timeout=60, check=False)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"error: {file}: cannot be read as an image; remove or replace it"


@pytest.mark.parametrize("size", [0, 100])
def test_an_unreadable_image_is_named_without_prefetching(tmp_path, options, monkeypatch, size):
    options["datasets"]["train"]["prefetch_mode"] = None
    break_image(tmp_path, "val/gt/001.png", size)
    with pytest.raises(UserError, match=r"val/gt/001\.png: cannot be read as an image"):
        run_here(monkeypatch, tmp_path, options)


def test_no_module_of_basicsr_keeps_the_reader_that_names_no_file():
    original = patches.original("basicsr.utils.img_util:imfrombytes")
    holders = [name for name in sys.modules if name.startswith("basicsr.")]
    assert [n for n in holders if getattr(sys.modules[n], "imfrombytes", None) is original] == []


def test_cuda_prefetching_without_a_gpu_is_done_by_the_cpu(tmp_path, options, monkeypatch):
    monkeypatch.setattr(basicsr.train.torch.cuda, "is_available", lambda: False)
    options["datasets"]["train"]["prefetch_mode"] = "cuda"
    with basicsr_log() as log:
        run_here(monkeypatch, tmp_path, options)
    assert checkpoints(tmp_path) == [4, 8, 12]
    assert sum("there is no GPU; using cpu" in message for message in log) == 1


def test_cuda_prefetching_stays_with_a_gpu(tmp_path, options, monkeypatch):
    monkeypatch.setattr(basicsr.train.torch.cuda, "is_available", lambda: True)
    made = []

    def prefetcher(loader, opt):
        made.append(type(loader))
        raise InterruptedError

    monkeypatch.setattr(basicsr.train, "CUDAPrefetcher", prefetcher)
    options["datasets"]["train"].update(prefetch_mode="cuda", pin_memory=True)
    with pytest.raises(InterruptedError):
        run_here(monkeypatch, tmp_path, options)
    assert made == [DataLoader]


class Counting(list):
    """A loader that counts how often it is opened."""

    opened = 0

    def __iter__(self):
        self.opened += 1
        return super().__iter__()


def test_the_prefetcher_opens_its_loader_once_an_epoch():
    loader = Counting([1, 2])
    prefetcher = CPUPrefetcher(loader)
    assert loader.opened == 0
    for epoch in (1, 2):
        prefetcher.reset()
        assert [prefetcher.next() for _ in range(4)] == [1, 2, None, None]
        assert loader.opened == epoch


class Reused(torch.Tensor):
    """A batch that notes which stream it is said to be read by."""

    is_cuda = True
    streams: ClassVar = []

    def record_stream(self, stream):
        self.streams.append(stream)

    def to(self, *_, **__):
        return self


def test_the_cuda_prefetcher_opens_its_loader_once_and_keeps_batches_in_use(monkeypatch):
    """Without record_stream, the next batch is copied over one that the GPU still reads."""
    reading = SimpleNamespace(wait_stream=lambda _: None)
    for name, made in {
        "Stream": lambda: None,
        "stream": lambda _: nullcontext(),
        "current_stream": lambda: reading,
    }.items():
        monkeypatch.setattr(torch.cuda, name, made)
    loader = Counting([{"lq": torch.zeros(1).as_subclass(Reused), "name": "a"}])
    prefetcher = CUDAPrefetcher(loader, {"num_gpu": 1})
    prefetcher.reset()
    assert loader.opened == 1
    assert Reused.streams == []
    assert prefetcher.next()["name"] == "a"
    assert Reused.streams == [reading]
    assert prefetcher.next() is None


def test_a_prefetcher_that_was_never_reset_reads_from_the_start():
    prefetcher = CPUPrefetcher([1, 2])
    assert [prefetcher.next() for _ in range(3)] == [1, 2, None]


def test_an_error_reaches_the_reader_after_the_batches_before_it():
    def batches():
        yield 1
        raise ZeroDivisionError("a broken batch")

    prefetching = PrefetchThread(batches(), 1)
    assert next(prefetching) == 1
    with pytest.raises(ZeroDivisionError, match="a broken batch"):
        next(prefetching)
    assert list(prefetching) == []


def test_a_new_epoch_ends_the_thread_of_the_one_before():
    threads = threading.active_count()
    loader = PrefetchDataLoader(num_prefetch_queue=1, dataset=list(range(100)))
    unfinished = iter(loader)
    assert next(unfinished) == 0
    again = iter(loader)
    assert threading.active_count() == threads + 1
    assert list(unfinished) == []
    assert [int(x) for x in again] == list(range(100))


@pytest.mark.parametrize("read", [CPUPrefetcher.next, CUDAPrefetcher.preload])
def test_a_worker_s_error_keeps_its_own_line(read):
    batches = iter(DataLoader([1], num_workers=1, collate_fn=raise_user_error))
    with pytest.raises(UserError) as caught:
        read(SimpleNamespace(loader=batches))
    batches._shutdown_workers()
    assert str(caught.value) == "x.png: UserError: broken"


def raise_user_error(_samples):
    try:
        raise AttributeError("None")
    except AttributeError as error:
        raise UserError("x.png: UserError: broken") from error
