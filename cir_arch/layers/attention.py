"""Multi-head attention with a learned bias on the scores."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, heads: int, scale: float | None = None
) -> Tensor:
    """Attention of tokens (W, N, C) to tokens (W, N', C) of W windows; returns (W, N, C).

    A head owns C / heads neighbouring channels. The scores are the products of queries and keys,
    times ``scale`` (None: (C / heads) ** -0.5), plus ``bias`` (1, heads, N, N').
    """
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if _fused_kernel_is_missing(q, bias):
        out: Tensor = _RecomputedAttention.apply(q, k, v, bias, scale)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=scale)
    return out.transpose(1, 2).flatten(-2)


def _fused_kernel_is_missing(q: Tensor, bias: Tensor) -> bool:
    """Whether PyTorch would store the attention matrices. The compiler handles them itself."""
    learning = bias.requires_grad and torch.is_grad_enabled()
    return learning and q.device.type == "cpu" and not torch.compiler.is_compiling()


_CHUNK = 2**19
"""Scores per step of the backward pass: 2 MB in float32, which stay in a processor's cache."""


class _RecomputedAttention(torch.autograd.Function):
    """``scaled_dot_product_attention`` with a gradient for the bias; stores no attention matrix.

    The fused kernel for CPUs computes no such gradient: given a bias to learn, PyTorch falls back
    to storing every matrix. Here the fused kernel runs in the forward pass, and the backward pass
    recomputes a few windows at a time.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v, bias)
        ctx.scale = scale
        mask = bias.detach().to(q.dtype)  # the kernel takes no mask that requires a gradient
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        q, k, v, bias = ctx.saved_tensors
        scale = ctx.scale
        windows = max(1, _CHUNK // bias.numel())
        grad_bias = torch.zeros_like(bias)
        grads = []
        for q_, k_, v_, grad_ in zip(*(x.split(windows) for x in (q, k, v, grad)), strict=True):
            q_ = q_ * scale
            attention = ((q_ @ k_.mT).to(bias.dtype) + bias).softmax(dim=-1)
            grad_scores = torch.ops.aten._softmax_backward_data(
                (grad_ @ v_.mT).to(bias.dtype), attention, -1, bias.dtype
            )
            grad_bias += grad_scores.sum(dim=0, keepdim=True)
            attention, grad_scores = attention.to(q.dtype), grad_scores.to(q.dtype)
            grads.append((grad_scores @ k_ * scale, grad_scores.mT @ q_, attention.mT @ grad_))
        grad_q, grad_k, grad_v = (torch.cat(parts) for parts in zip(*grads, strict=True))
        return grad_q, grad_k, grad_v, grad_bias, None
