"""FBCNN and CaVE computed step by step; used by tests and benchmarks.

The parameters are the networks' own. The quality is predicted in every call, as in the releases.
Height and width are multiples of 8 (FBCNN) or 32 (CaVE). Batch norm is in eval mode.
"""

import torch.nn.functional as F
from naive_steps import conv
from torch import Tensor, nn

from cir_arch.cave_arch import CaVE
from cir_arch.fbcnn_arch import FBCNN


class NaiveFBCNN(FBCNN):
    """FBCNN that follows its own prediction of the quality."""

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W)."""
        x1, x2, x3, x4, encoded = encode(self, x)
        embedding = predict(self.qf_pred, encoded)
        for layer in self.qf_embed[::2]:
            embedding = F.relu(F.linear(embedding, layer.weight, layer.bias))
        y = blocks(self.m_body_decoder, encoded)
        for level, skip in ((3, x4), (2, x3), (1, x2)):
            stage = self.get_submodule(f"m_up{level}")
            scale, shift = (
                self.get_submodule(f"to_{name}_{level}")[0] for name in ("gamma", "beta")
            )
            gamma = F.linear(embedding, scale.weight, scale.bias).sigmoid()[..., None, None]
            beta = F.linear(embedding, shift.weight, shift.bias).tanh()[..., None, None]
            y = enlarge(stage[0], y + skip)
            for block in list(stage)[1:]:
                y = y + gamma * branch(block.res, y) + beta
        return conv(self.m_tail, y + x1)


class NaiveCaVE(CaVE):
    """CaVE, whose decoder blocks add one."""

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W)."""
        x1, x2, x3, x4, encoded = encode(self, x)
        predict(self.qf_pred, encoded)
        y = blocks(self.m_body_decoder, encoded)
        for stage, skip in ((self.m_up3, x4), (self.m_up2, x3), (self.m_up1, x2)):
            y = enlarge(stage[0], y + skip)
            for block in list(stage)[1:]:
                y = y + branch(block.res, y) + 1.0
        return conv(self.m_tail, y + x1)


def encode(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the maps of level 1 to 4 and level 4 encoded."""
    maps = [conv(network.m_head, x)]
    for stage in (network.m_down1, network.m_down2, network.m_down3):
        *residual, smaller = stage
        y = blocks(residual, maps[-1])
        side = smaller.weight.shape[-1]
        maps.append(F.conv2d(y, smaller.weight, smaller.bias, stride=side))
    return [*maps, blocks(network.m_body_encoder, maps[-1])]


def predict(head: nn.Sequential, encoded: Tensor) -> Tensor:
    """Return the quality (B, 1)."""
    *residual, _, _, first, _, second, _, last, _ = head
    y = blocks(residual, encoded).mean((2, 3))
    for layer in (first, second):
        y = F.relu(F.linear(y, layer.weight, layer.bias))
    return F.linear(y, last.weight, last.bias).sigmoid()


def blocks(stage: list[nn.Module] | nn.Sequential, x: Tensor) -> Tensor:
    """Run plain residual blocks."""
    for block in stage:
        x = x + branch(block.res, x)
    return x


def branch(res: nn.Sequential, x: Tensor) -> Tensor:
    """Convolution, batch norm if there is one, ReLU, convolution."""
    y = conv(res[0], x)
    if isinstance(res[1], nn.BatchNorm2d):
        mean, variance, weight, bias = (
            values[:, None, None]
            for values in (res[1].running_mean, res[1].running_var, res[1].weight, res[1].bias)
        )
        y = (y - mean) / (variance + 1e-4).sqrt() * weight + bias
    return conv(res[-1], F.relu(y))


def enlarge(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Transposed convolution whose stride is its side."""
    return F.conv_transpose2d(x, layer.weight, layer.bias, stride=layer.weight.shape[-1])
