"""Options and fixtures that every test may use."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook
from shape_checks import checked_modules

REPOSITORY = Path(__file__).resolve().parents[1]
install_import_hook(checked_modules(REPOSITORY), "shape_checks.checked")  # before any of them is imported
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
