"""The node as its own process, over DDS on the loopback interface: what it publishes, what it makes of bad input."""

import dataclasses
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; source scripts/env.sh")
pytest.importorskip("letocc_ros.msg", reason="the ROS package is not built; source scripts/env.sh")

import ros_rig as rig
from ament_index_python.packages import get_package_prefix
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from rclpy import get_rmw_implementation_identifier
from rclpy.context import Context
from ros_rig import CAMERAS, Peer, node_process, stamp
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_srvs.srv import Trigger

from letocc_core.data.bags import pointcloud
from letocc_core.data.bags.answers import read_answers
from letocc_core.data.bags.reader import open_bag
from letocc_core.data.bags.recording import Recording
from letocc_core.errors import CheckpointError, ConfigError, DataError, LetOccError
from letocc_core.stream.packing import PROBABILITY_STEPS
from letocc_core.stream.pipeline import OccFlowPipeline, reproduce
from letocc_core.stream.snapshot import Snapshot
from letocc_core.stream.types import OccFlow
from letocc_ros import conversions
from letocc_ros.conversions import from_grid_message
from letocc_ros.msg import OccFlowGrid
from letocc_ros.node import OccFlowNode, load_pipeline, main
from letocc_ros.parameters import NodeParameters
from letocc_ros.player import SETTLE, play
from letocc_ros.recorder import Recorder

SETS = 8
OUTPUTS = ("occupancy", "points", "markers", "costmap")
TWO_CAMERAS = f"cameras:={list(CAMERAS)}"
RELIABLE = "image_reliability:=reliable"


@pytest.fixture(scope="module", autouse=True)
def isolated() -> None:
    rig.isolate_ros()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.write_bag(tmp_path_factory.mktemp("bags") / "drive", SETS)


@pytest.fixture(scope="module")
def offline(bag: Path, checkpoint: Path) -> list[OccFlow]:
    pipeline = OccFlowPipeline.from_checkpoint(checkpoint)
    return [pipeline.step(item.frame_set) for item in Recording(bag, CAMERAS, lidar=False)]


@pytest.fixture(scope="class")
def live(checkpoint: Path) -> Iterator[rig.NodeProcess]:
    """The node, started once; reliable, so that a busy machine loses nothing."""
    with node_process(f"checkpoint:={checkpoint}", TWO_CAMERAS, RELIABLE) as node:
        yield node


