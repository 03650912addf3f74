"""Constraints for a virtual environment on top of a ROS installation: its own modules stay as they are.

ROS's compiled modules (cv_bridge) were built for the system's numpy, so that one stays, and what is compiled against
numpy takes the version that fits it. Whatever else the system has may serve as it is. Prints the constraints that are
left of those in the file given.
"""

import re
import sys
from importlib.metadata import distributions
from pathlib import Path

FOLLOW_NUMPY = {"contourpy", "matplotlib", "opencv-python-headless", "open3d", "scipy"}
BUILD_TOOLS = {"pip", "setuptools", "wheel"}


def normal(name: str) -> str:
    """Name of a distribution as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints(lines: list[str], system: dict[str, str]) -> list[str]:
    """What is left of the `lines` of a constraints file, given the versions that the system has, by normal name."""
    free = {*system, *(FOLLOW_NUMPY if "numpy" in system else ())} - BUILD_TOOLS
    pins = [line for line in lines if line and line[0] != "#"]
    kept = [line for line in pins if normal(re.split(r"[=;\s]", line, maxsplit=1)[0]) not in free]
    return kept + [f"{name}=={system[name]}" for name in ("numpy",) if name in system]


if __name__ == "__main__":
    outside = [folder for folder in sys.path if folder and not folder.startswith(sys.prefix)]
    found = {normal(d.name): d.version for d in distributions(path=outside)}
    print("\n".join(constraints(Path(sys.argv[1]).read_text().splitlines(), found)))
