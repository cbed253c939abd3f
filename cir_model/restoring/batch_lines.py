"""The lines that tell what became of the files of a batch."""

from collections import Counter
from dataclasses import dataclass, field

from cir_host.errors import UserError
from cir_model.restoring.on_disk import Outcome

FORCE = "--force restores it"
"""How to restore a file that was copied, for users of the command."""


def told(outcome: Outcome, force: str = FORCE) -> str:
    """Return what happened to a file, without its name.

    Args:
        outcome: What happened.
        force: How to restore a file that was copied.

    Example:
        >>> from cir_model.restoring.batch_lines import told
        >>> from cir_model.restoring.on_disk import Outcome
        >>> told(Outcome("copied", "lossless PNG"))
        'lossless PNG, copied (--force restores it)'
    """
    if outcome.action == "skipped":
        return f"skipped, {outcome.note} (--overwrite restores it again)"
    if outcome.action == "copied":
        return f"{outcome.note}, copied" + f" ({force})" * outcome.restorable
    return f"{outcome.note}{', ' if outcome.note else ''}restored to {outcome.output}"


def failure(where: object, error: Exception) -> str:
    """Return why a file failed, in one line that begins with its name.

    Args:
        where: The file, as messages about it name it.
        error: A ``UserError`` names the file itself.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or where}: {error.strerror}"
    return f"{where}: {type(error).__name__}: {' '.join(str(error).split())}"


@dataclass
class Tally:
    """Counts of what became of the files of a batch."""

    counts: Counter[str] = field(default_factory=Counter)
    """Of ``restored``, ``copied``, ``skipped`` and ``failed``."""
    pixels: int = 0
    """Of the restored files, as they were read."""

    def add(self, outcome: Outcome) -> None:
        """Count a file that did not fail."""
        self.counts[outcome.action] += 1
        self.pixels += outcome.pixels

    def line(self, seconds: float) -> str:
        """Return the counts, and the speed over all files.

        Example:
            >>> from collections import Counter
            >>> from cir_model.restoring.batch_lines import Tally
            >>> Tally(Counter(restored=2, failed=1), 3_000_000).line(1.5)
            '2 restored, 0 copied, 0 skipped, 1 failed; 3.0 MP in 1.5 s, 2.00 MP/s'
        """
        kinds = ("restored", "copied", "skipped", "failed")
        counted = ", ".join(f"{self.counts[kind]} {kind}" for kind in kinds)
        rate = f", {self.pixels / 1e6 / seconds:.2f} MP/s" if self.pixels else ""
        return f"{counted}; {self.pixels / 1e6:.1f} MP in {seconds:.1f} s{rate}"
