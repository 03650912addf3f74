"""What computed a result: versions of the code and of what it stands on."""

import platform
import subprocess
from pathlib import Path

import torch

from letocc_core import __version__


def versions() -> dict[str, str]:
    """Versions of what computed a result, and the commit it came from."""
    root = Path(__file__).resolve().parents[1]
    git = subprocess.run(["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        "letocc": __version__,
        "git": git.stdout.strip() or "unknown",
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
