"""Parameter groups: frozen parameters, learning-rate factors, weight decay."""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from cir_host.errors import OptionsError
from cir_model.options import GroupOptions, TrainOptions


def freeze(network: nn.Module, groups: list[GroupOptions]) -> None:
    """Freeze the parameters of the groups with ``freeze``.

    Raises:
        OptionsError: A pattern is not a regular expression, or matches no parameter.
    """
    found: set[str] = set()
    for name, parameter in network.named_parameters():
        group = _group_of(name, groups)
        if group is not None:
            found.add(group.pattern)
            parameter.requires_grad_(not group.freeze and parameter.requires_grad)
    for i, group in enumerate(groups):
        if group.pattern not in found:
            raise OptionsError(
                f"train.groups[{i}].pattern: {group.pattern!r} matches no parameter of"
                f" {type(network).__name__} outside the earlier groups"
            )


def parameter_groups(network: nn.Module, options: TrainOptions) -> list[dict[str, Any]]:
    """Return the trainable parameters of a network as parameter groups for an optimizer.

    Each group has ``params``, and its ``lr`` and ``weight_decay`` if they differ from ``optim_g``.

    Raises:
        OptionsError: A pattern is not a regular expression, or all parameters are frozen.
    """
    plain = set(_never_decayed(network)) if options.no_decay else set()
    groups: dict[tuple[tuple[str, float], ...], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        own: dict[str, float] = {}
        group = _group_of(name, options.groups)
        if group is not None and group.lr_factor != 1:
            own["lr"] = options.optim_g.lr * group.lr_factor
        if group is not None and group.weight_decay is not None:
            own["weight_decay"] = group.weight_decay
        elif name in plain:
            own["weight_decay"] = 0.0
        groups.setdefault(tuple(own.items()), []).append(parameter)
    if not groups:
        raise OptionsError("train.groups: all parameters are frozen; there is nothing to train")
    return [{"params": members, **dict(own)} for own, members in groups.items()]


def _group_of(name: str, groups: list[GroupOptions]) -> GroupOptions | None:
    for i, group in enumerate(groups):
        try:
            if re.search(group.pattern, name):
                return group
        except re.error as error:
            raise OptionsError(
                f"train.groups[{i}].pattern: {group.pattern!r} is not a regular expression"
                f" ({error})"
            ) from error
    return None


def _never_decayed(network: nn.Module) -> Iterator[str]:
    """Yield the names of biases, normalisation parameters and tables of position biases."""
    for name, parameter in network.named_parameters():
        if parameter.ndim <= 1 or name.endswith("bias_table"):
            yield name
    for prefix, module in network.named_modules():
        if "Norm" in type(module).__name__:
            for name, _ in module.named_parameters():
                yield f"{prefix}.{name}" if prefix else name
