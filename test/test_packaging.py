"""The package as a whole: what the files that describe it say, and the set-up scripts."""

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from test_layers import imports, sources

import letocc_core

ROOT = Path(__file__).resolve().parents[1]
ROSDEP_KEYS = {  # of Python's modules
    "cv2": "python3-opencv",
    "mcap": "mcap-ros2-support",
    "numba": "python3-numba",
    "numpy": "python3-numpy",
    "rosbags": "python3-rosbags-pip",
    "scipy": "python3-scipy",
    "simplejpeg": "python3-simplejpeg-pip",
    "torch": "python3-pytorch-pip",
    "tqdm": "python3-tqdm",
    "transformers": "python3-transformers-pip",
    "yaml": "python3-yaml",
}
# safetensors comes with transformers; nav2_dynamic_msgs is used where it is installed
WITHOUT_KEY = {"jaxtyping", "safetensors", "nav2_dynamic_msgs"}
WHEELS = sorted((ROOT / "scripts/ros_wheels").glob("*.txt"))


def test_help_is_quick_and_light():
    probe = "import sys; from letocc_core.cli import main\ntry: main(['--help'])\nfinally: print(sorted(sys.modules))"
    begin = time.monotonic()
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert run.returncode == 0 and "usage: letocc" in run.stdout, run.stderr
    assert not [
        heavy for heavy in ("torch", "open3d", "transformers", "matplotlib", "cv2") if f"'{heavy}'" in run.stdout
    ]
    assert time.monotonic() - begin < 10  # 0.2 s on an idle machine


@pytest.fixture(scope="module")
def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def test_one_version_everywhere(manifest: ElementTree.Element):
    assert manifest.findtext("version") == letocc_core.__version__
    assert letocc_core.__version__ in (ROOT / "CHANGELOG.md").read_text()


def test_the_manifest_names_every_ros_package_that_is_imported(manifest: ElementTree.Element):
    """A module of Python has another name there; whatever else is imported is a ROS package."""
    declared = {e.text for tag in ("depend", "exec_depend", "buildtool_depend") for e in manifest.iter(tag)}
    files = sources("letocc_ros") + sources("launch") + sources("examples")
    used = {name.split(".")[0] for file in files for name in imports(file)}
    used -= {"letocc_core", "letocc_ros"} | set(sys.stdlib_module_names)
    assert {"rclpy", "ament_index_python", "builtin_interfaces", "rcl_interfaces", "launch_ros"} <= used
    assert {ROSDEP_KEYS.get(name, name) for name in used} - WITHOUT_KEY <= declared
    assert set(ROSDEP_KEYS.values()) <= declared
    assert manifest.find("export/build_type").text == "ament_cmake"


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda file: file.name)
def test_the_loader_reads_every_configuration(file: Path):
    """Strictly, as training does; the node's own parameters are compared with its declarations in its test."""
    if "ros__parameters" in file.read_text():
        assert isinstance(yaml.safe_load(file.read_text()), dict)
        return
    from letocc_core import config as configuration
    from letocc_core.training.config import TrainConfig

    configuration.load(TrainConfig, file)


def wheels(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("file", WHEELS, ids=lambda file: file.stem)
def test_the_wheels_of_a_distribution_are_pinned(file: Path):
    names = [line.split("[")[0].split("==")[0] for line in wheels(file)]
    assert f"ros-{file.stem}-rclpy" in names
    assert {f"ros-{file.stem}-{n}" for n in ("common-interfaces", "ament-cmake", "ament-cmake-pytest")} <= set(names)
    assert len(names) == len(set(names))
    assert not [line for line in wheels(file) if line.startswith("ros-") and "==" not in line]
    assert {name.removeprefix("ros-") for name in names if name.startswith(f"ros-{file.stem}-")} <= {
        f"{file.stem}-{name.removeprefix('ros-')}" for name in names
    }  # each is a name for the package itself, which is pinned as well


def test_every_direct_dependency_is_pinned():
    pins = {line.split("==")[0] for line in (ROOT / "scripts/constraints.txt").read_text().splitlines() if "==" in line}
    direct = {line for file in WHEELS for line in wheels(file) if "==" not in line}
    project = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[0]
    direct |= {word.split(">=")[0] for word in project.split('"') if ">=" in word and word[0].isalpha()} - {
        "setuptools"
    }
    assert {"torch", "open3d", "rosbags", "pytest"} <= direct
    assert direct <= pins


def test_the_repository_names_no_place_of_its_makers():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    texts = [p for p in map(Path, tracked.stdout.splitlines()) if p.suffix not in {".png", ".gif", ".safetensors"}]
    home = "/" + "work/"
    assert not [str(p) for p in texts if (ROOT / p).is_file() and home in (ROOT / p).read_text(errors="ignore")]


def run_install(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(ROOT / "scripts/install.sh"), str(folder)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_setup_refuses_a_python_out_of_range(tmp_path: Path):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    run = run_install(tmp_path / "venv", LETOCC_PYTHON=str(old))
    assert run.returncode == 1
    assert "no Python from 3.10 to 3.13" in run.stderr and str(old) in run.stderr


def test_setup_refuses_a_distribution_that_it_has_no_wheels_of(tmp_path: Path):
    run = run_install(tmp_path / "venv", LETOCC_ROS="ardent", ROS_DISTRO="")
    assert run.returncode == 1 and "LETOCC_ROS is 'ardent', expected one of: jazzy kilted" in run.stderr, run.stderr


def test_pytest_loads_no_plugin_but_its_own(tmp_path: Path):
    """Beside the plugins of a ROS installation, which were written for an older pytest and end a new one at its start."""
    (tmp_path / "old_plugin.py").write_text("def pytest_pycollect_makemodule(path, parent): ...\n")
    metadata = tmp_path / "old_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: old_plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[pytest11]\nold_plugin = old_plugin\n")

    def collect(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "test/test_config.py", *arguments]
        paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, "PYTEST_ADDOPTS": ""}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)

    run = collect("-n", "0", "--timeout", "100")  # options of plugins that are its own
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Plugin 'old_plugin' for hook" in collect("-o", "addopts=").stderr  # which this one is not


def test_setup_leaves_a_foreign_folder_alone(tmp_path: Path):
    (tmp_path / "precious").write_text("mine")
    run = run_install(tmp_path)
    assert run.returncode == 1 and "was not made by this script" in run.stderr, run.stderr
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_ros_installation_keeps_its_own_numpy():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from ros_constraints import constraints
    finally:
        sys.path.pop(0)
    lines = [
        "# a comment",
        "",
        "numpy==2.4.6; python_version >= '3.11'",
        "scipy==1.17.1",
        "PyYAML==6.0.3",
        "tqdm==4.70.1",
    ]
    lines += ["setuptools==79.0.1"]
    system = {"numpy": "1.26.4", "setuptools": "68.1.2", "pyyaml": "6.0.1"}
    assert constraints(lines, system) == ["tqdm==4.70.1", "setuptools==79.0.1", "numpy==1.26.4"]
    assert constraints(["scipy==1.17.1"], {}) == ["scipy==1.17.1"]


def test_readme_points_to_files_that_exist():
    readme = (ROOT / "README.md").read_text()
    targets = [part.split(")")[0] for part in readme.split("](")[1:]]
    assert not [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()]
