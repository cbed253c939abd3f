"""The losses of a training: several, weighted, each by its name in the log."""

from basicsr.losses import build_loss
from torch import Tensor, nn

from cir_model.options import TrainOptions


class Losses(nn.Module):
    """All losses of ``train``; each has its weight among its arguments."""

    def __init__(self, options: TrainOptions) -> None:
        super().__init__()
        self.pixel = build_loss(options.pixel_opt) if options.pixel_opt else None
        self.perceptual = build_loss(options.perceptual_opt) if options.perceptual_opt else None
        self.named = nn.ModuleDict({k: build_loss(v) for k, v in options.losses.items()})

    def forward(self, output: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """Compare images.

        Args:
            output: (B, C, H, W), float32.
            gt: The same shape in [0, 1].

        Returns:
            Scalars by their names in the log: ``l_pix``, ``l_percep`` and ``l_style`` as BasicSR
            has them, ``l_NAME`` for the others.
        """
        found: dict[str, Tensor | None] = {}
        if self.pixel is not None:
            found["l_pix"] = self.pixel(output, gt)
        if self.perceptual is not None:
            found["l_percep"], found["l_style"] = self.perceptual(output, gt)
        found |= {f"l_{name}": loss(output, gt) for name, loss in self.named.items()}
        return {name: value for name, value in found.items() if value is not None}
