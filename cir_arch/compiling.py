"""``torch.compile`` for networks: each repeated block on its own, which takes seconds."""

from typing import Any

from torch import nn

from cir_arch.layers.blocks import RepeatedBlock

_KINDS = 64
"""The compiler keeps this many versions of a block; the default of 8 is too few for a U-Net."""


def compile_network(network: nn.Module, dynamic: bool | None = False, **arguments: Any) -> None:
    """Compile a network in place; its state dict keeps its keys.

    A network of :class:`RepeatedBlock` is compiled block by block (regional compilation): blocks of
    equal size share their code, so that PromptCIR's 50 blocks take a minute instead of many. Other
    networks are compiled as a whole.

    Args:
        network: Compiled at its first call, for the sizes that it gets then.
        dynamic: None: a second size compiles a version for all sizes. False: each size gets its
            own; blocks of different levels would otherwise count as one of changing size.
        arguments: Further ones of ``torch.compile``.
    """
    from torch._dynamo import config  # torch takes a second to import its compiler

    blocks = [module for module in network.modules() if isinstance(module, RepeatedBlock)]
    if blocks:
        config.recompile_limit = max(config.recompile_limit, _KINDS)
    parts: list[nn.Module] = [*blocks] or [network]
    for block in parts:
        block.compile(dynamic=dynamic, **arguments)
