"""UCIP computed step by step; used by tests and benchmarks.

The parameters are ``UCIP``'s own; (B, C, H, W) maps. Each branch of the token mixer is a map of its
own, made by torchvision's deformable convolution with zeros for the other axis.
"""

import torch
import torch.nn.functional as F
from naive_steps import conv, linear, mlp, norm
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from cir_arch.ucip_arch import UCIP, CodecPrompt, PromptModulation, TokenMixer


class NaiveUCIP(UCIP):
    """UCIP, given the codec of each image."""

    def forward(self, x: Tensor, codec: int | Tensor | None = 0) -> Tensor:
        """Restore and enlarge images (B, C, H, W); ``codec`` is one index or one for each."""
        shallow = y = conv(self.patch_embed.proj, x)
        for i, blocks in enumerate(self.blocks):
            y = y + self._naive_group(i, blocks, y, torch.as_tensor(codec).expand(len(x)))
        y = conv(self.conv_after_body, norm(self.norm, y)) + shallow
        y = F.leaky_relu(conv(self.conv_before_up[0], y), 0.01)
        for step in range(self.upscale.bit_length() - 1):
            y = F.interpolate(y, scale_factor=2, mode="nearest")
            y = F.leaky_relu(conv(self.get_submodule(f"conv_up{step + 1}"), y), 0.2)
        y = F.leaky_relu(conv(self.conv_hr, y), 0.2)
        return conv(self.conv_last, y)

    def _naive_group(self, i: int, blocks: nn.ModuleList, y: Tensor, codecs: Tensor) -> Tensor:
        prompt = ask(self.prompts[i], y, codecs)
        for block in blocks:
            if block.offset_layer is not None:
                y = y + conv(self.pos_blocks[i].proj, y)
                both = norm(block.offset_layer[0], torch.cat((y, prompt), dim=1))
                offset = linear(block.offset_layer[1], both)
                offset = offset.repeat_interleave(2 * y.shape[1] // offset.shape[1], dim=1)
            y = y + mix(block.atm, norm(block.norm1, y), offset)
            y = y + mlp(block.mlp, norm(block.norm2, y))
            y = modulate(block.spade, y, prompt)
        return y


def ask(layer: CodecPrompt, x: Tensor, codecs: Tensor) -> Tensor:
    """Return the prompt of each pixel."""
    weights = mlp(layer.basis_mlp, x).softmax(dim=1)
    bank = layer.prompt[codecs, :, 0, 0]
    return torch.einsum("bnhw,bne->behw", weights, bank.to(weights.dtype))


def mix(layer: TokenMixer, u: Tensor, offset: Tensor) -> Tensor:
    """Mix what is read along width and height and a convolution of the surroundings."""
    w_offset, h_offset = offset.chunk(2, dim=1)
    still = torch.zeros_like(w_offset)
    moves_w = torch.stack((still, w_offset), dim=2).flatten(1, 2)
    moves_h = torch.stack((h_offset, still), dim=2).flatten(1, 2)
    branches = (
        deformed(u, moves_w, layer.atm_w),
        deformed(u, moves_h, layer.atm_h),
        conv(layer.atm_local, u),
    )
    means = sum(branches).mean(dim=(2, 3), keepdim=True)
    alpha = mlp(layer.fusion, means).unflatten(1, (-1, 3)).softmax(dim=2)
    mixed = sum(branch * alpha[:, :, k] for k, branch in enumerate(branches))
    return linear(layer.proj, mixed)


def deformed(u: Tensor, moves: Tensor, layer: nn.Conv2d) -> Tensor:
    """Deformable convolution in the precision of the weights: no half precision on a CPU."""
    dtype = layer.weight.dtype
    with torch.autocast(u.device.type, enabled=False):
        return deform_conv2d(u.to(dtype), moves.to(dtype), layer.weight, layer.bias)


def modulate(layer: PromptModulation, x: Tensor, prompt: Tensor) -> Tensor:
    """Instance norm of the map, scaled and shifted per pixel by the prompt."""
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    normed = (x - mean) / torch.sqrt(variance + 1e-5)
    hidden = F.relu(conv(layer.mlp_shared[0], prompt))
    return normed * (1 + conv(layer.mlp_gamma, hidden)) + conv(layer.mlp_beta, hidden)
