"""GRL-CIC, our reading of the BinYCN team's network of the NTIRE 2024 challenge.

Yang et al., NTIRE 2024 Challenge on Blind Enhancement of Compressed Image: Methods and Results,
CVPR Workshops 2024, section 4.4. The team published neither code nor weights.

The report says: GRL (https://arxiv.org/abs/2303.00748) whose blocks compute anchored stripe
attention, window attention and channel attention in parallel; a relatively small branch predicts
the quality factor and shares parameters with the restoration; a gate generator gets the estimate in
addition, and its weights rescale the features. All else was chosen here, each as an argument: the
width and depth, the stage whose features predict the quality, the embedding of the quality, and the
gates, one after each later stage, from the means of the features and the embedding. No figure of
the report can be reproduced with it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.grl_arch import GRL
from cir_arch.layers.argument_checks import check_channels
from cir_arch.layers.convolution import to_image
from cir_arch.layers.quality_head import QualityHead
from cir_arch.layers.quality_modulation import given_or_predicted
from cir_arch.network import network
from cir_arch.state_dict import State, divisor, entry_count
from cir_host.errors import UserError


class CompressionControl(nn.Module):
    """Predicts the quality from features, and computes gates of later features from it."""

    def __init__(
        self,
        channels: int,
        quality_nc: int,
        quality_blocks: int,
        embed_nc: int,
        hidden: int,
        stages: Sequence[int],
        use_checkpoint: bool,
    ) -> None:
        super().__init__()
        self.predict = QualityHead(channels, quality_nc, quality_blocks, "R", use_checkpoint)
        self.embed = nn.Sequential(
            nn.Linear(1, embed_nc), nn.ReLU(), nn.Linear(embed_nc, embed_nc), nn.ReLU()
        )
        self.gates = nn.ModuleDict(
            {
                str(stage): nn.Sequential(
                    nn.Linear(channels + embed_nc, hidden), nn.ReLU(), nn.Linear(hidden, channels)
                )
                for stage in stages
            }
        )

    def start_as_identity(self) -> None:
        """Let all gates be 1."""
        for gate in self.gates.values():
            for parameter in gate.get_submodule("2").parameters():
                nn.init.zeros_(parameter)

    def rescaled(self, x: Tensor, stage: int, embedding: Tensor) -> Tensor:
        """Rescale the features (B, H, W, C) of a stage; ``embedding`` is (B, E) or (1, E)."""
        means = x.mean((1, 2))
        given = torch.cat((means, embedding.expand(len(means), -1)), dim=1)
        gate = 2 * torch.sigmoid(self.gates[str(stage)](given))
        return x * gate[:, None, None].to(x.dtype)


@network(
    paper="our reading of the BinYCN team of the challenge",
    gmacs=333.54,
    small={
        "embed_dim": 24,
        "depths": (1, 1, 1),
        "num_heads_window": (2, 3, 1),
        "num_heads_stripe": (3, 2, 1),
        "window_size": 4,
        "stripe_size": (4, 8),
        "anchor_window_down_factor": 2,
        "local_connection": False,
        "drop_path_rate": 0.0,
        "quality_nc": 8,
        "embed_nc": 6,
        "identity_start": False,
    },
    untold=("window_size", "stripe_size", "anchor_window_down_factor"),
)
class GRL_CIC(GRL):  # noqa: N801 (the registered name)
    """GRL that predicts the image's quality and rescales its features accordingly.

    Args:
        in_channels: Channels of input and output image.
        embed_dim: Channels of the features.
        img_range: Factor of the image inside the network. Images are in [0, 1].
        depths: Blocks of each stage.
        num_heads_window: Heads of the attention in windows, for each stage.
        num_heads_stripe: Heads of the attention in stripes, for each stage.
        window_size: Side of the windows in pixels.
        stripe_size: Height and width of the stripes in pixels; every second block swaps them.
        anchor_window_down_factor: Side of the square of pixels whose mean is an anchor.
        mlp_ratio: Hidden over outer channels of the feed-forward networks.
        local_connection: Whether blocks have a convolution block with channel attention.
        drop_path_rate: Stochastic depth, as in GRL.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.
        quality_after: The quality is predicted from the features after so many stages. Those of
            every later stage are rescaled.
        quality_nc: Hidden channels of the quality head.
        quality_blocks: Residual blocks of the quality head.
        embed_nc: Channels of the quality's embedding.
        gate_reduction: Channels of the features over hidden channels of a gate.
        identity_start: All gates start at 1, so that with weights of GRL the image is that of GRL.

    Raises:
        UserError: If arguments contradict each other; the message names them.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dim: int = 180,
        img_range: float = 1.0,
        depths: Sequence[int] = (4,) * 4,
        num_heads_window: Sequence[int] = (3,) * 4,
        num_heads_stripe: Sequence[int] = (3,) * 4,
        window_size: int = 36,
        stripe_size: Sequence[int] = (72, 144),
        anchor_window_down_factor: int = 4,
        mlp_ratio: float = 2.0,
        local_connection: bool = True,
        drop_path_rate: float = 0.1,
        use_checkpoint: bool = False,
        quality_after: int = 1,
        quality_nc: int = 128,
        quality_blocks: int = 1,
        embed_nc: int = 64,
        gate_reduction: int = 4,
        identity_start: bool = True,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            embed_dim=embed_dim,
            img_range=img_range,
            depths=depths,
            num_heads_window=num_heads_window,
            num_heads_stripe=num_heads_stripe,
            window_size=window_size,
            stripe_size=stripe_size,
            anchor_window_down_factor=anchor_window_down_factor,
            mlp_ratio=mlp_ratio,
            local_connection=local_connection,
            drop_path_rate=drop_path_rate,
            use_checkpoint=use_checkpoint,
        )
        if not 1 <= quality_after < len(depths):
            raise UserError(
                f"quality_after: {quality_after} leaves no stage on one side; give 1 to one less "
                f"than the number of stages ({len(depths)})"
            )
        if quality_blocks < 1:
            raise UserError(f"quality_blocks: {quality_blocks} is too few; give 1 or more")
        if not 1 <= gate_reduction <= embed_dim:
            raise UserError(
                f"gate_reduction: {embed_dim} channels cannot be divided by {gate_reduction}; give "
                f"1 to {embed_dim}"
            )
        check_channels(quality_nc=quality_nc, embed_nc=embed_nc)
        self.quality_after = quality_after
        self.cic = CompressionControl(
            embed_dim,
            quality_nc,
            quality_blocks,
            embed_nc,
            embed_dim // gate_reduction,
            range(quality_after, len(depths)),
            use_checkpoint,
        )
        if identity_start:
            self.cic.start_as_identity()

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        arguments = GRL.arguments_from(state)
        if arguments is None or "cic.embed.0.weight" not in state:
            return None
        blocks = entry_count(state, "cic.predict.", inside=".res.")
        gated = entry_count(state, "cic.gates.")
        quality_after = len(arguments["depths"]) - gated
        hidden, given = state[f"cic.gates.{quality_after}.0.weight"].shape
        embed_nc = len(state["cic.embed.0.weight"])
        return {
            # identity_start: for training only
            **arguments,
            "quality_after": quality_after,
            "quality_nc": len(state[f"cic.predict.{blocks + 2}.weight"]),
            "quality_blocks": blocks,
            "embed_nc": embed_nc,
            "gate_reduction": divisor([(given - embed_nc, hidden)], 4),
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network.

        The receptive field is the whole image, because the gates and the predicted quality depend
        on it.
        """
        return replace(
            super().facts, halo=None, extra_outputs=("quality",), extra_inputs=("quality",)
        )

    def forward(  # type: ignore[override]
        self, x: Tensor, quality: float | Tensor | None = None, return_quality: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Restore images (B, C, H, W), RGB in [0, 1]; same shape, not clamped.

        Sides are padded as in GRL. The means that predict the quality and the gates are those of
        the padded image.

        Args:
            x: Images.
            quality: 1 - QF / 100 in [0, 1], used instead of the prediction: one number for all
                images, or (B, 1) or (1, 1). None: predict it.
            return_quality: Return the image and the predicted quality (B, 1), even if another
                quality was given. NaN in a given tensor is then replaced by the prediction.

        Raises:
            UserError: If ``quality`` is a number outside [0, 1] or a tensor of another shape, or
                the number of channels is not the network's.
        """
        image, shallow = self._shallow(x)
        y = self.norm_start(shallow)
        for stage in self.layers[: self.quality_after]:
            y = stage(y)
        early = to_image(y)
        strength, predicted = given_or_predicted(
            quality, lambda: self.cic.predict(early), x, return_quality
        )
        embedding = self.cic.embed(strength)
        for index in range(self.quality_after, len(self.layers)):
            y = self.cic.rescaled(self.layers[index](y), index, embedding)
        out = self._image(image, shallow, y, x)
        if predicted is None or not return_quality:
            return out
        return out, predicted
