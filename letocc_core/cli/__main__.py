"""`python -m letocc_core.cli`, for torchrun and accelerate."""

import sys

from letocc_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
