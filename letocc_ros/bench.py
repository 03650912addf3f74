"""What the live node adds to the network (`letocc bench node`), and what its messages cost (`letocc bench messages`).

Image sets of noise are published as JPEG, each when the one before has been answered, stamped with the time at which its
first message leaves; the node runs as its own process. `network` is what `OccFlowPipeline.step` took inside the node; what
remains is sending, decoding, grouping, converting and receiving, with this process's own Python at both ends.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage
from tf2_msgs.msg import TFMessage

from letocc_core.bench.parts import REST, Parts, Row, rows_of, timed_runs
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.consumers.costmap import Band
from letocc_core.stream.types import FrameSet, OccFlow
from letocc_ros import conversions
from letocc_ros.session import header_stamp_ns, message_class, session
from letocc_ros.view.markers import to_markers

WARM_UP = 5  # sets
PATIENCE = 5.0  # s for an answer
OCCUPANCY = "/occ_flow_node/occupancy"
LARGE = GridSpec((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4), 0.4)
OCCUPIED = 30_000  # voxels of the large answer
STAGES = {"network": "network", "wait": "set gathered", "queue": "network busy", "publish": "answer published"}


def measure_messages(rounds: int, parts: Parts) -> list[Row]:
    """Time of making and serialising each message of an answer of 200 x 200 x 16 voxels, 30 000 of them occupied."""
    answer = large_answer()
    makers = {
        "occupancy": lambda: conversions.to_grid_message(answer, "base_link"),
        "points": lambda: conversions.to_point_cloud(answer, "base_link"),
        "costmap": lambda: conversions.to_costmap(answer, "base_link", Band(0.3, 2.0)),
        "markers": lambda: to_markers(answer, "base_link", "height", (1.0, 0.0, 0.0), 0.5),
    }

    def step() -> None:
        for name, make in makers.items():
            with parts.part(f"{name}, made"):
                message = make()
            if not isinstance(message, bytes):
                with parts.part(f"{name}, serialised"):
                    serialize_message(message)

    return rows_of(timed_runs(parts, step, rounds))


def large_answer() -> OccFlow:
    """30 000 voxels of the large grid, all of it looked at, a tenth hidden; a twentieth of it moves."""
    rng = np.random.default_rng(0)
    probability = rng.random(LARGE.shape, np.float32) * np.float32(0.4)
    probability.reshape(-1)[rng.choice(probability.size, OCCUPIED, replace=False)] = 0.9
    velocity = rng.normal(size=(*LARGE.shape, 2)).astype(np.float32) * (rng.random((*LARGE.shape, 1)) < 0.05)
    hidden = rng.random(LARGE.shape) < 0.1
    return OccFlow(0, LARGE, probability, velocity, np.ones(LARGE.shape, bool), 0.5, hidden=hidden)


def measure_node(checkpoint: Path, sets: Sequence[FrameSet], threads: int, device: str) -> list[Row]:
    """Where the time goes from a set's stamp to the arrival of `~/occupancy` in this process; medians, wall time.

    Raises `RuntimeError` if the node answers no set.
    """
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    cameras = [f"camera_{i}" for i in range(len(sets[0].images))]
    parameters = [f"checkpoint:={checkpoint}", f"cameras:={cameras}", f"threads:={threads}", f"device:={device}"]
    arguments = [item for p in parameters for item in ("-p", p)]
    node = subprocess.Popen([sys.executable, "-m", "letocc_ros.node", "--ros-args", *arguments])
    try:
        with session("bench_node") as (peer, executor):
            listener = Listener(peer, {OCCUPANCY: "letocc_ros/msg/OccFlowGrid"})
            driver = Driver(peer, cameras)
            threading.Thread(target=executor.spin, daemon=True).start()
            driver.wait()
            time.sleep(1)
            for item in sets:
                listener.wait_for(driver.send(item))
            time.sleep(1.5)  # for a last diagnostic
            seconds, stages = listener.seconds(driver.stamps[WARM_UP:])[OCCUPANCY], dict(listener.stages)
    finally:
        node.terminate()
        node.wait(20)
    if not seconds:
        raise RuntimeError(f"the node answered none of {len(sets)} sets within {PATIENCE:g} s each; its log says why")
    rows = [Row(name, stages.get(stage, 0.0)) for stage, name in STAGES.items()]
    return [*rows, Row(REST, float(np.median(seconds)) - sum(row.seconds for row in rows))]


class Listener:
    """When each output arrived."""

    def __init__(self, node, topics: Mapping[str, str]):
        self.arrived: dict[str, dict[int, int]] = {topic: {} for topic in topics}
        self.stages: dict[str, float] = {}  # s, the node's own medians
        for topic, kind in topics.items():
            take = partial(self._on_output, topic)
            node.create_subscription(message_class(kind), topic, take, 50, raw=True)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def wait_for(self, stamp_ns: int) -> None:
        """Until every topic has answered the set, or for `PATIENCE` s."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not all(stamp_ns in came for came in self.arrived.values()):
            time.sleep(0.002)

    def seconds(self, stamps: list[int]) -> dict[str, list[float]]:
        """Latency of the sets with these stamps."""
        return {t: [(came[s] - s) * 1e-9 for s in stamps if s in came] for t, came in self.arrived.items()}

    def _on_output(self, topic: str, data: bytes) -> None:
        self.arrived[topic][header_stamp_ns(data)] = time.time_ns()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        values = {pair.key: pair.value for pair in message.status[0].values}
        medians = {stage: values.get(f"{stage} median (ms)") for stage in STAGES}
        self.stages = {stage: 1e-3 * float(ms) for stage, ms in medians.items() if ms is not None}


class Driver:
    """Publishes image sets as camera drivers and a localisation would."""

    def __init__(self, node, cameras: list[str]):
        self.cameras = cameras
        self.stamps: list[int] = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._images = [node.create_publisher(CompressedImage, f"/{c}/image_raw/compressed", 5) for c in cameras]
        self._infos = [node.create_publisher(CameraInfo, f"/{c}/camera_info", 5) for c in cameras]
        self._tf: Publisher = node.create_publisher(TFMessage, "/tf", 5)
        self._tf_static: Publisher = node.create_publisher(TFMessage, "/tf_static", latched)

    def wait(self) -> None:
        """Until the node listens to every camera."""
        while not all(p.get_subscription_count() for p in [*self._images, *self._infos, self._tf, self._tf_static]):
            time.sleep(0.05)

    def send(self, item: FrameSet) -> int:
        """One set, encoded beforehand and stamped now; returns the stamp (ns)."""
        frames = [f"{camera}_optical" for camera in self.cameras]
        images = [
            conversions.rgb_to_compressed(image, 0, frame) for image, frame in zip(item.images, frames, strict=True)
        ]
        now = time.time_ns()
        self.stamps.append(now)
        mounts = [
            conversions.matrix_to_transform(T, now, "base_link", f) for T, f in zip(item.T_ego_cam, frames, strict=True)
        ]
        self._tf_static.publish(TFMessage(transforms=mounts))
        pose = conversions.matrix_to_transform(item.T_world_ego, now, "odom", "base_link")
        self._tf.publish(TFMessage(transforms=[pose]))
        for i, message in enumerate(images):
            info = conversions.calibration_to_camera_info(item.calibrations[i], now, frames[i])
            self._infos[i].publish(info)
            message.header.stamp = info.header.stamp
            self._images[i].publish(message)
        return now
