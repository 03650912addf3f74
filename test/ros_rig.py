"""What the ROS tests share: a tiny model, a short drive as a bag, the node as its own process, polling."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from letocc_core import checkpoint
from letocc_core import config as configuration
from letocc_core.data.bags.writer import BagWriter, optical_frame
from letocc_core.frame import InputConfig
from letocc_core.model.let_occ_flow import LetOccFlow, ModelConfig
from letocc_core.stream.types import Calibration, FrameSet
from letocc_ros.conversions import calibration_to_camera_info, matrix_to_transform, rgb_to_compressed, rgb_to_image
from letocc_ros.session import session

REPOSITORY = Path(__file__).resolve().parents[1]
CAMERAS = ("camera_front", "camera_left")
SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND
PERIOD_NS = SECOND // 5
DEADLINE = 200.0  # s for what must happen; how long it takes is a matter of what else the machine is at work on
STARTING = 60.0  # s of its own processor time that a process may take until its first line; its imports take ten
HEIGHT, WIDTH = 32, 56
CALIBRATION = Calibration(WIDTH, HEIGHT, np.array([[35.0, 0, 27.5], [0, 35, 15.5], [0, 0, 1]]))
FORWARD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])  # optical frame 1.5 m above the road
LEFTWARD = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
T_EGO_CAM = dict(zip(CAMERAS, (FORWARD, LEFTWARD), strict=True))
TINY = {
    "model": {
        "grid": {"lower": [-6.4, -6.4, -1.0], "upper": [6.4, 6.4, 5.4], "voxel_size": 0.8},
        "dim": 16,
        "backbone": {"kind": "convnext", "widths": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
        "encoder": {
            "layers": 1,
            "heads": 2,
            "cross_view_points": 2,
            "cross_view_anchors": 2,
            "image_points": [2, 2, 2],
            "anchors": [2, 2, 2],
        },
        "temporal": {"kind": "bfam", "frames": 2, "points": 2, "heads": 2},
        "refinement": {"blocks": [1, 1, 1], "groups": 2},
        "fields": {"hidden": 16, "sdf_scale": 0.03, "sdf_start": -0.08},
        "sweep": {},
    },
    "input": {"image_size": [HEIGHT, WIDTH], "history_interval": 0.2, "max_gap": 1.0},
}


def own_domain() -> int:
    """A ROS domain for this test process, so that tests side by side do not hear each other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return 1 + (os.getpid() * 7 + int(worker)) % 100


def isolate_ros() -> None:
    """This process and its children talk on the loopback interface, in a domain of their own."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(own_domain())


def write_checkpoint(path: Path, voxel_size: float = 0.8) -> Path:
    """Random weights, with answers that differ from voxel to voxel and from set to set; small voxels make it slow."""
    torch.manual_seed(0)
    sections = TINY["model"] | {"grid": TINY["model"]["grid"] | {"voxel_size": voxel_size}}
    model_config = configuration.from_dict(ModelConfig, sections, "test")
    input_config = configuration.from_dict(InputConfig, TINY["input"], "test")
    model = LetOccFlow(model_config)
    for name, parameter in model.fields.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.normal_(parameter, std=0.5)
    config = {"model": configuration.to_dict(model_config), "input": configuration.to_dict(input_config)}
    checkpoint.save(path, model, config, seed=0)
    return path


def picture(camera: str, index: int) -> np.ndarray:
    """uint8 RGB [HEIGHT, WIDTH, 3]: blobs that a JPEG keeps, another for each camera and set."""
    rng = np.random.default_rng([CAMERAS.index(camera), index])
    coarse = rng.integers(0, 256, (4, 7, 3), np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))


def pose(index: int) -> np.ndarray:
    """The vehicle drives at 5 m/s: base_link -> odom at set `index`."""
    T = np.eye(4)
    T[0, 3] = 1.0 * index
    return T


def stamp(index: int) -> int:
    """ns of set `index`."""
    return START_NS + index * PERIOD_NS


def write_bag(path: Path, sets: int, kind: str = "jpeg", delay_ns: int = 0, infos: int | None = None) -> Path:
    """A drive of `sets` image sets; the last one has its pose, so that every set can be answered.

    Args:
        delay_ns: between the images of one camera and of the next.
        infos: sets that bring a `camera_info`; None: all.
    """
    with BagWriter(path) as bag:
        bag.write_tf_static(START_NS, [("base_link", optical_frame(c), T_EGO_CAM[c]) for c in CAMERAS])
        for i in range(sets):
            bag.write_tf(stamp(i), "odom", "base_link", pose(i))
            for k, camera in enumerate(CAMERAS):
                if infos is None or i < infos:
                    bag.write_camera_info(camera, stamp(i), CALIBRATION)
                bag.write_image(camera, stamp(i) + k * delay_ns, picture(camera, i), kind)
        if delay_ns:
            bag.write_tf(stamp(sets), "odom", "base_link", pose(sets))
    return path


def write_large_images(path: Path, sets: int) -> Path:
    """A drive of one camera whose lossless images are larger than Fast DDS's default shared memory of 512 KiB."""
    calibration = Calibration(640, 480, np.array([[400.0, 0, 319.5], [0, 400, 239.5], [0, 0, 1]]))
    camera = CAMERAS[0]
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)  # PNG cannot compress it: 0.9 MB
    with BagWriter(path) as bag:
        bag.write_tf_static(START_NS, [("base_link", optical_frame(camera), T_EGO_CAM[camera])])
        for i in range(sets):
            bag.write_tf(stamp(i), "odom", "base_link", pose(i))
            bag.write_camera_info(camera, stamp(i), calibration)
            bag.write_image(camera, stamp(i), noise, "png")
    return path


