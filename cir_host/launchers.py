"""What launchers of several processes add to a command line."""

from collections.abc import Sequence


def normalise_argv(argv: Sequence[str]) -> list[str]:
    """Put ``--local-rank``, which torch's older launcher adds first, last and as BasicSR knows it.

    The subcommand is then the first argument again.
    """
    arguments, ranks = [], []
    given = iter(argv)
    for argument in given:
        name, equals, value = argument.partition("=")
        if name in ("--local-rank", "--local_rank"):
            ranks.append(f"--local_rank={value if equals else next(given, '')}")
        else:
            arguments.append(argument)
    return [*arguments, *ranks]
