"""Standard output and error that are full, closed, or read by nobody any more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_tools import photographs

from cir_cli import standard_streams

FULL = Path("/dev/full")
UNWRITABLE = "basicsr: error: standard output cannot be written"
PRINTS = "print('word ' * 20000)"
SAYS_LITTLE = "print('word')"
HELPS = "import argparse; argparse.ArgumentParser().parse_args(['--help'])"  # hides what fails
WRITES_BYTES = "import sys; sys.stdout.buffer.write(bytes(10**6)); sys.stdout.buffer.flush()"


def run(command, *shell, unbuffered=False):
    """Run ``command``, Python under ``run_watched`` or arguments, with a redirection of the shell.

    The shell is asked since Python's ``subprocess`` cannot start a process with a closed stream.
    """
    if isinstance(command, str):
        body = f"def command():\n    {command}\n    return 0\n"
        # by itself, as the import of the package takes seconds
        folder = str(Path(standard_streams.__file__).parent)
        code = f"import sys\nsys.path.insert(0, {folder!r})\n"
        code += f"from standard_streams import run_watched\n{body}"
        arguments = ["-c", code + "sys.exit(run_watched(command))"]
    else:
        arguments = ["-m", "cir_cli", *command]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1" if unbuffered else ""}
    script = f'"$@" {" ".join(shell)}'
    return subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")

COMMANDS = [PRINTS, SAYS_LITTLE, HELPS, WRITES_BYTES]


@needs_full
@pytest.mark.parametrize("unbuffered", [True, False])
@pytest.mark.parametrize("command", COMMANDS)
def test_full_output_is_one_line(command, unbuffered):
    done = run(command, ">/dev/full", unbuffered=unbuffered)
    assert done.stderr == f"{UNWRITABLE}: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.parametrize("unbuffered", [True, False])
@pytest.mark.parametrize("command", COMMANDS)
def test_closed_output_is_one_line(command, unbuffered):
    done = run(command, ">&-", unbuffered=unbuffered)
    assert done.stderr == f"{UNWRITABLE}: Bad file descriptor\n"
    assert done.returncode == 1


@pytest.mark.parametrize("unbuffered", [True, False])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_is_gone_ends_the_command_without_noise(command, unbuffered):
    wait = f"import time; time.sleep(0.2); {command}"
    done = run(wait, "| true; exit ${PIPESTATUS[0]}", unbuffered=unbuffered)
    assert done.stderr == ""
    assert done.returncode == 141


def test_output_that_is_not_used_may_be_closed():
    assert run("pass", ">&-").returncode == 0


MESSAGE = "import sys; print('message', file=sys.stderr); print('data')"


@needs_full
def test_lost_messages_stop_no_command_but_show_in_its_status():
    done = run(MESSAGE, "2>/dev/full")
    assert (done.stdout, done.returncode) == ("data\n", 1)


def test_messages_to_a_closed_stream_do_not_go_to_the_output():
    done = run(MESSAGE, "2>&-")
    assert (done.stdout, done.returncode) == ("data\n", 0)


@needs_full
def test_the_status_of_a_failed_command_stays():
    assert run("import sys; sys.exit(3)", "2>/dev/full").returncode == 3
    assert run("return 2", ">/dev/full").returncode == 2


def test_a_file_that_fails_is_named_and_another_error_is_a_traceback():
    done = run("open('/no/such/file')")
    assert done.stderr == "basicsr: error: /no/such/file: No such file or directory\n"
    assert done.returncode == 1
    assert "Traceback" in run("raise OSError('odd')").stderr
    assert "ZeroDivisionError" in run("1/0", ">&-").stderr


@needs_full
def test_the_real_command(tmp_path):
    done = run(["options"], ">/dev/full")
    assert done.stderr.splitlines()[-1:] == [f"{UNWRITABLE}: No space left on device"]
    assert "Traceback" not in done.stderr
    picture = next(photographs(tmp_path / "photos", names=("chelsea",), size=16).iterdir())
    done = run(["restore", str(picture), "-o", "-"], ">/dev/full")
    assert done.stderr == f"{UNWRITABLE}: No space left on device\n"
    assert done.returncode == 1
    done = run(["restore", str(picture), "-o", "-"], "| true; exit ${PIPESTATUS[0]}")
    assert done.stderr == ""
    assert done.returncode == 141
