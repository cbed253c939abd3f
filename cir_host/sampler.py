"""The training samples of a run as a single stream, from which each iteration takes its share.

BasicSR restarts the epoch in a resumed run, and drops the incomplete batch at its end. Here the
samples of an iteration depend only on the number of samples drawn before, so a run resumes at any
iteration, with any number of processes, as if it had never stopped.
"""

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from cir_host.random_states import kept_random_states


class SampleIndex(int):
    """An index into a data set, with its epoch and its position in the epoch.

    For other data sets it is an ``int``. Ours derive their random stream from ``epoch`` and
    ``position``, so samples do not depend on the number of workers, and take crops of ``crop_size``
    pixels if it is not None.
    """

    epoch: int
    position: int
    crop_size: int | None

    def __new__(  # noqa: D102
        cls, index: int, epoch: int, position: int, crop_size: int | None = None
    ) -> "SampleIndex":
        self = super().__new__(cls, index)
        self.epoch = epoch
        self.position = position
        self.crop_size = crop_size
        return self

    def __reduce__(self) -> tuple[type["SampleIndex"], tuple[int, int, int, int | None]]:
        return type(self), (int(self), self.epoch, self.position, self.crop_size)


@dataclass(frozen=True)
class Stage:
    """A part of the training with a fixed batch and crop size."""

    last_iter: int
    batch_size: int
    """Samples of an iteration, over all processes."""
    crop_size: int | None = None
    """Side of the crops in pixels; None: by the data set."""


@dataclass(frozen=True)
class DataPlan:
    """Which samples of the stream each iteration takes."""

    images: int
    epoch_size: int
    """Samples per epoch: the number of images times ``dataset_enlarge_ratio``."""
    stages: tuple[Stage, ...]
    start_iter: int = 0
    start_sample: int = 0
    """Samples drawn by the end of iteration ``start_iter``."""

    def stage(self, iteration: int) -> Stage:
        """Return the stage of an iteration, counted from 1; the last stage has no end."""
        ends = [stage.last_iter for stage in self.stages]
        return self.stages[min(bisect_left(ends, iteration), len(ends) - 1)]

    def drawn(self, iteration: int) -> int:
        """Return how many samples the run has drawn by the end of an iteration."""
        drawn, done = self.start_sample, self.start_iter
        for stage in self.stages:
            last = iteration if stage is self.stages[-1] else min(stage.last_iter, iteration)
            drawn += max(0, last - done) * stage.batch_size
            done = max(done, last)
        return drawn

    def epoch(self, iteration: int) -> int:
        """Return the epoch, counted from 0, of the last sample of an iteration."""
        return max(0, self.drawn(iteration) - 1) // self.epoch_size


class TrainingBatches(Sampler[list[SampleIndex]]):
    """All batches of one process, from a plan's start to the last iteration.

    An epoch has the order of BasicSR's ``EnlargedSampler``, and a batch may extend into the next
    epoch. Processes take turns at the samples of an iteration, so with the same total batch size
    these are the same for any number of processes.

    Args:
        plan: The samples of each iteration.
        total_iter: The last iteration.
        rank: The rank of this process.
        world_size: The number of processes.
    """

    def __init__(self, plan: DataPlan, total_iter: int, rank: int = 0, world_size: int = 1) -> None:
        self.plan = plan
        self.total_iter = total_iter
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return max(0, self.total_iter - self.plan.start_iter)

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        size = self.plan.epoch_size
        epoch, order = -1, torch.empty(0)
        first = self.plan.start_sample
        for iteration in range(self.plan.start_iter + 1, self.total_iter + 1):
            stage = self.plan.stage(iteration)
            batch = []
            for sample in range(first + self.rank, first + stage.batch_size, self.world_size):
                if sample // size != epoch:
                    epoch = sample // size
                    order = torch.randperm(size, generator=torch.Generator().manual_seed(epoch))
                position = int(order[sample % size])
                index = position % self.plan.images
                batch.append(SampleIndex(index, epoch, position, stage.crop_size))
            first += stage.batch_size
            yield batch


class SeededSamples(Dataset[Any]):
    """A data set of BasicSR or another package, with a random stream of its own for each sample.

    Such data sets use the global generators of Python, NumPy and PyTorch, so their samples would
    depend on the number of workers and repeat in every epoch.

    Args:
        dataset: Any data set with a length. A crop size is set as its ``opt["gt_size"]``.
        manual_seed: The seed of the run.
    """

    def __init__(self, dataset: Sequence[Any], manual_seed: int) -> None:
        self.dataset = dataset
        self.manual_seed = manual_seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: SampleIndex) -> Any:
        if index.crop_size is not None:
            self.dataset.opt["gt_size"] = index.crop_size  # type: ignore[attr-defined]
        with kept_random_states():
            entropy = (self.manual_seed, index.epoch, index.position)
            words = np.random.SeedSequence(entropy).generate_state(3)
            random.seed(int(words[0]))
            np.random.seed(int(words[1]))
            torch.manual_seed(int(words[2]))
            return self.dataset[index]
