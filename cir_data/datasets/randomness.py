"""The random generator of a training sample."""

import numpy as np

from cir_host.sampler import SampleIndex


def sample_generator(manual_seed: int, index: int) -> np.random.Generator:
    """Return the random generator of one training sample.

    It depends only on the seed, the epoch and the position in the epoch. Samples are therefore the
    same for any number of workers, and differ between epochs and between repetitions of an image.

    Args:
        manual_seed: The run's seed, at least 0.
        index: A :class:`SampleIndex`; a plain integer is a position in epoch 0.
    """
    if isinstance(index, SampleIndex):
        return np.random.default_rng((manual_seed, index.epoch, index.position))
    return np.random.default_rng((manual_seed, 0, index))
