"""The codec that an options file names."""

from cir_data.codecs.base import Codec
from cir_data.codecs.command import CommandCodec
from cir_data.codecs.pillow import named_codec
from cir_data.draws import IntegerOption, Mixture
from cir_data.options import CodecName, CommandOptions
from cir_host.errors import OptionsError


def make_codec(option: CodecName | CommandOptions, where: str) -> Codec:
    """Build the codec of a key.

    Args:
        option: Its value.
        where: Where it stands, for messages.

    Raises:
        OptionsError: Commands that cannot be used.
        UserError: A package or program is not there.
    """
    if isinstance(option, CommandOptions):
        return CommandCodec(option, where)
    return named_codec(option)


def qualities_of(option: IntegerOption[int], codec: Codec, where: str) -> Mixture[int]:
    """Take the qualities for a codec.

    Raises:
        OptionsError: One is not on the codec's scale.
    """
    qualities = Mixture[int].of(option)
    off = sorted(quality for quality in qualities.values if quality not in codec.scale)
    if off:
        raise OptionsError(
            f"{where}: {off[0]} is not a quality of {codec.version}, which takes"
            f" {codec.scale.lowest} to {codec.scale.highest}"
        )
    return qualities
