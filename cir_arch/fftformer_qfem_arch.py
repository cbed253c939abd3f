"""FFTformerQFEM, our reading of the SYU-HnVLab team's network of the NTIRE 2024 challenge.

Yang et al., NTIRE 2024 Challenge on Blind Enhancement of Compressed Image: Methods and Results,
CVPR Workshops 2024, section 4.8. The team published neither code nor weights. The report says: an
FFTformer of 48 channels with [4, 4, 8] blocks; a quality factor estimation module (QFEM), a branch
from the first level of the encoder's features, that acts through an additional loss alone. The
branch's layers are our choice: two strided convolutions, then the head of FBCNN.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.fftformer_arch import FFTformer
from cir_arch.layers.argument_checks import check_channels
from cir_arch.layers.convolution import to_image
from cir_arch.layers.quality_head import QualityHead
from cir_arch.network import network
from cir_arch.state_dict import State, entry_count
from cir_host.errors import UserError


class QFEM(nn.Module):
    """Predicts the quality from features: two 3x3 convolutions of stride 2, then the head."""

    def __init__(
        self, channels: int, widths: Sequence[int], hidden: int, blocks: int, use_checkpoint: bool
    ) -> None:
        super().__init__()
        first, second = widths
        self.down = nn.Sequential(
            nn.Conv2d(channels, first, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.quality = QualityHead(second, hidden, blocks, "R", use_checkpoint)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C, H, W) to 1 - QF / 100, (B, 1) in (0, 1)."""
        out: Tensor = self.quality(self.down(x))
        return out


@network(
    paper="our reading of the SYU-HnVLab team of the challenge: FFTformer, loss on the quality",
    gmacs=36.12,
    small={
        "dim": 6,
        "num_blocks": (1, 1, 1),
        "num_refinement_blocks": 1,
        "qfem_widths": (4, 6),
        "qfem_hidden": 5,
    },
    unused_parameters=r"reduce_chan_level2\.weight|qfem\..*",
)
class FFTformerQFEM(FFTformer):
    """FFTformer that also predicts the quality of the image, for a loss on it.

    The restored image does not depend on the prediction, which is computed only on request. Weights
    of FFTformer fit it, but for the branch ``qfem``. Takes FFTformer's arguments, too.

    Args:
        inp_channels: As in :class:`FFTformer <cir_arch.fftformer_arch.FFTformer>`.
        out_channels: The same.
        dim: The same.
        num_blocks: The same.
        num_refinement_blocks: The same; not stated in the report.
        ffn_expansion_factor: The same.
        bias: The same.
        use_checkpoint: The same.
        qfem_widths: Channels of the branch's two convolutions; not stated in the report.
        qfem_hidden: Hidden channels of the branch's linear layers; not stated in the report.
        qfem_blocks: Residual blocks of the branch; not stated in the report.

    Raises:
        UserError: If an argument has another number of values, or a value that the network cannot
            have; the message names it.
    """

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int | None = None,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 4, 8),
        num_refinement_blocks: int = 4,
        ffn_expansion_factor: float = 3,
        bias: bool = False,
        use_checkpoint: bool = False,
        qfem_widths: Sequence[int] = (64, 128),
        qfem_hidden: int = 128,
        qfem_blocks: int = 1,
    ) -> None:
        super().__init__(
            inp_channels,
            out_channels,
            dim,
            num_blocks,
            num_refinement_blocks,
            ffn_expansion_factor,
            bias,
            use_checkpoint,
        )
        if len(qfem_widths) != 2:
            raise UserError(
                f"qfem_widths: {list(qfem_widths)} has {len(qfem_widths)} numbers; give two, for"
                " the branch's two convolutions"
            )
        check_channels(qfem_widths=min(qfem_widths), qfem_hidden=qfem_hidden)
        self.qfem = QFEM(dim, qfem_widths, qfem_hidden, qfem_blocks, use_checkpoint)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        arguments = FFTformer.arguments_from(state)
        if arguments is None or "qfem.down.0.weight" not in state:
            return None
        blocks = entry_count(state, "qfem.quality.", inside=".res.")
        return {
            **arguments,
            "qfem_widths": [len(state[f"qfem.down.{layer}.weight"]) for layer in (0, 2)],
            "qfem_hidden": len(state[f"qfem.quality.{blocks + 2}.weight"]),
            "qfem_blocks": blocks,
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return replace(super().facts, extra_outputs=("quality",))

    def forward(self, x: Tensor, return_quality: bool = False) -> Any:
        """Restore images (B, C, H, W), RGB in [0, 1]; same shape, not clamped.

        Sides that are not multiples of 32 are padded as in FFTformer; the branch sees the padded
        features.

        Args:
            x: Images.
            return_quality: Return the image and the predicted quality (B, 1), 1 - QF / 100 in
                (0, 1).

        Raises:
            UserError: If the number of channels is not the network's.
        """
        out, features = self._restored(x)
        return (out, self.qfem(to_image(features))) if return_quality else out
