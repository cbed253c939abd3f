"""``python -m cir_cli``, for torchrun: ``torchrun ... -m cir_cli train ...``."""

import sys

from cir_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
