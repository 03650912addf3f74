"""The launch file and what it hands out: every argument declared, described and used; with ROS's launch, run for real."""

import ast
import importlib.util
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not installed; source scripts/env.sh")
pytest.importorskip("letocc_ros.msg", reason="the ROS package is not built; source scripts/env.sh")

import ros_rig as rig

from letocc_core.data.bags.writer import optical_frame
from letocc_ros import conversions
from letocc_ros.msg import OccFlowGrid
from letocc_ros.parameters import STREET_CAMERAS
from letocc_ros.recorder import OUTPUTS
from letocc_ros.view.rviz import node_config

LAUNCH_FILE = rig.REPOSITORY / "launch" / "occ_flow.launch.py"
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [tuple(item.split(":=")) for item in sys.argv[2:]]
service = LaunchService()
source = PythonLaunchDescriptionSource(sys.argv[1])
include = IncludeLaunchDescription(source, launch_arguments=arguments)
service.include_launch_description(LaunchDescription([include]))
sys.exit(service.run())
"""


@pytest.fixture(scope="module")
def declared() -> dict[str, str]:
    """Argument -> description, as the source has them."""
    calls = [n for n in ast.walk(ast.parse(LAUNCH_FILE.read_text())) if isinstance(n, ast.Call)]
    calls = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "argument"]
    return {c.args[0].value: c.args[2].value for c in calls}


def test_every_argument_is_described_and_used(declared: dict[str, str]):
    assert {"checkpoint", "params_file", "bag", "rviz", "use_sim_time", "namespace"} <= set(declared)
    assert not {name for name, text in declared.items() if len(text) < 10 or not text.endswith(".")}
    tree = ast.parse(LAUNCH_FILE.read_text())
    lookups = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.Subscript) and isinstance(n.value, ast.Name) and n.value.id == "values"
    ]
    used = {n.slice.value for n in lookups if isinstance(n.slice, ast.Constant)}
    assert used <= set(declared)
    in_a_loop = {n.elts[0].value for n in ast.walk(tree) if isinstance(n, ast.Tuple) and len(n.elts) == 2 and flag(n)}
    by_name = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    passed_on = {"device", "base_frame", "fixed_frame", "odometry_topic", "body_masks", "image_topic", "transport"}
    passed_on &= by_name  # all in the same way
    assert used | in_a_loop | passed_on == set(declared)


def flag(pair: ast.Tuple) -> bool:
    """Whether this is an (argument, flag of the player) pair."""
    return all(isinstance(e, ast.Constant) for e in pair.elts) and pair.elts[1].value.startswith("--")


def test_the_launch_file_on_the_page_of_the_node(declared: dict[str, str]):
    """Several nodes composed: it is Python, and gives arguments that exist."""
    tree = ast.parse(composed())
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    given = [{k.arg for k in c.keywords} for c in calls if c.func.id == "occ_flow"]
    fixed = {k.value for n in ast.walk(tree) if isinstance(n, ast.Dict) for k in n.keys}
    assert len(given) == 2 and fixed
    assert fixed.union(*given) <= set(declared)


def composed() -> str:
    """The launch file of several nodes on the page of the node."""
    page = (rig.REPOSITORY / "docs" / "node.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return block


def test_rviz_shows_what_the_node_publishes():
    config = yaml.safe_load((rig.REPOSITORY / "config" / "occ_flow.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    topics = {d["Topic"]["Value"] for d in displays if "Topic" in d}
    images = {f"/{camera}/image_raw/compressed" for camera in STREET_CAMERAS}
    assert topics == images | set(OUTPUTS) - {"/occ_flow_node/occupancy"} | {"/occ_flow_node/objects"}
    kinds = {d["Class"].partition("/")[2] for d in displays if d["Enabled"]}
    assert {"MarkerArray", "Map", "TF"} <= kinds
    assert "Image" not in kinds  # RViz aborts where it cannot decode them


def test_rviz_shows_the_node_that_was_launched(tmp_path: Path):
    """Under its own name, with its own cameras and frame."""
    params = tmp_path / "params.yaml"
    params.write_text("/robot1/seer: {ros__parameters: {image_topic: image_rect, base_frame: chassis, slop: 1}}")

    def displays(**changes: object) -> dict[str, dict]:
        compressed = changes.pop("compressed", True)
        config = yaml.safe_load(node_config(rig.REPOSITORY, "/robot1/", "seer", params, changes, compressed))
        manager = config["Visualization Manager"]
        assert manager["Global Options"]["Fixed Frame"] == manager["Views"]["Current"]["Target Frame"] == "chassis"
        return {d["Topic"]["Value"]: d for d in manager["Displays"] if "Topic" in d}

    outputs = {f"/robot1/seer/{name}" for name in ("markers", "objects", "points", "costmap")}
    found = displays(cameras=["left", "right"])
    images = [f"/robot1/{camera}/image_rect/compressed" for camera in ("left", "right")]
    assert list(found)[-2:] == images
    assert set(found) == outputs | set(images)
    assert [(found[i]["Name"], found[i]["Enabled"]) for i in images] == [("left", True), ("right", True)]
    assert not displays(cameras=["left"], compressed=False)[images[0]]["Enabled"]
    assert displays(cameras=["left"], compressed=False, transport="raw")["/robot1/left/image_rect"]["Enabled"]
    named_by_the_checkpoint = [t.split("/")[2] for t in displays() if t.endswith("/compressed")]
    assert named_by_the_checkpoint == list(STREET_CAMERAS)


def launch_or_skip() -> None:
    for name in ("launch.launch_service", "launch_ros.actions"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            pytest.skip(
                f"ROS's launch is not installed here ({error}); it comes with a ROS installation, not from PyPI"
            )


def command(launch_file: Path, *arguments: str) -> list[str]:
    """As `ros2 launch`."""
    return [sys.executable, "-c", RUN, str(launch_file), *arguments]


def test_what_the_arguments_choose_reaches_node_and_player():
    launch_or_skip()
    spec = importlib.util.spec_from_file_location("occ_flow_launch", LAUNCH_FILE)
    file = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(file)
    values = dict.fromkeys((argument.name for argument in file.arguments()), "")
    assert set(file.changes(values)) == {"use_sim_time", "autostart"} and file.player_options(values) == []
    values |= {"cameras": "left,front", "odometry_topic": "odom", "body_masks": "masks", "slop": "0.05", "loop": "true"}
    found = file.changes(values | {"base_frame": "chassis", "fixed_frame": "map", "transport": "raw"})
    assert found["transport"] == "raw" and "image_topic" not in found
    assert found["cameras"] == ["left", "front"] and found["slop"] == 0.05 and found["body_masks"] == "masks"
    assert (found["base_frame"], found["fixed_frame"], found["odometry_topic"]) == ("chassis", "map", "odom")
    options = ["--loop", "--lidar-topic", "/top/points", "--cameras", "left,front", "--odometry-topic", "/odom"]
    assert file.player_options(values | {"lidar_topic": "/top/points"}) == options
    assert file.player_options(values | {"namespace": "robot1"}) == ["--loop"]


def run_launch(*arguments: str) -> subprocess.CompletedProcess:
    rig.isolate_ros()
    return subprocess.run(
        command(LAUNCH_FILE, *arguments),
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_launched_with_a_bag_it_answers_and_ends(tmp_path: Path):
    launch_or_skip()
    checkpoint, bag = rig.write_checkpoint(tmp_path / "tiny.safetensors"), rig.write_bag(tmp_path / "drive", 4)
    run = run_launch(f"bag:={bag}", "as_fast:=true", f"checkpoint:={checkpoint}", f"cameras:={','.join(rig.CAMERAS)}")
    assert run.returncode == 0, run.stderr
    text = run.stdout + run.stderr
    assert "active: images from /camera_front/image_raw/compressed, /camera_left/image_raw/compressed" in text
    assert "process[play-2] was required: shutting down" in text
    assert "Traceback" not in text


def test_launched_without_a_checkpoint_it_says_so_and_ends(tmp_path: Path):
    launch_or_skip()
    run = run_launch(f"checkpoint:={tmp_path / 'absent.safetensors'}", "namespace:=robot")
    text = run.stdout + run.stderr
    assert "absent.safetensors: no such checkpoint" in text
    assert "robot" in text


def test_a_slop_that_is_no_number_is_named():
    launch_or_skip()
    run = run_launch("slop:=0,045")
    assert run.returncode == 1
    assert "slop:=0,045: expected a number of seconds, such as 0.045" in run.stdout + run.stderr
    assert "process started" not in run.stdout + run.stderr


@pytest.mark.parametrize("name", ["params_file", "rviz_config"])
def test_a_file_that_is_not_there_is_named_and_nothing_starts(name: str, tmp_path: Path):
    launch_or_skip()
    run = run_launch(f"{name}:={tmp_path / 'nope'}")
    assert run.returncode == 1
    assert f"{name}:={tmp_path / 'nope'}: no such file" in run.stdout + run.stderr
    assert "process started" not in run.stdout + run.stderr


def both_ended_cleanly(output: str) -> None:
    """Node and player, by what launch says of them."""
    assert output.count("process has finished cleanly") == 2, output
    for word in ("Traceback", "has died", "escalating", "invalid"):
        assert word not in output, output


def test_a_launch_that_is_interrupted_ends_cleanly(tmp_path: Path):
    """By Ctrl-C, which the terminal sends to all processes: launch waits for them."""
    launch_or_skip()
    rig.isolate_ros()
    checkpoint, bag = rig.write_checkpoint(tmp_path / "tiny.safetensors"), rig.write_bag(tmp_path / "drive", 4)
    arguments = [f"bag:={bag}", f"checkpoint:={checkpoint}", f"cameras:={','.join(rig.CAMERAS)}", "loop:=true"]
    launched = rig.NodeProcess(command=command(LAUNCH_FILE, *arguments, "rate:=0.05"))
    try:
        launched.wait_for("active: images from")
    finally:
        status = launched.stop()
    assert status == 0, launched.output
    both_ended_cleanly(launched.output)


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.3, 1.0, 2.0])
def test_a_launch_that_is_interrupted_while_its_processes_start(seconds: float, tmp_path: Path):
    """From the moment on at which `env` has handed over to Python; before that, nothing of ours runs."""
    launch_or_skip()
    rig.isolate_ros()
    bag = rig.write_bag(tmp_path / "drive", 4)
    launched = rig.NodeProcess(command=command(LAUNCH_FILE, f"bag:={bag}", f"cameras:={','.join(rig.CAMERAS)}"))
    try:
        launched.wait_for("play-2]: process started")
        for number in re.findall(r"process started with pid \[(\d+)\]", launched.output):
            line = Path(f"/proc/{number}/cmdline")
            rig.until(lambda line=line: line.read_bytes().startswith(b"python3\0"), rig.DEADLINE, "Python")
        time.sleep(seconds)
    finally:
        status = launched.stop()
    assert status == 0, launched.output
    both_ended_cleanly(launched.output)


def test_a_node_that_respawns_starts_again(tmp_path: Path):
    launch_or_skip()
    rig.isolate_ros()
    checkpoint = rig.write_checkpoint(tmp_path / "tiny.safetensors")
    launched = rig.NodeProcess(command=command(LAUNCH_FILE, f"checkpoint:={checkpoint}", "respawn:=true"))
    try:
        launched.wait_for("active: images from")
        first = int(re.search(r"process started with pid \[(\d+)\]", launched.output).group(1))
        os.kill(first, signal.SIGKILL)
        rig.until(lambda: launched.output.count("active: images from") == 2, rig.DEADLINE, "a second start")
    finally:
        assert launched.stop() == 0, launched.output


def test_two_nodes_launched_from_one_file_both_answer(tmp_path: Path):
    """The composed launch file of the page: included twice, in a namespace, one topic remapped."""
    launch_or_skip()
    rig.isolate_ros()
    front, left = rig.CAMERAS
    file, checkpoint = tmp_path / "robot.launch.py", rig.write_checkpoint(tmp_path / "tiny.safetensors")
    text = re.sub(r"/models/\w+\.safetensors", str(checkpoint), composed())
    file.write_text(text.replace(f"{left},camera_right", left))
    images = {front: "/driver/front/jpeg", left: f"/robot1/{left}/image_raw/compressed"}
    answers = {"/robot1/occ_flow_node/occupancy": OccFlowGrid, "/robot1/occ_around/occupancy": OccFlowGrid}
    launched = rig.NodeProcess(command=command(file))
    try:
        for topic in images.values():
            launched.wait_for(f"active: images from {topic}")
        with rig.Peer(answers) as peer:
            sets = itertools.count()
            rig.until(
                lambda: send(peer, images, next(sets)) or all(peer.received.values()), rig.DEADLINE, "answers of both"
            )
    finally:
        status = launched.stop()
    assert (status, "Traceback" in launched.output) == (0, False), launched.output


def send(peer: rig.Peer, images: dict[str, str], index: int) -> None:
    """A set of images, each on its topic, in the namespace of the two nodes."""
    peer.send_poses(index)
    for camera, topic in images.items():
        stamp, frame = rig.stamp(index), optical_frame(camera)
        info = conversions.calibration_to_camera_info(rig.CALIBRATION, stamp, frame)
        peer.publish(f"/robot1/{camera}/camera_info", info)
        peer.publish(topic, conversions.rgb_to_compressed(rig.picture(camera, index), stamp, frame))
    time.sleep(0.1)
