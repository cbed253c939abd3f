"""Arguments that launchers of several processes add to a command line."""

from collections.abc import Sequence


def normalise_argv(argv: Sequence[str]) -> list[str]:
    """Move ``--local-rank``, which ``torch.distributed.launch`` puts first, to the end.

    It is spelled ``--local_rank``, as BasicSR expects, and the subcommand is the first argument
    again.
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
