"""Layers that restore according to a quality (Jiang et al., FBCNN, ICCV 2021)."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from cir_arch.layers.residual_conv import ResidualBranch
from cir_host.errors import UserError


class QFAttention(ResidualBranch):
    """Residual block whose branch is scaled and shifted by the quality."""

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape; ``gamma`` and ``beta`` are (B, C, 1, 1)."""
        return x + gamma * self.branch(x) + beta


def quality_embedding(width: int) -> nn.Sequential:
    """Build three linear layers that embed a quality, (B, 1) to (B, width)."""
    return nn.Sequential(
        nn.Linear(1, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
    )


def scale_by_quality(width: int, channels: int) -> nn.Sequential:
    """Build the layer that turns an embedding (B, width) into ``gamma``, (B, C) in (0, 1)."""
    return nn.Sequential(nn.Linear(width, channels), nn.Sigmoid())


def shift_by_quality(width: int, channels: int) -> nn.Sequential:
    """Build the layer that turns an embedding (B, width) into ``beta``, (B, C) in (-1, 1)."""
    return nn.Sequential(nn.Linear(width, channels), nn.Tanh())


@torch.no_grad()
def start_quality_layers(embedding: nn.Sequential, readers: Iterable[nn.Sequential]) -> None:
    """Initialise an embedding by He's rule, and the layers that read it so that they ignore it.

    With PyTorch's defaults, its last units die within some hundred steps: what the layers that read
    them add at first is noise, and switching the units off removes it. From then on, the network
    ignores the quality.

    Args:
        embedding: From :func:`quality_embedding`.
        readers: From :func:`scale_by_quality` or :func:`shift_by_quality`.
    """
    first, *others = (layer for layer in embedding if isinstance(layer, nn.Linear))
    for layer in (first, *others):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    # Without biases, the embedding is proportional to the quality: let the first units switch on or
    # off at qualities spread over [0, 1].
    first.bias.copy_(-first.weight[:, 0] * torch.rand_like(first.bias))
    for reader in readers:
        nn.init.zeros_(reader.get_parameter("0.weight"))


def as_column(quality: float | Tensor, like: Tensor) -> Tensor:
    """Return a given quality as (B, 1) or (1, 1), in dtype and device of the images.

    Args:
        quality: 1 - QF / 100 in [0, 1]: one number for all images, or (B, 1) or (1, 1).
        like: The images (B, C, H, W).

    Raises:
        UserError: The number is outside [0, 1], or the tensor has another shape.
    """
    if isinstance(quality, Tensor):
        if quality.shape not in {(1, 1), (len(like), 1)}:
            raise UserError(
                f"quality: a tensor of shape {tuple(quality.shape)} does not fit {len(like)} "
                f"images; give ({len(like)}, 1) or (1, 1)"
            )
        return quality.to(like)
    if not 0 <= quality <= 1:
        raise UserError(f"quality: {quality} is not in [0, 1]; give 1 - QF / 100, 0.9 for QF 10")
    return torch.full((1, 1), quality, dtype=like.dtype, device=like.device)


def given_or_predicted(
    quality: float | Tensor | None,
    predict: Callable[[], Tensor],
    like: Tensor,
    return_quality: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the quality to restore by, (B, 1) or (1, 1), and the prediction (B, 1) if it was made.

    Args:
        quality: Like that of :func:`as_column`; None: predict it. With ``return_quality``, NaN in a
            tensor is replaced by the prediction.
        predict: Returns the prediction.
        like: The images (B, C, H, W).
        return_quality: Make the prediction even if another quality is given.

    Raises:
        UserError: See :func:`as_column`.
    """
    if quality is None:
        predicted = predict()
        return predicted, predicted
    given = as_column(quality, like)
    if not return_quality:
        return given, None
    predicted = predict()
    return torch.where(given.isnan(), predicted, given), predicted
