"""Checks of arguments that would otherwise fail in a layer, with a message about tensors."""

from collections.abc import Sequence

from cir_host.errors import UserError


def check_groups(
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    name: str = "num_heads",
    parts: int = 1,
) -> None:
    """Check what would otherwise fail in a group, with a message about tensors.

    Args:
        embed_dim: Channels of the features.
        depths: Blocks of each group.
        num_heads: Attention heads of each group.
        name: The network's argument that gives these.
        parts: The heads share the channels of one of so many parts.

    Raises:
        UserError: The groups differ in number, one is empty, or heads cannot share the channels.
    """
    if not depths or len(depths) != len(num_heads):
        raise UserError(
            f"depths and {name}: {list(depths)} and {list(num_heads)} do not agree on the "
            f"number of groups; give one number per group to each"
        )
    if min(depths) < 1:
        raise UserError(f"depths: {list(depths)} has a group without blocks; give 1 or more")
    for heads in num_heads:
        if heads < 1 or embed_dim % (parts * heads):
            part = "" if parts == 1 else f"1/{parts} of "
            raise UserError(
                f"{name}: {heads} heads cannot share {part}embed_dim ({embed_dim} channels) evenly"
            )


def check_channels(**widths: int) -> None:
    """Raise ``UserError`` if an argument, by its name, leaves a layer without channels."""
    for name, channels in widths.items():
        if channels < 1:
            raise UserError(
                f"{name}: leaves {channels} channels; give a value that leaves 1 or more"
            )


def check_img_range(img_range: float) -> None:
    """Raise ``UserError`` if images cannot be multiplied by this and divided again."""
    if img_range <= 0:
        raise UserError(f"img_range: {img_range} must be positive; the published value is 1")