@pytest.fixture(scope="class")
def recorded(live: rig.NodeProcess, bag: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    """All outputs for the bag, played as fast as the node answers."""
    path = tmp_path_factory.mktemp("recorded") / "answers"
    with Recorder(path) as recorder:
        assert not recorder.wait_for_publishers()
        played = play(bag, as_fast=True, patience=20)
        for name in OUTPUTS:
            recorder.wait_for(f"/occ_flow_node/{name}", SETS, rig.DEADLINE)
    assert (played.sets, played.unanswered, played.skipped_topics) == (SETS, 0, ())
    return path, recorder


class TestLive:
    """One running node, and what comes out of it."""

    @pytest.mark.parametrize("name", OUTPUTS)
    def test_every_output_comes_for_every_set_with_its_stamp(self, recorded: tuple[Path, Recorder], name: str):
        stamps = [stamp_ns for stamp_ns, _ in recorded[1].received[f"/occ_flow_node/{name}"]]
        assert stamps == [stamp(i) for i in range(SETS)]

    def test_published_equals_offline(self, recorded: tuple[Path, Recorder], offline: list[OccFlow]):
        published = list(read_answers(recorded[0]))
        assert len(published) == len(offline) == SETS
        for live_answer, expected in zip(published, offline, strict=True):
            assert live_answer.stamp_ns == expected.stamp_ns
            assert live_answer.grid == expected.grid
            assert np.array_equal(live_answer.observed, expected.observed)
            difference = np.abs(live_answer.probability - expected.probability)[expected.observed]
            assert difference.max() <= 0.5 / PROBABILITY_STEPS + 1e-4  # a byte holds steps of 1 / 254
            sure = np.abs(expected.probability - expected.threshold) > 1e-4
            assert np.array_equal((live_answer.velocity != 0).any(-1) & sure, expected.occupied & sure)
            both = (live_answer.velocity != 0).any(-1) & expected.occupied
            assert both.sum() > 50
            np.testing.assert_allclose(live_answer.velocity[both], expected.velocity[both], atol=1e-4)

    def test_the_outputs_agree_with_each_other(self, recorded: tuple[Path, Recorder], offline: list[OccFlow]):
        with open_bag(recorded[0]) as bag:
            messages = {t: [m for _, _, m in bag.raw([f"/occ_flow_node/{t}"])] for t in OUTPUTS}
        for i, expected in enumerate(offline):
            grid = messages["occupancy"][i]
            points = pointcloud.to_structured(messages["points"][i], "points")
            motion, voxels = messages["markers"][i].markers
            costmap = messages["costmap"][i]
            assert {m.header.frame_id for m in (grid, messages["points"][i], voxels, motion)} == {"base_link"}
            assert costmap.header.frame_id == "odom"
            seen = ~expected.hidden[expected.occupied]  # the cloud leaves out what is hidden
            assert len(grid.occupied) == len(voxels.points) == len(seen) and len(points) == seen.sum()
            assert np.array_equal(np.asarray(grid.vx)[seen], points["vx"])
            occupied = expected.probability[expected.occupied & ~expected.hidden]
            np.testing.assert_allclose(points["probability"], occupied, atol=1e-4)
            info, size = costmap.info, expected.grid.voxel_size
            corners = [rig.pose(i)[0, 3] + expected.grid.lower[0], rig.pose(i)[0, 3] + expected.grid.upper[0]]
            assert info.origin.position.x <= corners[0] and corners[1] <= info.origin.position.x + info.width * size
            assert (info.origin.position.x / size) == pytest.approx(round(info.origin.position.x / size))
            assert {-1, 100} <= set(np.unique(costmap.data).tolist())

    def test_at_the_recordings_own_pace(self, live: rig.NodeProcess, bag: Path, tmp_path: Path, offline: list[OccFlow]):
        """The same bag again: time goes back, the past is forgotten, and the answers are the same as before."""
        topic = "/occ_flow_node/occupancy"
        for rate in (0.8, 0.4, 0.2, 0.1):  # a busy machine loses sets: one whole run is wanted
            answers = tmp_path / f"answers_{rate}"
            with Recorder(answers, {topic: "letocc_ros/msg/OccFlowGrid"}) as recorder:
                recorder.wait_for_publishers()
                started_ns = time.time_ns()
                played = play(bag, rate=rate)
                recorder.wait_for(topic, SETS, 10)
            arrivals = [received_ns for _, received_ns in recorder.received[topic]]
            if len(arrivals) == SETS:
                break
        assert played.sets == len(arrivals) == SETS
        # no faster than asked for; from the start, since a busy node may answer the first set late
        assert (arrivals[-1] - started_ns) * 1e-9 >= SETTLE + (SETS - 1) * 0.2 / rate
        last = list(read_answers(answers))[-1]
        assert np.abs(last.probability - offline[-1].probability)[last.observed].max() <= 0.5 / PROBABILITY_STEPS + 1e-4
        assert "the past is forgotten: time went back" in live.output

    def test_diagnostics_while_all_is_well(self, live: rig.NodeProcess, recorded: tuple[Path, Recorder]):
        indices, well = itertools.count(100), "running; nobody listens to an output that is switched on"
        with Peer({"/diagnostics": DiagnosticArray}) as peer:
            peer.send_infos(100)

            def running() -> list[DiagnosticStatus]:
                i = next(indices)
                peer.send_poses(i)
                peer.send_images(i)
                time.sleep(min(0.05 * (i - 100), 2.0))  # on a busy machine the node answers a slower drive
                latest = [s for array in peer.received["/diagnostics"][-1:] for s in array.status]
                return latest if latest and latest[0].message == well else []

            status, *cameras = rig.until(running, rig.DEADLINE, "a diagnostic that all is well")
        values = {pair.key: pair.value for pair in status.values}
        assert status.level == DiagnosticStatus.OK
        received, answered = int(values["sets in"]), int(values["sets out"])
        assert 0 <= received - answered - int(values.get("dropped: superseded", 0)) <= 2  # waiting, in work
        assert answered >= SETS + 1
        for stage in ("latency", "wait", "queue", "preprocess", "encode", "decode", "output", "publish"):
            assert 0 <= float(values[f"{stage} median (ms)"]) <= float(values[f"{stage} p95 (ms)"])
        assert float(values["rate (Hz)"]) > 0
        assert float(values["age of /tf (s)"]) < 3
        assert [camera.level for camera in cameras] == [DiagnosticStatus.OK] * len(CAMERAS)

    def test_a_snapshot_reproduces_the_answer_offline(
        self, live: rig.NodeProcess, recorded: tuple[Path, Recorder], checkpoint: Path, tmp_path: Path
    ):
        with Peer({"/occ_flow_node/occupancy": OccFlowGrid}) as peer:
            assert peer.set_parameter("snapshot_folder", str(tmp_path)).successful
            peer.send_infos(200)
            for i in range(200, 203):
                peer.send_poses(i)
                peer.send_images(i)
            answers = peer.received["/occ_flow_node/occupancy"]
            rig.until(
                lambda: answers and from_grid_message(answers[-1]).stamp_ns == stamp(202), rig.DEADLINE, "answers"
            )
            response = peer.call(Trigger, "/occ_flow_node/save_snapshot")
            assert response.success, response.message
            assert peer.call(Trigger, "/occ_flow_node/reset").success
            empty = tmp_path / "file"
            empty.touch()
            assert peer.set_parameter("snapshot_folder", str(empty)).successful
            refused = peer.call(Trigger, "/occ_flow_node/save_snapshot")
            assert not refused.success
            assert str(empty) in refused.message
        snapshot = Snapshot.load(response.message)
        assert (snapshot.about["checkpoint"], snapshot.about["cameras"]) == (str(checkpoint), list(CAMERAS))
        published = from_grid_message(answers[-1])
        again = reproduce(snapshot, checkpoint)
        assert np.array_equal(published.observed, again.observed)
        assert np.abs(published.probability - again.probability)[again.observed].max() <= 0.5 / PROBABILITY_STEPS + 1e-4


def test_bad_input_is_named_and_survived(checkpoint: Path):
    """One node through every fault, by hand-made messages; after each it goes on."""
    listen = {"/diagnostics": DiagnosticArray, "/occ_flow_node/occupancy": OccFlowGrid}
    with (
        node_process(f"checkpoint:={checkpoint}", TWO_CAMERAS, "max_wait:=0.05", "max_pose_wait:=0.05") as node,
        Peer(listen) as peer,
    ):
        answers = peer.received["/occ_flow_node/occupancy"]
        first, second = CAMERAS

        def send(index: int, *cameras: str, infos: Sequence[str] = CAMERAS[:1]) -> None:
            peer.send_poses(index, CAMERAS[:1] if index < 20 else CAMERAS)
            peer.send_infos(index, infos)
            peer.send_images(index, cameras or CAMERAS)

        # no camera_info of the second camera: sets go on with the first
        for i in range(3):
            send(i)
        status = peer.diagnosed(f"/{second}/camera_info")
        assert "no camera_info" in status.message
        rig.until(lambda: answers, rig.DEADLINE, "an answer with one camera")

        # its frame hangs nowhere
        for i in range(10, 13):
            send(i, infos=CAMERAS)
        status = peer.diagnosed("camera_left_optical")
        assert "no transform from 'camera_left_optical' to 'base_link'" in status.message

        # a JPEG that was cut off; an empty one
        topic = f"/{second}/image_raw/compressed"
        for i, (kept, what) in enumerate([(0.5, "truncated"), (0, "image of 0 bytes")], start=20):
            send(i, first)
            broken = rig.rgb_to_compressed(rig.picture(second, i), stamp(i), "camera_left_optical")
            broken.data = broken.data[: int(len(broken.data) * kept)]
            peer.publish(topic, broken)
            assert f"{topic} at {stamp(i)} ns" in peer.diagnosed(what).message

        # a camera_info and an image without a frame, and intrinsics that no camera has
        info = rig.calibration_to_camera_info(rig.CALIBRATION, stamp(30), "")
        peer.publish(f"/{second}/camera_info", info)
        for i in range(30, 33):
            send(i)
        assert "no transform from '' to 'base_link'" in peer.diagnosed("no transform from ''").message
        uncalibrated = dataclasses.replace(rig.CALIBRATION, K=np.zeros((3, 3)))
        peer.publish(f"/{second}/camera_info", rig.calibration_to_camera_info(uncalibrated, stamp(33), "x"))
        assert "focal lengths are 0 and 0" in peer.diagnosed("focal lengths").message

        # and all is well again
        peer.send_infos(40)
        for i in range(40, 44):
            send(i)
        rig.until(
            lambda: from_grid_message(answers[-1]).stamp_ns == stamp(43), rig.DEADLINE, "the answer to the last set"
        )
        both = from_grid_message(answers[-1]).observed.sum()
        assert both > from_grid_message(answers[0]).observed.sum()  # the second camera sees something, too
        assert node.process.poll() is None


def test_lifecycle_parameters_and_raw_images(checkpoint: Path, tmp_path: Path):
    """A manager's way through all states, with a checkpoint that is missing at first."""
    missing = tmp_path / "absent.safetensors"
    listen = {"/diagnostics": DiagnosticArray, "/occ_flow_node/occupancy": OccFlowGrid}
    with (
        node_process("autostart:=false", f"checkpoint:={missing}", TWO_CAMERAS, active=False),
        Peer(listen) as peer,
    ):
        assert not peer.transition(Transition.TRANSITION_CONFIGURE)
        status = peer.diagnosed("no such checkpoint")
        assert str(missing) in status.message
        assert status.level == DiagnosticStatus.ERROR

        assert peer.set_parameter("checkpoint", str(checkpoint)).successful
        assert peer.set_parameter("transport", "raw").successful
        refused = peer.set_parameter("transport", "theora")
        assert not refused.successful
        assert "expected one of compressed, raw" in refused.reason
        assert not peer.set_parameter("slop", "wide").successful
        assert not peer.set_parameter("slop", 7.0).successful
        assert peer.transition(Transition.TRANSITION_CONFIGURE)
        assert peer.diagnosed("inactive").level == DiagnosticStatus.OK
        refused = peer.set_parameter("base_frame", "chassis")
        assert not refused.successful
        assert "base_frame: can change only while the node is unconfigured" in refused.reason
        assert peer.transition(Transition.TRANSITION_ACTIVATE)

        # an encoding that is no picture, then pictures
        peer.send_infos(0)
        peer.send_poses(0)
        depth = rig.rgb_to_image(rig.picture(CAMERAS[0], 0), stamp(0), "camera_front_optical")
        depth.encoding = "32FC1"
        peer.publish(f"/{CAMERAS[0]}/image_raw", depth)
        assert f"/{CAMERAS[0]}/image_raw at" in peer.diagnosed("image encoding '32FC1' is not supported").message
        assert peer.set_parameter("threshold", 0.625).successful
        for i in range(1, 4):
            peer.send_poses(i)
            peer.send_images(i, raw=True)
        answers = peer.received["/occ_flow_node/occupancy"]
        rig.until(lambda: answers, rig.DEADLINE, "an answer to raw images")
        assert answers[0].threshold == 0.625

        assert peer.transition(Transition.TRANSITION_DEACTIVATE)
        count = len(answers)
        assert peer.transition(Transition.TRANSITION_ACTIVATE)  # and again
        indices = itertools.count(10)

        def answered_again() -> bool:
            """The subscriptions are new: what comes before they are found is lost."""
            i = next(indices)
            peer.send_infos(i)
            peer.send_poses(i)
            peer.send_images(i, raw=True)
            return len(answers) > count

        rig.until(answered_again, rig.DEADLINE, "answers after the second activation")
        assert peer.transition(Transition.TRANSITION_DEACTIVATE)
        assert peer.transition(Transition.TRANSITION_CLEANUP)
        assert peer.diagnosed("unconfigured").level == DiagnosticStatus.OK
        assert peer.transition(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)


def installed(name: str) -> Path:
    """An executable as `ros2 run` and launch start it."""
    return Path(get_package_prefix("letocc_ros")) / "lib" / "letocc_ros" / name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["occ_flow_node", "play"])
