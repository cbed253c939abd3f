"""Build the wheel, install it in a new environment, run it from another directory.

Not a pytest file, since it installs everything anew: ``make wheel`` and CI run it.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it printed; on failure show it and stop."""
    print("+", *command, flush=True)
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nexit status {done.returncode}")
    return done.stdout


def main() -> None:
    """Try the wheel as a user without this repository would."""
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", temporary / "dist", cwd=ROOT)
        (wheel,) = (temporary / "dist").glob("*.whl")
        venv.create(temporary / "env", with_pip=True)
        bin_folder = temporary / "env" / ("Scripts" if sys.platform == "win32" else "bin")
        run(bin_folder / "python", "-m", "pip", "install", "--quiet", wheel, cwd=temporary)

        elsewhere = temporary / "elsewhere"
        images = elsewhere / "datasets" / "Classic5"
        images.mkdir(parents=True)
        for i in range(2):
            Image.effect_noise((70 + i, 52), 60).save(images / f"{i}.png")
        # a shipped options file, found by its name in a folder that holds none
        printed = run(
            bin_folder / "basicsr", "test", "-opt", "test_classic5_jpeg.yml", cwd=elsewhere
        )
        table = elsewhere / "results" / "test_classic5_jpeg" / "metrics.md"
        if "Classic5_q40" not in table.read_text(encoding="utf-8") or "Traceback" in printed:
            sys.exit(f"{printed}\nThe installed wheel did not give the table.")
        print(table.read_text(encoding="utf-8"))
        # the weights of the package, without -m
        Image.effect_noise((64, 48), 60).save(elsewhere / "photograph.jpg", quality=20)
        printed = run(
            bin_folder / "basicsr", "restore", "photograph.jpg", "-o", "restored", cwd=elsewhere
        )
        with Image.open(elsewhere / "restored" / "photograph.png") as image:
            if image.size != (64, 48):
                sys.exit(f"{printed}\nThe weights of the wheel did not restore the photograph.")


if __name__ == "__main__":
    main()
