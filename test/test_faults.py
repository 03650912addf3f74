"""Faults of a robot's sensors, clocks and processes, against the real node over DDS: `pytest -m faults`.

After each of them the node is alive, has named the cause on /diagnostics, publishes again when the fault is over, and
has published nothing stale: `Drive.recover` and `Drive.check` run after every test.
"""

import dataclasses
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; source scripts/env.sh")
pytest.importorskip("letocc_ros.msg", reason="the ROS package is not built; source scripts/env.sh")

import ros_rig as rig
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ros_rig import CAMERAS, Peer, node_process, stamp
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from tf2_msgs.msg import TFMessage

from letocc_core.data.bags.writer import optical_frame
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.stream.types import Calibration
from letocc_ros import conversions
from letocc_ros.msg import OccFlowGrid

pytestmark = pytest.mark.faults
FRONT, LEFT = CAMERAS
RAW_IMAGES = f"/{LEFT}/image_raw"
IMAGES = f"{RAW_IMAGES}/compressed"
ANSWERS, DIAGNOSTICS = "/occ_flow_node/occupancy", "/diagnostics"
SLOW_LISTENER = """
import sys, time
from letocc_ros.msg import OccFlowGrid
from letocc_ros.session import session
with session("slow") as (node, executor):
    node.create_subscription(OccFlowGrid, sys.argv[1], lambda _: (print("received", flush=True), time.sleep(999)), 5)
    executor.spin()
"""


