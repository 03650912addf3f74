"""Options and fixtures that every test may use."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook
from shape_checks import checked_modules

REPOSITORY = Path(__file__).resolve().parents[1]
install_import_hook(checked_modules(REPOSITORY), "shape_checks.checked")  # before any of them is imported
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
LONGEST = (
    "test_faults.py",
    "test_ros_node.py",
    "test_train.py",
    "test_datasets.py",
    "test_browser.py",
    "test_selfocc.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, default=SHARED_DATA / "golden", help="folder of reference numbers (.npz)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that side by side no process is left alone with one of them at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


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
