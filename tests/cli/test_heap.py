"""The command reuses the memory of large arrays."""

import platform
import subprocess
import sys

import pytest

from cir_cli import heap

FAULTS = """
import resource
import numpy as np
{start}
np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(start=""):
    """Return how many pages the system clears for four arrays of 64 MiB after a first one."""
    command = [sys.executable, "-c", FAULTS.format(start=start)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns the memory")
def test_large_arrays_reuse_memory():
    kept = "from cir_cli.heap import keep_freed_memory; assert keep_freed_memory()"
    assert faults() > 100
    assert faults(kept) < 10


def test_restore_reuses_memory_and_an_import_does_not_ask_for_it(monkeypatch):
    asked = []
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: asked.append(1) or ("", ""))
    from cir_cli import restore

    assert not asked
    with pytest.raises(SystemExit):
        restore.run([])
    assert asked


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("", ""))
    assert not heap.keep_freed_memory()