class Drive:
    """A vehicle that drives on from test to test, and what the node makes of its messages."""

    def __init__(self, peer: Peer, node: rig.NodeProcess, whole: int, raw: bool = False):
        self.peer, self.node, self.raw = peer, node, raw
        self.whole = whole  # voxels that both cameras see
        self.index = 0  # of the newest set
        self.last_good = 0  # the newest set before the last fault
        self.may_be_answered: set[int] = set()  # ns
        self._simulated = False
        self._begun = 0  # answers before this one belong to an earlier run of the clock

    @property
    def answers(self) -> list[OccFlowGrid]:
        """Since time began."""
        return self.peer.received[ANSWERS][self._begun :]

    def step(self, cameras: Sequence[str] = CAMERAS, poses: bool = True, infos: bool = True) -> int:
        """The next set, without some of its images, the vehicle's pose or the intrinsics; returns its index."""
        self.index += 1
        self.may_be_answered.add(stamp(self.index))
        if self._simulated:
            self.publish_clock()
        if poses:
            self.peer.send_poses(self.index)
        if infos:
            self.peer.send_infos(self.index)
        self.peer.send_images(self.index, cameras, self.raw)
        return self.index

    def simulate_time(self, on: bool) -> None:
        """Let the node go by /clock, which from then on tells the newest set's time, or by the wall again."""
        assert self.peer.set_parameter("use_sim_time", on).successful
        self._simulated = on

    def publish_clock(self) -> None:
        self.peer.publish("/clock", Clock(clock=conversions.from_ns(stamp(self.index))))

    def send_image(self, message: CompressedImage | Image) -> None:
        """An image of the second camera, in place of the one that belongs to the next set."""
        self.step([FRONT])
        self.peer.publish(RAW_IMAGES if self.raw else IMAGES, message)

    def send_info(self, calibration: Calibration) -> None:
        """Intrinsics of the second camera."""
        self.peer.publish(
            f"/{LEFT}/camera_info",
            conversions.calibration_to_camera_info(calibration, stamp(self.index), optical_frame(LEFT)),
        )

    def send_pose(self, T: np.ndarray, parent: str = "odom", child: str = "base_link") -> TFMessage:
        """A transform at the newest set's stamp."""
        message = conversions.matrix_to_transform(T, stamp(self.index), parent, child)
        self.peer.publish("/tf", TFMessage(transforms=[message]))

    def next_image(self, stamp_ns: int | None = None, size: tuple[int, int] = (rig.WIDTH, rig.HEIGHT), kind="jpeg"):
        """The second camera's image of the next set."""
        picture = np.resize(rig.picture(LEFT, self.index + 1), (size[1], size[0], 3))
        stamp_ns = stamp(self.index + 1) if stamp_ns is None else stamp_ns
        return conversions.rgb_to_compressed(picture, stamp_ns, optical_frame(LEFT), kind)

    def next_raw_image(self, encoding: str) -> Image:
        """The same in grey, in another encoding of one or three bytes a pixel."""
        grey = rig.picture(LEFT, self.index + 1)[..., :1]
        message = conversions.rgb_to_image(grey.repeat(3, -1), stamp(self.index + 1), optical_frame(LEFT))
        message.encoding = encoding
        if encoding == "mono8":
            message.step, message.data = rig.WIDTH, grey.tobytes()
        return message

    def provoke(self, text: str, fault: Callable[[], object]) -> DiagnosticStatus:
        """Repeat the fault until the diagnostics, which do not say `text` before, say it."""
        rig.until(lambda: self.step() and self._named(text, -1) is None, rig.DEADLINE, f"diagnostics without '{text}'")
        self.settle()
        self.last_good = self.index
        return self.diagnosed(text, fault)

    def diagnosed(self, text: str, meanwhile: Callable[[], object]) -> DiagnosticStatus:
        """The next status that says `text`."""
        seen = len(self.peer.received[DIAGNOSTICS])
        try:
            return rig.until(lambda: (meanwhile(), self._named(text, seen))[1], rig.DEADLINE, "")
        except AssertionError:
            found = {array.status[0].message for array in self.peer.received[DIAGNOSTICS][seen:]}
            raise AssertionError(f"no diagnostic with '{text}' in {rig.DEADLINE} s, but {found}") from None

    def _named(self, text: str, seen: int) -> DiagnosticStatus | None:
        """The first status of the node since the `seen`-th message that says `text`."""
        statuses = [status for array in self.peer.received[DIAGNOSTICS][seen:] for status in array.status]
        return next((s for s in statuses if s.name == "occ_flow_node" and text in s.message), None)

    def recover(self) -> None:
        """Good sets until the node answers one of them, with all cameras."""
        first = stamp(self.index + 1)

        def recovered() -> bool:
            self.step()
            return any(stamp_of(a) >= first and observed(a) == self.whole for a in self.answers)

        rig.until(recovered, rig.DEADLINE, f"an answer with all cameras; the node wrote:\n{self.node.output[-3000:]}")

    def check(self) -> None:
        """Alive, and every answer is to a set that was sent, newer than the answer before it."""
        assert self.node.process.poll() is None, self.node.output
        stamps = [stamp_of(answer) for answer in self.answers]
        assert set(stamps) <= self.may_be_answered
        assert stamps == sorted(set(stamps))

    def settle(self) -> None:
        """Wait for the answer to the newest set."""
        rig.until(
            lambda: self.answers and stamp_of(self.answers[-1]) == stamp(self.index), rig.DEADLINE, "the last answer"
        )

    def begin_anew(self, index: int) -> None:
        """The clock goes back to set `index`."""
        self.settle()
        self.check()
        self._begun += len(self.answers)
        self.index = index


def stamp_of(answer: OccFlowGrid) -> int:
    return conversions.to_ns(answer.header.stamp)


def observed(answer: OccFlowGrid) -> int:
    return int(np.count_nonzero(np.frombuffer(answer.probability, np.uint8) != OccFlowGrid.NOT_SEEN))


def whole_of(checkpoint: Path) -> int:
    """Voxels that the cameras see together."""
    return int(OccFlowPipeline.from_checkpoint(checkpoint).step(rig.frame_set(0)).observed.sum())


def nothing() -> None:
    """Silence, as a fault to provoke."""


