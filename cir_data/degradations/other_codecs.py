"""What takes the place of JPEG in a share of the crops: another codec, or no compression."""

from collections.abc import Sequence

import numpy as np

from cir_data.codecs.choice import make_codec, qualities_of
from cir_data.codecs.codec import Codec
from cir_data.codecs.uncompressed import FULL_QUALITY, Uncompressed
from cir_data.degradations.degradation import Compress
from cir_data.draws import Mixture
from cir_data.options import OtherCodec


class OtherCodecs:
    """Draws the compressions that take the place of JPEG.

    Args:
        entries: Other codecs with their shares.
        uncompressed: The share of crops that are not compressed.
        where: The key of the entries, for messages.

    Raises:
        OptionsError: A quality is outside the range of its codec.
        UserError: A package or program is missing.
    """

    def __init__(self, entries: Sequence[OtherCodec], uncompressed: float, where: str) -> None:
        self._codecs: list[tuple[Codec, Mixture[int], int | None]] = []
        shares: list[float] = []
        for number, entry in enumerate(entries):
            key = f"{where}[{number}]"
            codec = make_codec(entry.codec, f"{key}.codec")
            qualities = qualities_of(entry.quality, codec, f"{key}.quality")
            self._codecs.append((codec, qualities, entry.context))
            shares.append(entry.probability)
        self._codecs.append((Uncompressed(), Mixture[int].of(FULL_QUALITY), None))
        self._bounds = np.cumsum([*shares, uncompressed])

    def draw(self, rng: np.random.Generator) -> Compress | None:
        """Return the compression of one crop; None: by JPEG, as for the others."""
        chosen = int(np.searchsorted(self._bounds, rng.random(), side="right"))
        if chosen == len(self._codecs):
            return None
        codec, qualities, context = self._codecs[chosen]
        return Compress(codec, qualities.draw(rng), context)
