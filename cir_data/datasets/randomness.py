"""The random stream of a training sample."""

import numpy as np

from cir_host.sampler import SampleIndex


def sample_generator(manual_seed: int, index: int) -> np.random.Generator:
    """Return the generator of one training sample, from where the sample stands in the run.

    It depends on the seed, the epoch and the position in the epoch alone, so that samples are the
    same whatever the number of workers, and new in every epoch and every repetition of an image.

    Args:
        manual_seed: The run's seed, at least 0.
        index: A :class:`SampleIndex`; a plain integer counts as that position of epoch 0.
    """
    if isinstance(index, SampleIndex):
        return np.random.default_rng((manual_seed, index.epoch, index.position))
    return np.random.default_rng((manual_seed, 0, index))