@pytest.fixture(scope="module", autouse=True)
def isolated() -> None:
    rig.isolate_ros()


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Path]:
    """In a folder that no other run of pytest tidies away: the node would notice."""
    with tempfile.TemporaryDirectory() as folder:
        yield rig.write_checkpoint(Path(folder) / "tiny.safetensors")


@pytest.fixture(scope="module")
def parameters(checkpoint: Path) -> list[str]:
    """Reliable, so that a busy machine loses nothing."""
    return [f"checkpoint:={checkpoint}", f"cameras:={list(CAMERAS)}", "image_reliability:=reliable"]


@pytest.fixture(scope="class")
def running(parameters: list[str], checkpoint: Path, request: pytest.FixtureRequest) -> Iterator[Drive]:
    """One node for all tests of a class, whose `transport` says how images come."""
    transport = request.cls.transport
    with (
        node_process(*parameters, f"transport:={transport}") as node,
        Peer({DIAGNOSTICS: DiagnosticArray, ANSWERS: OccFlowGrid}) as peer,
    ):
        yield Drive(peer, node, whole_of(checkpoint), transport == "raw")


@pytest.fixture
def drive(running: Drive) -> Iterator[Drive]:
    """A drive in which all is well before and after the fault."""
    running.recover()
    yield running
    running.recover()
    running.check()


