"""docs/your_robot.md: its commands are run as they stand there, at a small size; and what they rest on."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from letocc_core import checkpoint
from letocc_core.cli import main
from letocc_core.data.config import with_bags
from letocc_core.errors import DataError
from letocc_core.evaluation.samples import RecordedDrive
from letocc_core.stream.pipeline import OccFlowPipeline

pytestmark = pytest.mark.timeout(900)  # it trains, and the machine may be busy
REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {  # what is put behind a command of the page
    "letocc simulate": "--seconds 0.8 --size 48 80 --workers 0",
    "letocc train": "stages.0.steps=2 stages.0.objective.rows=4 stages.0.objective.columns=6 "
    "stages.0.objective.samples=16 input.image_size=[48,80] data.workers=0 --loader-workers 0 --threads 1 "
    "'model.grid={lower: [-9.6, -9.6, -0.8], upper: [9.6, 9.6, 5.6], voxel_size: 0.8}'",
}


def commands() -> list[str]:
    """The command lines of the page, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", (REPOSITORY / "docs" / "your_robot.md").read_text(), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def run(line: str, folder: Path) -> str:
    """What a command printed, with `folder` as its working directory; it must succeed."""
    small = next((more for start, more in SMALL.items() if line.startswith(start)), "")
    words = shlex.split(f"{line} {small}")
    if words[0] != "letocc":
        return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout
    before, said = Path.cwd(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(said):
            assert main(words[1:]) == 0, line
    finally:
        os.chdir(before)
    return said.getvalue()


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each command of the page up to the training printed; `folder`: where they ran."""
    folder = tmp_path_factory.mktemp("robot")
    (folder / "config").symlink_to(REPOSITORY / "config")
    lines = commands()
    last = next(i for i, line in enumerate(lines) if line.startswith("letocc train"))
    return {"folder": str(folder)} | {line: run(line, folder) for line in lines[: last + 1]}


def test_the_three_commands_are_there():
    lines = commands()
    for wanted in ("letocc bag info my_bag", "letocc train config/robot.yaml data=my_bag", "ros2 launch letocc_ros"):
        assert any(line.startswith(wanted) for line in lines), wanted


def test_the_recording_is_ready(robot):
    report = robot["letocc bag info my_bag"]
    assert "camera_front: 8 images of 80 x 48 at 10.0 Hz, fisheye" in report
    assert report.count(" Hz, no distortion") == 3 and "LiDAR: 0" in report and "ready to run: yes" in report


def test_training_gives_a_checkpoint_of_this_robot(robot):
    path = Path(robot["folder"]) / robot["letocc train config/robot.yaml data=my_bag"].strip()
    assert path.samefile(Path(robot["folder"]) / "runs/robot/latest/model.safetensors")
    about = checkpoint.read_metadata(path)
    assert about["cameras"] == ["camera_back", "camera_front", "camera_left", "camera_right"]
    assert about["trained"] == {"static": 2}


def test_the_recording_is_answered_offline(robot):
    from letocc_core.data.bags.recording import Recording

    folder = Path(robot["folder"])
    pipeline = OccFlowPipeline.from_checkpoint(folder / "runs/robot/latest/model.safetensors")
    answers = [pipeline.step(item.frame_set) for item in islice(Recording(folder / "my_bag"), 3)]
    assert answers[2].reset_reason is None and answers[2].observed.mean() > 0.3
    assert len(pipeline.last.sets[-1].images) == 5  # of four cameras, one of them two views


def test_evaluation_sees_the_views(robot):
    """What is not a pinhole image comes to the metrics as the network sees it; truth of raw fisheye images is refused."""
    from letocc_core.evaluation.checkpoint import bag_frames

    folder = Path(robot["folder"])
    frames = bag_frames(checkpoint.read_metadata(folder / "runs/robot/latest/model.safetensors")["config"])
    sample = next(iter(RecordedDrive(folder / "my_bag", **frames)))
    assert len(sample.frame_set.images) == 5 and not any(c.distorted for c in sample.frame_set.calibrations)
    (folder / "my_bag_truth").symlink_to(folder / "streets" / "street_000000_truth")
    with pytest.raises(
        DataError, match=r"my_bag: the truth beside it is of raw images with distortion.*move .*my_bag_truth"
    ):
        next(iter(RecordedDrive(folder / "my_bag", **frames)))


def test_the_node_answers_it_live(robot):
    """The arguments that the page gives to the launch file reach the node and the player as the launch file says."""
    pytest.importorskip("letocc_ros.msg", reason="the ROS package is not built; source scripts/env.sh")
    import ros_rig as rig
    from sensor_msgs.msg import PointCloud2

    rig.isolate_ros()
    folder = robot["folder"]
    line = next(line for line in commands() if line.startswith("ros2 launch") and "bag:=" in line)
    given = dict(item.split(":=") for item in line.replace("$PWD", folder).split()[4:])
    assert set(given) == {"checkpoint", "bag", "as_fast"}
    with (
        rig.Peer({"/occ_flow_node/points": PointCloud2}) as peer,
        rig.node_process(f"checkpoint:={given['checkpoint']}") as node,
    ):
        assert "/camera_back/image_raw/compressed" in node.output
        command = [sys.executable, "-m", "letocc_core.cli", "play", given["bag"], "--as-fast"]
        played = subprocess.run(command, cwd=rig.REPOSITORY, capture_output=True, text=True, timeout=600)
        assert played.returncode == 0, played.stdout + played.stderr
        rig.until(lambda: peer.received["/occ_flow_node/points"], rig.DEADLINE, "an answer of the node")


def test_data_is_short_for_bags():
    assert with_bags("data=my bag") == 'data.bag.bags=["my bag"]'
    assert with_bags("data=[a, b]") == "data.bag.bags=[a, b]"
    assert with_bags("data.workers=1") == "data.workers=1"


def test_what_is_left_open_is_as_in_the_recordings_of_the_checkpoint():
    parameters = pytest.importorskip("letocc_ros.parameters")
    given = parameters.NodeParameters(slop=0.1, fixed_frame="map")
    bag = {"base_frame": "base_footprint", "fixed_frame": "world", "slop": 0.045, "odometry_topic": "/odom"}
    found = parameters.resolved(given, {"cameras": ["left", "right"], "config": {"data": {"bag": bag}}})
    assert (found.cameras, found.slop, found.fixed_frame) == (("left", "right"), 0.1, "map")
    assert (found.base_frame, found.odometry_topic) == ("base_footprint", "/odom")
    assert found.assembler.odometry and found.assembler.slop == 0.1
    plain = parameters.resolved(parameters.NodeParameters(cameras=("top",)), {"config": {"data": {"simulator": {}}}})
    assert (plain.cameras, plain.base_frame, plain.fixed_frame, plain.slop) == (("top",), "base_link", "odom", 0.02)
    older = parameters.resolved(parameters.NodeParameters(), {"config": {}})
    assert older.cameras == parameters.STREET_CAMERAS and older.odometry_topic == ""
