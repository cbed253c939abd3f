"""Dynamic prompts."""

import torch
from torch import Tensor, nn

from cir_arch.layers.convolution import MapConv2d
from cir_arch.layers.feed_forward import MLP


class DynamicPrompt(nn.Module):
    """A prompt per pixel: a mixture of learned vectors with weights computed from the features.

    Li et al., PromptCIR, CVPR Workshops 2024, eq. 1, with the second axis (tasks) of the authors'
    network: the weight of a vector is the product of a softmax over the tasks and one over the
    bases.
    """

    def __init__(self, channels: int, tasks: int, bases: int, width: int) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.rand(1, tasks, bases, width, 1, 1))
        self.basis_mlp = MLP(channels, bases, bases)
        self.task_mlp = MLP(channels, tasks, tasks)
        self.conv3x3 = MapConv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, H, W, C) to prompts (B, H, W, E)."""
        tasks = self.task_mlp(x).softmax(dim=-1)
        bases = self.basis_mlp(x).softmax(dim=-1)
        weights = (tasks.unsqueeze(-1) * bases.unsqueeze(-2)).flatten(-2)
        # A matrix product sums over tasks and bases, so that no bases x width x pixels are stored.
        vectors = self.prompt.reshape(weights.shape[-1], -1)
        prompt: Tensor = self.conv3x3(weights.to(vectors.dtype) @ vectors)
        return prompt
