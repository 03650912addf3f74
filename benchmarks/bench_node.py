"""Overhead of the live node: from an image set's stamp to the arrival of each output in another process, less the network.

    python benchmarks/bench_node.py                                      config/street.yaml, random weights
    python benchmarks/bench_node.py --checkpoint models/street.safetensors --threads 2

Image sets of noise are published as JPEG, each when the one before has been answered, stamped with the time at which its
first message leaves; the node runs as its own process. `network` is what `OccFlowPipeline.step` took inside the node; what
remains is sending, decoding, grouping, converting and receiving, with the benchmark's own Python at both ends.
It is no subject of `letocc bench`, which runs without ROS.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage
from tf2_msgs.msg import TFMessage

from letocc_core import checkpoint
from letocc_core import config as configuration
from letocc_core.bench.inference import frame_sets
from letocc_core.data.bags.writer import optical_frame
from letocc_core.frame import InputConfig
from letocc_core.model.let_occ_flow import LetOccFlow, ModelConfig
from letocc_core.stream.types import FrameSet
from letocc_ros import conversions
from letocc_ros.parameters import RELIABILITIES
from letocc_ros.recorder import HEADER_OFFSETS, OUTPUTS
from letocc_ros.session import header_stamp_ns, message_class, session

WARM_UP = 5  # sets
PATIENCE = 5.0  # s for an answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/street.yaml"))
    parser.add_argument("--checkpoint", type=Path, help="instead of a configuration with random weights")
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="px of the images (default: the network's)"
    )
    parser.add_argument("--sets", type=int, default=20, help="counted sets (default: 20)")
    parser.add_argument("--threads", type=int, default=2, help="of the network")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--reliability", default="best_effort", choices=RELIABILITIES, help="QoS of the image topics")
    options = parser.parse_args()
    model, input_config = load_model(options)
    with tempfile.TemporaryDirectory() as folder:
        path = options.checkpoint or Path(folder) / "random.safetensors"
        if not options.checkpoint:
            config = {"model": configuration.to_dict(model.config), "input": configuration.to_dict(input_config)}
            checkpoint.save(path, model, config)
        size = options.size or input_config.image_size
        print(
            f"{options.checkpoint or options.config}: {options.cameras} cameras of {size[0]} x {size[1]} px as JPEG, "
            f"{options.reliability}, {options.device}, {options.threads} threads, {options.sets} sets\n"
        )
        sets = list(frame_sets(*size, options.cameras, WARM_UP + options.sets))
        for topics in (["/occ_flow_node/occupancy"], list(OUTPUTS)):
            print(report(*measure(path, sets, topics, options)))


def measure(path: Path, sets: list[FrameSet], topics: list[str], options: argparse.Namespace):
    """Seconds from stamp to arrival for each topic and set, and the node's own median of the network (s)."""
    cameras = [f"camera_{i}" for i in range(options.cameras)]
    parameters = [
        f"checkpoint:={path}",
        f"cameras:={cameras}",
        f"threads:={options.threads}",
        f"device:={options.device}",
        f"image_reliability:={options.reliability}",
    ]
    arguments = [item for p in parameters for item in ("-p", p)]
    node = subprocess.Popen([sys.executable, "-m", "letocc_ros.node", "--ros-args", *arguments])
    try:
        with session("bench_node") as (peer, executor):
            listener = Listener(peer, topics)
            driver = Driver(peer, cameras)
            threading.Thread(target=executor.spin, daemon=True).start()
            driver.wait()
            time.sleep(1)
            for item in sets:
                listener.wait_for(driver.send(item))
            time.sleep(1.5)  # for a last diagnostic
            return listener.seconds(driver.stamps[WARM_UP:]), listener.network
    finally:
        node.terminate()
        node.wait(20)


class Listener:
    """When each output arrived."""

    def __init__(self, node, topics: list[str]):
        self.arrived: dict[str, dict[int, int]] = {topic: {} for topic in topics}
        self.network = float("nan")
        for topic in topics:
            kind = OUTPUTS[topic]
            node.create_subscription(
                message_class(kind),
                topic,
                lambda data, topic=topic, kind=kind: self._on_output(
                    topic, header_stamp_ns(data, HEADER_OFFSETS.get(kind, 0))
                ),
                50,
                raw=True,
            )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def wait_for(self, stamp_ns: int) -> None:
        """Until every topic has answered the set, or for `PATIENCE` s."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not all(stamp_ns in came for came in self.arrived.values()):
            time.sleep(0.002)

    def seconds(self, stamps: list[int]) -> dict[str, list[float]]:
        """Latency of the sets with these stamps."""
        return {t: [(came[s] - s) * 1e-9 for s in stamps if s in came] for t, came in self.arrived.items()}

    def _on_output(self, topic: str, stamp_ns: int) -> None:
        self.arrived[topic][stamp_ns] = time.time_ns()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        values = {pair.key: pair.value for pair in message.status[0].values}
        if "network median (ms)" in values:
            self.network = float(values["network median (ms)"]) * 1e-3


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
        frames = [optical_frame(camera) for camera in self.cameras]
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


def load_model(options: argparse.Namespace) -> tuple[LetOccFlow, InputConfig]:
    if options.checkpoint:
        return checkpoint.load_model(options.checkpoint, options.device)[:2]
    text = yaml.safe_load(options.config.read_text())
    model_config = configuration.from_dict(ModelConfig, text["model"], str(options.config), "model.")
    torch.manual_seed(0)
    return LetOccFlow(model_config), configuration.from_dict(InputConfig, text["input"], str(options.config), "input.")


def report(seconds: dict[str, list[float]], network: float) -> str:
    """A table of latency and overhead by output."""
    lines = [f"{'output':<28}{'sets':>6}{'latency ms':>12}{'p95 ms':>10}{'network ms':>12}{'overhead ms':>13}"]
    for topic, values in seconds.items():
        median, p95 = np.percentile(np.array(values) * 1e3, [50, 95]) if values else (np.nan, np.nan)
        step = network * 1e3
        lines.append(f"{topic:<28}{len(values):>6}{median:>12.1f}{p95:>10.1f}{step:>12.1f}{median - step:>13.1f}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
