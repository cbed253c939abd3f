"""The training sampler: BasicSR's order, with each index carrying where in the run it stands."""

from collections.abc import Iterator

import torch
from basicsr.data.data_sampler import EnlargedSampler


class SampleIndex(int):
    """An index into a data set that also knows its epoch and its position in it.

    It is an ``int`` for every data set; ours derive their random stream from ``epoch`` and
    ``position``, so that samples do not depend on the number of workers.
    """

    epoch: int
    position: int

    def __new__(cls, index: int, epoch: int, position: int) -> "SampleIndex":  # noqa: D102
        self = super().__new__(cls, index)
        self.epoch = epoch
        self.position = position
        return self

    def __reduce__(self) -> tuple[type["SampleIndex"], tuple[int, int, int]]:
        return type(self), (int(self), self.epoch, self.position)


class PositionedSampler(EnlargedSampler):
    """BasicSR's ``EnlargedSampler`` in the same order, yielding :class:`SampleIndex`.

    ``position`` is the draw before ``dataset_enlarge_ratio`` folds it onto the data set, and is
    unique within an epoch over all ranks.
    """

    def __iter__(self) -> Iterator[SampleIndex]:
        generator = torch.Generator()
        generator.manual_seed(self.epoch)
        order = torch.randperm(self.total_size, generator=generator).tolist()
        mine = order[self.rank : self.total_size : self.num_replicas]
        size, epoch = len(self.dataset), self.epoch
        return (SampleIndex(p % size, epoch, p) for p in mine)