def frame_set(index: int) -> FrameSet:
    """Set `index` of the drive, as the assembler would make it."""
    return FrameSet(
        stamp(index),
        tuple(picture(camera, index) for camera in CAMERAS),
        (CALIBRATION,) * len(CAMERAS),
        np.stack([T_EGO_CAM[camera] for camera in CAMERAS]),
        pose(index),
    )


def until(condition: Callable[[], object], seconds: float, what: str) -> object:
    """The first true value of `condition`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return value


class Peer:
    """A node of the test's own: it listens, sends what a camera driver would, and calls services."""

    def __init__(self, listen: dict[str, type] | None = None):
        self._exit = contextlib.ExitStack()
        self.node, self._executor = self._exit.enter_context(session("peer"))
        self.received: dict[str, list] = {topic: [] for topic in listen or {}}
        self._publishers: dict[str, Publisher] = {}
        self._clients: dict[str, Client] = {}
        for topic, kind in (listen or {}).items():
            self.node.create_subscription(kind, topic, self.received[topic].append, 100)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error) -> None:
        self._stopping.set()
        self._thread.join()
        self._exit.close()

    def publish(self, topic: str, message: object) -> None:
        """Send once the node under test listens."""
        self.publish_all({topic: message})

    def publish_all(self, messages: dict[str, object]) -> None:
        """Send one message on each topic, once the node under test listens to all of them; /tf_static is latched."""
        new = [topic for topic in messages if topic not in self._publishers]
        for topic in new:
            durability = DurabilityPolicy.TRANSIENT_LOCAL if topic == "/tf_static" else DurabilityPolicy.VOLATILE
            qos = QoSProfile(depth=50, durability=durability)
            self._publishers[topic] = self.node.create_publisher(type(messages[topic]), topic, qos)
        for topic in new:
            until(self._publishers[topic].get_subscription_count, DEADLINE, f"a subscriber on {topic}")
        if new:
            time.sleep(0.5)  # for the subscribers to know of us as well
        for topic, message in messages.items():
            self._publishers[topic].publish(message)

    def call(self, kind: type, name: str, **fields) -> object:
        """The response of a service."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
            assert self._clients[name].wait_for_service(DEADLINE), f"no service {name}"
            time.sleep(0.5)  # for the server to know of us as well, or its answer is lost
        future = self._clients[name].call_async(kind.Request(**fields))
        until(future.done, DEADLINE, f"an answer of {name}")
        return future.result()

    def transition(self, number: int) -> bool:
        """Whether the node under test made a lifecycle transition."""
        return self.call(ChangeState, "/occ_flow_node/change_state", transition=Transition(id=number)).success

    def set_parameter(self, name: str, value: object) -> SetParametersResult:
        parameter = Parameter(name, value=value).to_parameter_msg()
        return self.call(SetParameters, "/occ_flow_node/set_parameters", parameters=[parameter]).results[0]

    def send_poses(self, index: int, cameras: Sequence[str] = CAMERAS) -> None:
        """Where the vehicle is at a set, and where the cameras are on it."""
        static = [matrix_to_transform(T_EGO_CAM[c], stamp(0), "base_link", optical_frame(c)) for c in cameras]
        moving = [matrix_to_transform(pose(index), stamp(index), "odom", "base_link")]
        self.publish_all({"/tf_static": TFMessage(transforms=static), "/tf": TFMessage(transforms=moving)})

    def send_infos(self, index: int, cameras: Sequence[str] = CAMERAS) -> None:
        infos = {c: calibration_to_camera_info(CALIBRATION, stamp(index), optical_frame(c)) for c in cameras}
        self.publish_all({f"/{camera}/camera_info": info for camera, info in infos.items()})

    def send_images(self, index: int, cameras: Sequence[str] = CAMERAS, raw: bool = False) -> None:
        convert, suffix = (rgb_to_image, "") if raw else (rgb_to_compressed, "/compressed")
        images = {c: convert(picture(c, index), stamp(index), optical_frame(c)) for c in cameras}
        self.publish_all({f"/{camera}/image_raw{suffix}": image for camera, image in images.items()})
        time.sleep(0.1)  # as cameras do: a burst of sets would not arrive in order

    def diagnosed(self, text: str, seconds: float = DEADLINE) -> DiagnosticStatus:
        """The next status of the node under test whose message holds `text`."""
        seen = len(self.received["/diagnostics"])

        def found() -> list[DiagnosticStatus]:
            new = [s for array in self.received["/diagnostics"][seen:] for s in array.status]
            return [s for s in new if s.name == "occ_flow_node" and text in s.message]

        def messages() -> str:
            return "\n".join(a.status[0].message for a in self.received["/diagnostics"])

        try:
            return until(found, seconds, "")[0]
        except AssertionError:
            raise AssertionError(f"no diagnostic with '{text}' in {seconds} s; all:\n{messages()}") from None

    def _spin(self) -> None:
        while not self._stopping.is_set():
            self._executor.spin_once(timeout_sec=0.05)


def shared_memory(process: int) -> set[Path]:
    """The files of its own that Fast DDS keeps locked for a process; empty where it is another middleware."""
    found = set()
    for file in Path(f"/proc/{process}/fd").glob("*"):
        with contextlib.suppress(OSError):  # closed meanwhile
            path = Path(os.readlink(file))
            if re.fullmatch(r"fast(dds|rtps)_[0-9a-f]+_el", path.name):
                found |= {path, path.with_name(path.name.removesuffix("_el"))}
    return found


def processor_time(process: int) -> float:
    """s that a process has had of a processor; 0 where it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