class TestOneNode:
    """One node through everything that does not end it."""

    transport = "compressed"

    def test_one_camera_stops_and_returns(self, drive: Drive):
        status = drive.provoke(f"no image on {IMAGES}", lambda: drive.step([FRONT]))
        assert status.level == DiagnosticStatus.WARN  # it goes on with the other
        assert observed(drive.answers[-1]) < drive.whole

    def test_all_cameras_stop(self, drive: Drive):
        text = f"no image on {IMAGES}"
        drive.provoke(text, nothing)
        rig.until(lambda: drive.diagnosed(text, nothing).level == DiagnosticStatus.ERROR, rig.DEADLINE, "an error")
        drive.diagnosed(text, nothing)
        assert stamp_of(drive.answers[-1]) == stamp(drive.last_good)

    def test_images_out_of_order(self, drive: Drive):
        def swapped() -> None:
            first = drive.step([FRONT])
            second = drive.step([FRONT])
            drive.peer.send_images(second, [LEFT])
            drive.peer.send_images(first, [LEFT])

        drive.provoke("it came after the set", swapped)

    def test_images_duplicated(self, drive: Drive):
        drive.provoke("delivered an image of this stamp already", lambda: drive.peer.send_images(drive.step()))

    def test_images_delayed_by_300_ms(self, drive: Drive):
        def delayed() -> None:
            index = drive.step([FRONT])
            drive.step([FRONT])
            drive.peer.send_images(index, [LEFT])

        drive.provoke("it came after the set", delayed)
        assert observed(drive.answers[-1]) < drive.whole

    @pytest.mark.parametrize("camera", CAMERAS)
    def test_images_stamped_in_the_future(self, drive: Drive, camera: str):
        def future() -> None:
            index = drive.step([c for c in CAMERAS if c != camera])
            message = conversions.rgb_to_compressed(rig.picture(camera, index), 2**32 * 10**9 // 2 - 10**9, "x")
            drive.peer.publish(f"/{camera}/image_raw/compressed", message)

        drive.provoke("ahead of this node's clock", future)

    @pytest.mark.parametrize("camera", CAMERAS)
    def test_images_stamped_zero(self, drive: Drive, camera: str):
        def zero() -> None:
            index = drive.step([c for c in CAMERAS if c != camera])
            message = conversions.rgb_to_compressed(rig.picture(camera, index), 0, optical_frame(camera))
            drive.peer.publish(f"/{camera}/image_raw/compressed", message)

        drive.provoke(f"/{camera}/image_raw/compressed: stamped 0 ns", zero)

    @pytest.mark.parametrize(("kept", "text"), [(slice(0, -40), "is truncated"), (slice(0, 0), "image of 0 bytes")])
    def test_truncated_jpeg(self, drive: Drive, kept: slice, text: str):
        def truncated() -> None:
            message = drive.next_image()
            message.data = message.data[kept]
            drive.send_image(message)

        assert IMAGES in drive.provoke(text, truncated).message

    @pytest.mark.parametrize("header", [True, False])
    def test_corrupt_jpeg(self, drive: Drive, header: bool):
        """Its header is mixed up, or a part of the picture is lost behind a header that is intact."""

        def corrupt() -> None:
            message = drive.next_image()
            if header:
                message.data[20:200] = message.data[20:200][::-1]
            else:
                del message.data[-250:-50]
            drive.send_image(message)

        assert IMAGES in drive.provoke("cannot be decoded", corrupt).message

    def test_image_size_changes(self, drive: Drive):
        drive.provoke(
            "image of 112 x 64 px, but camera_info is of 56 x 32 px",
            lambda: drive.send_image(drive.next_image(size=(112, 64))),
        )

    def test_encoding_changes(self, drive: Drive):
        """From JPEG to PNG is none of anyone's business; to a video is."""
        for _ in range(3):
            drive.send_image(drive.next_image(kind="png"))
        drive.settle()
        assert observed(drive.answers[-1]) == drive.whole

        def video() -> None:
            message = drive.next_image()
            message.format, message.data = "h264", b"\0\0\0\1\x67" + bytes(100)
            drive.send_image(message)

        assert IMAGES in drive.provoke("H.264 video, expected single images", video).message

    def test_camera_info_changes(self, drive: Drive):
        zoomed = [dataclasses.replace(rig.CALIBRATION, K=rig.CALIBRATION.K * [[f], [f], [1]]) for f in (1.1, 1.2)]

        def changed() -> None:
            drive.send_info(zoomed[drive.index % 2])
            drive.step(infos=False)

        drive.provoke("calibration changed: of camera 1", changed)

    def test_nan_in_camera_info(self, drive: Drive):
        broken = dataclasses.replace(rig.CALIBRATION, K=rig.CALIBRATION.K * np.nan)
        drive.provoke("expected 3 x 3 finite numbers", lambda: (drive.send_info(broken), drive.step(infos=False)))

    def test_transforms_come_late(self, drive: Drive):
        drive.provoke("'base_link' in 'odom' is known from", lambda: drive.peer.send_poses(drive.step(poses=False) - 2))
        assert stamp_of(drive.answers[-1]) == stamp(drive.last_good)

    def test_transforms_are_missing(self, drive: Drive):
        drive.provoke("'base_link' in 'odom' is known from", lambda: drive.step(poses=False))
        assert stamp_of(drive.answers[-1]) == stamp(drive.last_good)

    def test_transforms_loop(self, drive: Drive):
        drive.provoke(
            "would close a loop", lambda: drive.send_pose(np.eye(4), optical_frame(FRONT), "odom") or drive.step()
        )

    def test_the_pose_jumps(self, drive: Drive):
        def jump() -> None:
            drive.step(poses=False)
            T = rig.pose(drive.index)
            T[1, 3] += 50 * (drive.index % 2)
            drive.send_pose(T)

        drive.provoke("pose jumped: 50", jump)

    def test_a_rotation_that_is_none(self, drive: Drive):
        def stretched() -> None:
            drive.step()
            message = conversions.matrix_to_transform(rig.pose(drive.index), stamp(drive.index), "odom", "base_link")
            message.transform.rotation.w = 2.0
            drive.peer.publish("/tf", TFMessage(transforms=[message]))

        message = drive.provoke("has length 2", stretched).message
        assert "/tf" in message and "'base_link'" in message and "'odom'" in message

    def test_simulated_time_jumps_back_and_pauses(self, drive: Drive):
        drive.simulate_time(True)
        try:
            drive.recover()
            drive.begin_anew(drive.index - 50)
            drive.diagnosed("time went back", drive.step)
            drive.provoke(f"no image on {IMAGES}", drive.publish_clock)
            drive.recover()
        finally:
            drive.simulate_time(False)

    def test_a_subscriber_that_is_slow_or_hangs(self, drive: Drive):
        """It takes nothing after the first answer, which DDS does not tell; then its process is stopped, which it does."""
        slow = rig.NodeProcess(command=[sys.executable, "-c", SLOW_LISTENER, ANSWERS])
        try:
            rig.until(
                lambda: drive.step() and "received" in slow.output, rig.DEADLINE, f"an answer there: {slow.output}"
            )
            for _ in range(5):
                drive.recover()  # as fast as ever
            slow.process.send_signal(signal.SIGSTOP)
            drive.provoke(f"a subscriber of {ANSWERS} has confirmed no message", drive.step)
        finally:
            slow.kill()
            slow.stop()

    def test_the_checkpoint_is_replaced(self, drive: Drive, checkpoint: Path):
        before = checkpoint.read_bytes()
        try:
            checkpoint.write_bytes(b"\0" * len(before))
            drive.diagnosed(f"{checkpoint} has changed", drive.step)
        finally:
            checkpoint.write_bytes(before)

    def test_two_nodes_with_one_name(self, drive: Drive, parameters: list[str]):
        with node_process(*parameters, "autostart:=false", active=False):
            drive.diagnosed("another node is named /occ_flow_node", drive.step)


class TestOneNodeOnRawImages:
    """What is otherwise with images that are not compressed."""

    transport = "raw"

    def test_encoding_changes(self, drive: Drive):
        """Those that can be read are none of anyone's business; depths are no picture."""
        for encoding in ("bgr8", "mono8"):
            drive.send_image(drive.next_raw_image(encoding))
            drive.settle()
            assert observed(drive.answers[-1]) == drive.whole
        message = drive.provoke("'32FC1' is not supported", lambda: drive.send_image(drive.next_raw_image("32FC1")))
        assert f"{RAW_IMAGES} at" in message.message

    def test_encoding_changes_while_the_size_is_the_old_one(self, drive: Drive):
        """`rgba16` where there are three bytes a pixel: what the message says contradicts itself."""
        message = drive.provoke("bytes a row, expected", lambda: drive.send_image(drive.next_raw_image("rgba16")))
        assert f"{RAW_IMAGES} at" in message.message


@pytest.mark.timeout(900)
def test_ended_by_signals_and_started_again(parameters: list[str], checkpoint: Path):
    """While images come; each life knows nothing of the one before."""
    drive = None
    with Peer({DIAGNOSTICS: DiagnosticArray, ANSWERS: OccFlowGrid}) as peer:
        for number, status in ((signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL), (None, 0)):
            with node_process(*parameters, status=status) as node:
                drive = drive or Drive(peer, node, whole_of(checkpoint))
                drive.node = node
                drive.recover()
                drive.check()
                if number == signal.SIGKILL:
                    node.kill()
                elif number is not None:
                    node.process.send_signal(number)
                    node.process.wait(rig.DEADLINE)


@pytest.mark.timeout(900)
def test_images_come_ten_times_as_fast_as_the_network(tmp_path: Path):
    """The soak in short: see benchmarks/soak_node.py for what it judges."""
    path = rig.write_checkpoint(tmp_path / "slow.safetensors", voxel_size=0.4)
    options = ["--load=10", "--cameras=2", "--threads=1", "--minutes=0.25", "--settle=0.1"]
    options += ["--growth=10", "--reliability=reliable"]
    command = [sys.executable, rig.REPOSITORY / "benchmarks" / "soak_node.py", f"--checkpoint={path}", *options]
    soak = subprocess.run(command, capture_output=True, text=True, timeout=850)
    assert soak.returncode == 0, soak.stdout + soak.stderr
