"""The naive form of each network, by registered name: same arguments, same state-dict keys.

Found by name: ``NaiveNAME`` in any file ``naive_*.py`` of this folder.
"""

from importlib import import_module
from pathlib import Path

from torch import nn

import cir_arch  # noqa: F401
from cir_arch.network import entries


def _found() -> dict[str, type[nn.Module]]:
    files = Path(__file__).parent.glob("naive_*.py")
    modules = [import_module(file.stem) for file in files if file.stem != Path(__file__).stem]
    classes = {name: value for module in modules for name, value in vars(module).items()}
    named = ((entry.name, classes.get(f"Naive{entry.name}")) for entry in entries())
    return {name: form for name, form in named if form is not None}


NAIVE = _found()