class NodeProcess:
    """The node as a user starts it; its output is kept for the assertions' messages."""

    def __init__(self, *parameters: str, command: list[str] | None = None):
        arguments = [item for parameter in parameters for item in ("-p", parameter)]
        command = command or [sys.executable, "-m", "letocc_ros.node", "--ros-args", *arguments]
        self.lines: list[str] = []
        environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        self.process = subprocess.Popen(
            command,
            env=environment | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, text: str, seconds: float = DEADLINE) -> None:
        """Until the node has written `text`; before its first line it has four times as long, if the machine gives it no turn."""
        begin = time.monotonic()
        while text not in self.output and self.process.poll() is None:
            starved = not self.lines and processor_time(self.process.pid) < STARTING
            deadline = begin + (4 * seconds if starved else seconds)
            assert time.monotonic() < deadline, f"not within {seconds} s: '{text}' in:\n{self.output}"
            time.sleep(0.01)
        if self.process.poll() is not None:
            self._reader.join(5)  # which may not have come to its last lines
        assert text in self.output, self.output

    def kill(self) -> None:
        """End it by force, with what it has started, and remove what it could not: 64 MiB of shared memory."""
        left = shared_memory(self.process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for path in left:
            path.unlink(missing_ok=True)

    def stop(self, seconds: float = DEADLINE) -> int:
        """Interrupt it, and what it has started, as Ctrl-C does; returns its exit status."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the node did not end within {seconds} s:\n{self.output}") from None
        finally:
            self._reader.join(5)

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip())


@contextlib.contextmanager
def node_process(*parameters: str, active: bool = True, status: int = 0) -> Iterator[NodeProcess]:
    """A running node that ends with the block, with this exit status."""
    node = NodeProcess(*parameters)
    try:
        if active:
            node.wait_for("active: images from")
        yield node
    except BaseException:
        with contextlib.suppress(AssertionError):
            node.stop()
        raise
    found = node.stop()
    assert found == status, f"exit status {found}:\n{node.output}"