def test_asked_to_end_before_its_first_line(
    name: str, number: signal.Signals, bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """While Python itself starts, which would answer with a traceback."""
    if "--block-signal" not in installed(name).read_text().splitlines()[0]:
        pytest.skip("the `env` of this system cannot hold signals back")
    starts = "import time; print('Python starts', flush=True); time.sleep(1)"
    (tmp_path / "sitecustomize.py").write_text(starts)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    process = rig.NodeProcess(command=[str(installed(name)), str(bag)])
    process.wait_for("Python starts")
    assert (ended_by(process, number), process.lines) == (0, ["Python starts"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("maps", ["multiarray_umath", "_rclpy_pybind11", "/dev/shm/fast"])
@pytest.mark.parametrize("name", ["occ_flow_node", "play"])
def test_asked_to_end_while_it_starts(name: str, maps: str, number: signal.Signals, bag: Path):
    """While it imports numpy or ROS, or joins the graph: what it has mapped into its memory tells."""
    if maps == "/dev/shm/fast" and get_rmw_implementation_identifier() != "rmw_fastrtps_cpp":
        pytest.skip(f"{get_rmw_implementation_identifier()} has other files than Fast DDS")
    process = rig.NodeProcess(command=[str(installed(name)), str(bag)])
    mapped = Path(f"/proc/{process.process.pid}/maps")
    rig.until(lambda: maps in mapped.read_text(), rig.DEADLINE, f"{maps} in its memory")
    assert ended_by(process, number) == 0
    assert process.lines in ([], ["letocc: interrupted"])


def ended_by(process: rig.NodeProcess, number: signal.Signals) -> int:
    """The exit status after one signal."""
    process.process.send_signal(number)
    try:
        return process.process.wait(5)
    finally:
        process.stop()  # waits for its last line


def test_a_player_whose_interrupt_is_lost_ends_all_the_same():
    """As in a callback out of compiled code; what it is at work on goes on."""
    code = "import time; from letocc_core.ending import GRACE, interrupt_once; interrupt_once(within=GRACE)\n"
    code += "try: print('at work', flush=True); time.sleep(600)\nexcept KeyboardInterrupt: time.sleep(600)"
    process = rig.NodeProcess(command=[sys.executable, "-c", code])
    process.wait_for("at work")
    assert (ended_by(process, signal.SIGINT), process.lines) == (0, ["at work"])


def test_a_player_that_waits_for_the_next_message_ends_when_asked_to(bag: Path):
    process = rig.NodeProcess(command=[str(installed("play")), str(bag), "--rate", "0.001", "--loop", "--ros-args"])
    process.wait_for("nobody listens")
    assert (process.stop(5), process.lines[1:]) == (0, ["letocc: interrupted"])


def test_a_node_that_cannot_start_says_why_and_exits_with_1(tmp_path: Path):
    node = rig.NodeProcess(f"checkpoint:={tmp_path / 'absent.safetensors'}", "max_waits:=0.2")
    assert node.process.wait(rig.DEADLINE) == 1
    rig.until(lambda: "absent.safetensors: no such checkpoint" in node.output, 5, node.output)
    assert "parameter 'max_waits' is unknown and has no effect; did you mean 'max_wait'?" in node.output
    assert "Traceback" not in node.output


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ("slop:=7.0", "Parameter slop out of range"),
        ("slop:=7", "'slop' is 7.0, expected 0 to 1 s"),
        ("slop:=wide", "'slop' is 'wide', expected a number"),
        ("min_speed:=true", "'min_speed' is True, expected a number"),
        ("motion_colour:=[1, 2, 0]", "'motion_colour' is [1.0, 2.0, 0.0], expected three numbers, 0 to 1"),
        ("motion_colour:=1.0", "'motion_colour' is 1.0, expected numbers"),
        ("threads:=2.0", "'threads' to '2.0' of type 'DOUBLE', expecting type 'INTEGER'"),
        ("transport:=theora", "'transport' is 'theora', expected one of compressed, raw"),
    ],
)
def test_impossible_parameters_are_refused_at_the_start(parameter: str, text: str, capsys: pytest.CaptureFixture):
    assert main(["--ros-args", "-p", parameter]) == 1
    assert text in capsys.readouterr().err


def test_a_misspelt_parameter_is_named_beside_one_that_is_refused(capfd: pytest.CaptureFixture):
    assert main(["--ros-args", "-p", "max_waits:=0.2", "-p", "rate:=2", "-p", "threads:=many"]) == 1
    text = capfd.readouterr().err
    assert "parameter 'max_waits' is unknown and has no effect; did you mean 'max_wait'?" in text
    assert "parameter 'rate' is unknown and has no effect; `ros2 param list` names those that there are" in text
    assert "'threads' to 'many' of type 'STRING', expecting type 'INTEGER'" in text


def test_arguments_that_ros_cannot_read(tmp_path: Path, capfd: pytest.CaptureFixture):
    assert main(["--ros-args", "--params-file", str(tmp_path / "absent.yaml")]) == 1
    text = capfd.readouterr().err
    assert "occ_flow_node: failed to initialize rcl" in text and str(tmp_path / "absent.yaml") in text


def test_checkpoint_of_another_configuration(checkpoint: Path, tmp_path: Path):
    config = tmp_path / "other.yaml"
    config.write_text("model: {dim: 32, encoder: {heads: 4}, temporal: {heads: 4}}\n")
    with pytest.raises(CheckpointError, match=r"belongs to another configuration.*model\.dim: 16 != 32"):
        load_pipeline(NodeParameters(checkpoint=str(checkpoint), config=str(config)))
    config.write_text("model: {dimm: 32}\n")
    with pytest.raises(ConfigError, match=r"unknown key 'model\.dimm'; did you mean 'model\.dim'"):
        load_pipeline(NodeParameters(checkpoint=str(checkpoint), config=str(config)))
    with pytest.raises(ConfigError, match=r"'config' is 'absent\.yaml': no such file"):
        load_pipeline(NodeParameters(checkpoint=str(checkpoint), config="absent.yaml"))
    with pytest.raises(ConfigError, match="'device' is 'abacus'"):
        load_pipeline(NodeParameters(checkpoint=str(checkpoint), device="abacus"))


def test_player_refuses_what_it_cannot_play(bag: Path, tmp_path: Path):
    with pytest.raises(DataError, match="no such bag"):
        play(tmp_path / "absent")
    with pytest.raises(LetOccError, match="rate is 0, expected a positive number"):
        play(bag, rate=0)
    with pytest.raises(DataError, match="no camera 'camera_top'; cameras found: camera_front, camera_left"):
        play(bag, as_fast=True, anchor="camera_top")


def test_cameras_of_a_recording_that_do_not_fire_together(checkpoint: Path, tmp_path: Path):
    """The node takes the slop that the recording needs, so that its answers are those of sets of all cameras."""
    bag = rig.write_bag(tmp_path / "apart", SETS, delay_ns=45_000_000)
    topic = "/occ_flow_node/occupancy"
    with (
        node_process(f"checkpoint:={checkpoint}", TWO_CAMERAS, f"recording:={bag}", RELIABLE) as node,
        Recorder(tmp_path / "answers", {topic: "letocc_ros/msg/OccFlowGrid"}) as recorder,
    ):
        assert (
            f"slop is 0.05 s, with which the cameras of {bag} form sets; set parameter 'slop' for another"
            in node.output
        )
        recorder.wait_for_publishers()
        play(bag, as_fast=True, patience=20)
        recorder.wait_for(topic, SETS, rig.DEADLINE)
    pipeline = OccFlowPipeline.from_checkpoint(checkpoint)
    sets = [item.frame_set for item in Recording(bag, CAMERAS, lidar=False, slop=0.05)]
    assert all(image is not None for item in sets for image in item.images)
    for answer, frames in zip(read_answers(tmp_path / "answers"), sets, strict=True):
        expected = pipeline.step(frames)
        assert answer.stamp_ns == expected.stamp_ns
        assert (
            np.abs(answer.probability - expected.probability)[expected.observed].max() <= 0.5 / PROBABILITY_STEPS + 1e-4
        )


def test_a_recording_that_cannot_be_read_is_named(checkpoint: Path, tmp_path: Path):
    node = rig.NodeProcess(f"checkpoint:={checkpoint}", TWO_CAMERAS, f"recording:={tmp_path / 'nowhere'}")
    node.wait_for("nowhere: no such bag")
    assert node.process.wait(rig.DEADLINE) == 1 and "Traceback" not in node.output


def test_who_begins_to_listen_gets_the_camera_info_of_the_next_image(tmp_path: Path):
    """However seldom it was recorded: here once, before the second listener comes."""
    bag = rig.write_bag(tmp_path / "seldom", 60, infos=1)
    player = threading.Thread(target=play, args=(bag,), kwargs={"rate": 2.0, "wait": 4.0}, daemon=True)
    info, image = (f"/{CAMERAS[0]}/{name}" for name in ("camera_info", "image_raw/compressed"))
    with Peer({image: CompressedImage}) as first:  # as RViz: it is not waited for, and does not begin the drive either
        started = time.monotonic()
        player.start()
        rig.until(lambda: first.received[image], rig.DEADLINE, "the first image")
        assert time.monotonic() - started > 4.0
        with Peer({info: CameraInfo, image: CompressedImage}) as second:
            player.join(rig.DEADLINE)
    infos, images = second.received[info], second.received[image]
    assert {stamp_of(message) for message in infos} == {stamp(0)}
    assert 1 <= len(infos) < len(images) < 60  # no more than are due
    assert infos[0].width == rig.WIDTH


def stamp_of(message: CameraInfo) -> int:
    return message.header.stamp.sec * rig.SECOND + message.header.stamp.nanosec


def test_images_larger_than_the_default_shared_memory(checkpoint: Path, tmp_path: Path):
    """Best effort, as cameras send: with Fast DDS's own settings every one of these would be lost."""
    bag = rig.write_large_images(tmp_path / "large", sets=4)
    topic = "/occ_flow_node/occupancy"
    with (
        node_process(f"checkpoint:={checkpoint}", f"cameras:=[{CAMERAS[0]}]"),
        Recorder(tmp_path / "answers", {topic: "letocc_ros/msg/OccFlowGrid"}) as recorder,
    ):
        recorder.wait_for_publishers()
        play(bag, as_fast=True, patience=10)
        recorder.wait_for(topic, 4, rig.DEADLINE)
    assert [stamp_ns for stamp_ns, _ in recorder.received[topic]] == [stamp(i) for i in range(4)]


def test_playing_to_nobody(bag: Path, capsys: pytest.CaptureFixture):
    """It says so, and plays all the same."""
    assert play(bag, rate=20, wait=0.2).sets == SETS
    assert "nobody listens to" in capsys.readouterr().err
    with pytest.raises(LetOccError, match="no node publishes letocc_ros/msg/OccFlowGrid"):
        play(bag, as_fast=True, wait=0.02)


def test_outputs_are_made_only_for_listeners(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    """In this process, with every conversion replaced by one that fails."""

    def never(*_):
        raise AssertionError("nobody listens")

    for name in ("to_grid_message", "to_point_cloud", "to_costmap"):
        monkeypatch.setattr(conversions, name, never)
    context = Context()
    context.init(args=["--ros-args", "-p", f"checkpoint:={checkpoint}", "-p", TWO_CAMERAS, "-r", "__ns:=/quiet"])
    node = OccFlowNode(context=context)
    try:
        assert node.start()
        node._submit(rig.frame_set(0))

        def values() -> dict[str, str]:
            return {pair.key: pair.value for pair in node.health.statuses("active")[0].values}

        rig.until(lambda: values()["sets out"] == "1", rig.DEADLINE, "an answer")
        assert not [key for key in values() if key.startswith("dropped")]
    finally:
        node.destroy_node()
        context.try_shutdown()
