"""Options and fixtures that every test may use."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Shapes and types in the annotations of these modules hold in every test; they must not have been imported before. Of
# geometry all but what numba compiles.
GEOMETRY = ("calibration", "camera", "contact", "grid", "masked", "polyline", "rectify", "se3", "surfaces")
CHECKED = (*(f"geometry.{name}" for name in GEOMETRY), "model", "rendering", "losses")
install_import_hook([f"letocc_core.{name}" for name in CHECKED], "shape_checks.checked")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, default=SHARED_DATA / "golden", help="folder of reference numbers (.npz)")


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Path:
    """Folder with the public reference implementations' inputs and outputs."""
    folder = request.config.getoption("--golden")
    if not folder.is_dir():
        pytest.skip(f"no reference numbers at {folder}; give their folder with --golden DIR")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with small pieces of KITTI and nuScenes in their own layout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real recordings at {SHARED_DATA}")
    return SHARED_DATA
