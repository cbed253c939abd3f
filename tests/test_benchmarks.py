"""The scripts of benchmarks/: what they leave out, and what they must not measure."""

import numpy as np
import pytest
from bundled_weights import CASES, ONCE, SHIFT, originals
from peers import CannotRun, check, decoded
from PIL import Image
from predicted_quality import compressed


def test_a_peer_that_returns_garbage_is_not_measured():
    check(lambda data, quality: decoded(data))
    with pytest.raises(CannotRun, match="returns garbage: a clean picture comes back with"):
        check(lambda data, quality: 255 - decoded(data))


def test_inputs_fit_their_originals():
    """Nothing is shifted against the original by cutting or by compressing twice."""
    _, page = next(originals("drawn pages", None))
    photo = np.asarray(Image.fromarray(page).resize((96, 64), Image.Resampling.BOX))
    for name, make in {**ONCE, **CASES}.items():
        made = make(photo)
        assert made.pixels.shape == made.truth.shape, name
        error = np.abs(made.pixels.astype(float) - made.truth).mean()
        moved = np.abs(np.roll(made.pixels, 1, 1).astype(float) - made.truth).mean()
        assert error < moved, name
    rows, columns = SHIFT
    found = CASES["q40 cut, grid found"](photo)
    assert (found.truth == photo[rows:, columns:]).all()
    whole = np.asarray(compressed(Image.fromarray(photo), "JPEG", quality=40))
    assert (found.pixels == whole[rows:, columns:]).all()
    assert found.quality is None
    assert not found.is_file
