"""SCUNet computed step by step; used by tests and benchmarks.

The parameters are ``SCUNet``'s own. Whole attention matrices, a mask of minus infinity built in
every call, biases gathered by an index, (B, C, H, W) maps. Height and width are multiples of eight
windows; no drop path.
"""

import torch
import torch.nn.functional as F
from naive_steps import attend, conv, cut, join, norm, shift_mask
from torch import Tensor, nn

from cir_arch.scunet_arch import SCUNet, SwinBlock, SwinConvBlock, WindowMSA


class NaiveSCUNet(SCUNet):
    """SCUNet, for images larger than a window at every level."""

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W)."""
        x1 = conv(self.m_head[0], x)
        x2 = self._stage(self.m_down1, x1)
        x3 = self._stage(self.m_down2, x2)
        x4 = self._stage(self.m_down3, x3)
        y = self._stage(self.m_up3, self._stage(self.m_body, x4) + x4)
        y = self._stage(self.m_up2, y + x3)
        y = self._stage(self.m_up1, y + x2)
        return conv(self.m_tail[0], y + x1)

    def _stage(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        count = 0
        for module in stage:
            if isinstance(module, SwinConvBlock):
                x = self._block(module, x, shift=count % 2 * self.window_size // 2)
                count += 1
            elif isinstance(module, nn.ConvTranspose2d):
                x = F.conv_transpose2d(x, module.weight, stride=2)
            else:
                x = F.conv2d(x, module.weight, stride=2)
        return x

    def _block(self, block: SwinConvBlock, x: Tensor, shift: int) -> Tensor:
        local, distant = conv(block.conv1_1, x).chunk(2, 1)
        first, _, second = block.conv_block
        local = local + conv(second, F.relu(conv(first, local)))
        distant = self._swin(block.trans_block, distant, shift)
        return x + conv(block.conv1_2, torch.cat((local, distant), 1))

    def _swin(self, block: SwinBlock, x: Tensor, shift: int) -> Tensor:
        x = x + self._attention(block.msa, norm(block.ln1, x), shift)
        first, _, last = block.mlp
        hidden = F.linear(norm(block.ln2, x).movedim(1, -1), first.weight, first.bias)
        return x + F.linear(F.gelu(hidden), last.weight, last.bias).movedim(-1, 1)

    def _attention(self, msa: WindowMSA, x: Tensor, shift: int) -> Tensor:
        window, (height, width) = self.window_size, x.shape[2:]
        tokens = cut(x.roll((-shift, -shift), (2, 3)), window)
        layer = msa.embedding_layer
        q, k, v = F.linear(tokens, layer.weight, layer.bias).chunk(3, -1)
        mask = None
        if shift:
            mask = shift_mask(height, width, window, shift, -torch.inf).to(x).repeat(len(x), 1, 1)
        places = torch.arange(window**2, device=x.device)
        rows, columns = places // window, places % window
        bias = msa.relative_position_params[
            :,
            rows[:, None] - rows[None, :] + window - 1,
            columns[:, None] - columns[None, :] + window - 1,
        ]
        out = attend(q, k, v, bias.permute(1, 2, 0), msa.heads, mask)
        out = F.linear(out, msa.linear.weight, msa.linear.bias)
        return join(out, window, height, width).roll((shift, shift), (2, 3))
