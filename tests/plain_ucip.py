"""UCIP in its plainest form, from its formulas: NCHW, torchvision's deformable convolution.

What the fast form is compared with, in values and in speed.
"""

import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d


class PlainUCIP:
    """Computes what a ``UCIP`` network computes, from its state dict."""

    def __init__(self, state, depths, intv=2, share_dim=2):
        self.state = state
        self.depths = depths
        self.intv = intv
        self.share_dim = share_dim

    def __call__(self, x, codecs):
        """Restore images (B, C, H, W); ``codecs`` lists a prompt bank for each image."""
        r = y = self.conv("patch_embed.proj", x)
        for i, depth in enumerate(self.depths):
            y = y + self.group(i, depth, y, codecs)
        y = self.conv("conv_after_body", self.norm("norm", y)) + r
        y = F.leaky_relu(self.conv("conv_before_up.0", y), 0.01)
        step = 1
        while f"conv_up{step}.weight" in self.state:
            y = F.interpolate(y, scale_factor=2, mode="nearest")
            y = F.leaky_relu(self.conv(f"conv_up{step}", y), 0.2)
            step += 1
        y = F.leaky_relu(self.conv("conv_hr", y), 0.2)
        return self.conv("conv_last", y)

    def group(self, i, depth, y, codecs):
        weights = self.mlp(f"prompts.{i}.basis_mlp", y).softmax(dim=1)
        bank = self.state[f"prompts.{i}.prompt"][codecs, :, 0, 0]
        prompt = torch.einsum("bnhw,bne->behw", weights, bank)
        for j in range(depth):
            key = f"blocks.{i}.{j}"
            if j % self.intv == 0:
                y = y + self.conv(f"pos_blocks.{i}.proj", y)
                both = self.norm(f"{key}.offset_layer.0", torch.cat((y, prompt), dim=1))
                offset = self.linear(f"{key}.offset_layer.1", both)
                offset = offset.repeat_interleave(self.share_dim, dim=1)
            y = y + self.mixer(f"{key}.atm", self.norm(f"{key}.norm1", y), offset)
            y = y + self.mlp(f"{key}.mlp", self.norm(f"{key}.norm2", y))
            y = self.modulation(f"{key}.spade", y, prompt)
        return y

    def mixer(self, key, u, offset):
        w_offset, h_offset = offset.chunk(2, dim=1)
        still = torch.zeros_like(w_offset)
        moves_w = torch.stack((still, w_offset), dim=2).flatten(1, 2)
        moves_h = torch.stack((h_offset, still), dim=2).flatten(1, 2)
        branches = (
            deform_conv2d(u, moves_w, *self.parameters(f"{key}.atm_w")),
            deform_conv2d(u, moves_h, *self.parameters(f"{key}.atm_h")),
            self.conv(f"{key}.atm_local", u),
        )
        means = sum(branches).mean(dim=(2, 3), keepdim=True)
        mixing = self.mlp(f"{key}.fusion", means)
        alpha = mixing.unflatten(1, (-1, 3)).softmax(dim=2)
        mixed = sum(branch * alpha[:, :, k] for k, branch in enumerate(branches))
        return self.linear(f"{key}.proj", mixed)

    def modulation(self, key, x, prompt):
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
        normed = (x - mean) / torch.sqrt(variance + 1e-5)
        hidden = F.relu(self.conv(f"{key}.mlp_shared.0", prompt))
        gamma, beta = (self.conv(f"{key}.mlp_{name}", hidden) for name in ("gamma", "beta"))
        return normed * (1 + gamma) + beta

    def mlp(self, key, x):
        return self.linear(f"{key}.fc2", F.gelu(self.linear(f"{key}.fc1", x)))

    def norm(self, key, x):
        weight, bias = self.parameters(key)
        return F.layer_norm(x.movedim(1, -1), weight.shape, weight, bias, 1e-5).movedim(-1, 1)

    def linear(self, key, x):
        return F.linear(x.movedim(1, -1), *self.parameters(key)).movedim(-1, 1)

    def conv(self, key, x):
        weight, bias = self.parameters(key)
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=groups)

    def parameters(self, key):
        return self.state[f"{key}.weight"], self.state[f"{key}.bias"]
