"""The codec that an options file names."""

from cir_data.codecs.codec import Codec
from cir_data.codecs.command import CommandCodec
from cir_data.codecs.pillow import named_codec
from cir_data.draws import IntegerOption, Mixture
from cir_data.options import CodecName, CommandOptions
from cir_host.errors import OptionsError


def make_codec(option: CodecName | CommandOptions, where: str) -> Codec:
    """Create the codec of a key.

    Args:
        option: Its value.
        where: The key, for messages.

    Raises:
        OptionsError: Commands that cannot be used.
        UserError: A package or program is not installed.
    """
    if isinstance(option, CommandOptions):
        return CommandCodec(option, where)
    return named_codec(option)


def qualities_of(option: IntegerOption[int], codec: Codec, where: str) -> Mixture[int]:
    """Check the qualities of a codec.

    Raises:
        OptionsError: A quality is outside the codec's range.
    """
    qualities = Mixture[int].of(option)
    off = sorted(quality for quality in qualities.values if quality not in codec.scale)
    if off:
        raise OptionsError(
            f"{where}: {off[0]} is not a quality of {codec.version}, which takes"
            f" {codec.scale.lowest} to {codec.scale.highest}"
        )
    return qualities
