"""`occ_flow_node`: camera images and poses in, 3D occupancy and velocity out.

Messages become sets in `letocc_core.stream.FrameAssembler` and answers in `OccFlowPipeline`, as in the offline replay.
Callbacks only take messages in; the network runs in a thread of its own, on the newest set.
"""

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import rclpy
import torch
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import OccupancyGrid
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from letocc_core import checkpoint, config
from letocc_core.errors import CheckpointError, ConfigError, LetOccError
from letocc_core.frame import InputConfig
from letocc_core.model.let_occ_flow import ModelConfig
from letocc_core.stream.assembler import FrameAssembler
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.stream.synchronizer import Dropped
from letocc_core.stream.types import FrameSet, OccFlow
from letocc_ros import conversions, parameters
from letocc_ros.health import Health
from letocc_ros.middleware import make_room_for_images
from letocc_ros.msg import OccFlowGrid
from letocc_ros.parameters import NodeParameters
from letocc_ros.worker import LatestWorker

DIAGNOSTICS_PERIOD = 1.0  # s
SHIPPED_CHECKPOINT = Path("models") / "street.safetensors"  # below the package's share folder


@dataclass(frozen=True)
class Output:
    """A topic, and how an answer becomes a message of it."""

    publisher: Publisher
    convert: Callable[[OccFlow], object]


class OccFlowNode(LifecycleNode):
    """Managed node around the online path. Inactive: the model is loaded; active: it is subscribed and answers.

    Raises `ConfigError` or rclpy's `ParameterException` for parameters that cannot be.
    """

    def __init__(self, **options):
        super().__init__("occ_flow_node", **options)
        self.health = Health(self.get_fully_qualified_name().lstrip("/"), self.get_logger().warning)
        self._pipeline: OccFlowPipeline | None = None
        self._assembler: FrameAssembler | None = None
        self._worker: LatestWorker[FrameSet] | None = None
        self._outputs: list[Output] = []
        self._inputs: list = []
        self._info_topics: dict[str, str] = {}
        self._arrivals: dict[int, float] = {}  # s (monotonic) at which the anchor image of a stamp came
        self._state = "unconfigured"
        self.parameters = parameters.declare(self)
        for text in parameters.unknown(self):
            self.get_logger().warning(text)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self.create_timer(DIAGNOSTICS_PERIOD, self._publish_diagnostics, clock=steady)
        self.add_on_set_parameters_callback(self._on_parameters)

    def start(self) -> bool:
        """Configure and activate; False if either fails, for the reason that was logged."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the checkpoint, announce the outputs; FAILURE, with the reason in log and diagnostics, if it cannot."""
        try:
            self._pipeline = load_pipeline(self.parameters)
        except LetOccError as error:
            self.health.failure = str(error)
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        self.health.failure = None
        self._markers = conversions.MarkerMaker(self._pipeline.model.config.grid, self.parameters.min_marker_speed)
        self._outputs = self._create_outputs()
        self._state = "inactive"
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start answering, with an empty past."""
        answered = super().on_activate(state)
        self._assembler = FrameAssembler(self.parameters.assembler)
        self._arrivals.clear()
        self._worker = LatestWorker(self._answer, "inference")
        image_topics = self._subscribe()
        self.health.clear(image_topics)
        self._state = "active"
        self.get_logger().info(f"active: images from {', '.join(image_topics.values())}")
        return answered

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish the set in work, then listen and answer no more."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget model and outputs."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivating and cleaning up."""
        self._stop()
        self._release()
        return super().on_shutdown(state)

    def destroy_node(self) -> None:
        """End the worker before what it publishes with goes away."""
        self._stop()
        super().destroy_node()

    def _stop(self) -> None:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
            self._pipeline.reset("deactivated")
        self._state = "inactive"

    def _release(self) -> None:
        for output in self._outputs:
            self.destroy_lifecycle_publisher(output.publisher)
        self._outputs = []
        self._pipeline = None
        self._state = "unconfigured"

    def _create_outputs(self) -> list[Output]:
        frame = self.parameters.base_frame

        def output(kind: type, topic: str, convert: Callable[[OccFlow], object]) -> Output:
            return Output(self.create_lifecycle_publisher(kind, topic, 5), convert)

        return [
            output(OccFlowGrid, "~/occupancy", lambda answer: conversions.to_grid_message(answer, frame)),
            output(PointCloud2, "~/points", lambda answer: conversions.to_point_cloud(answer, frame)),
            output(OccupancyGrid, "~/costmap", self._costmap),
            output(MarkerArray, "~/markers", lambda answer: self._markers(answer, frame)),
        ]

    def _costmap(self, answer: OccFlow) -> OccupancyGrid:
        p = self.parameters
        return conversions.to_costmap(answer, p.base_frame, p.costmap_min_height, p.costmap_max_height)

    def _subscribe(self) -> dict[str, str]:
        """Subscribe to everything; returns the image topic of each camera."""
        p = self.parameters
        images = QoSProfile(depth=5, reliability=ReliabilityPolicy[p.image_reliability.upper()])
        static = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        kind, suffix = (CompressedImage, "/compressed") if p.transport == "compressed" else (Image, "")
        topics = {}
        for camera in p.cameras:
            topics[camera] = self._listen(kind, f"{camera}/image_raw{suffix}", images, self._on_image, camera)
            self._info_topics[camera] = self._listen(
                CameraInfo, f"{camera}/camera_info", qos_profile_sensor_data, self._on_camera_info, camera
            )
        self._listen(TFMessage, "/tf", QoSProfile(depth=100), self._on_transforms, False)
        self._listen(TFMessage, "/tf_static", static, self._on_transforms, True)
        return topics

    def _listen(self, kind: type, topic: str, qos: QoSProfile, handle: Callable, about: object) -> str:
        """Subscribe `handle(about, resolved topic, message)`; returns the resolved topic."""
        resolved = self.resolve_topic_name(topic)
        subscription = self.create_subscription(
            kind, topic, lambda message: self._take_in(handle, about, resolved, message), qos
        )
        self._inputs.append(subscription)
        return resolved

    def _take_in(self, handle: Callable, about: object, topic: str, message: object) -> None:
        """Give a message to the assembler and see what that decides; a bad message is counted and named."""
        try:
            handle(about, topic, message)
        except LetOccError as error:
            self.health.drop("unusable message", (topic,), str(error))
        for item in self._assembler.poll():
            if isinstance(item, Dropped):
                self._report(item)
            else:
                self._submit(item)

    def _on_image(self, camera: str, topic: str, message: Image | CompressedImage) -> None:
        stamp_ns = conversions.to_ns(message.header.stamp)
        self.health.image(camera)
        if camera == self.parameters.cameras[0]:
            self._arrivals[stamp_ns] = time.monotonic()
        self._assembler.add_image(camera, stamp_ns, conversions.image_to_rgb(message, topic))

    def _on_camera_info(self, camera: str, topic: str, message: CameraInfo) -> None:
        calibration = conversions.camera_info_to_calibration(message)
        self._assembler.add_calibration(camera, calibration, message.header.frame_id)

    def _on_transforms(self, static: bool, topic: str, message: TFMessage) -> None:
        for item in message.transforms:
            parent, child, stamp = item.header.frame_id, item.child_frame_id, item.header.stamp
            T = conversions.transform_to_matrix(item)
            self._assembler.add_transform(parent, child, conversions.to_ns(stamp), T, static)

    def _report(self, item: Dropped) -> None:
        text = item.detail
        if item.reason in ("no_camera_info", "bad_camera_info") and item.camera is not None:
            text = f"{text} (topic {self._info_topics[item.camera]})"
        self.health.drop(item.reason, (item.camera or "set",), text)

    def _submit(self, frames: FrameSet) -> None:
        self.health.set_in()
        replaced = self._worker.submit(frames)
        if replaced is not None:
            self._arrivals.pop(replaced.stamp_ns, None)
            self.health.drop("superseded", (), "image sets come faster than the network answers; the newest wins")

    def _answer(self, frames: FrameSet) -> None:
        """In the worker's thread: one set through the pipeline, and out to whoever listens."""
        try:
            answer = self._pipeline.step(frames)
            if not self.context.ok():  # interrupted meanwhile: there is nothing left to publish with
                return
            for output in self._outputs:
                if output.publisher.get_subscription_count():
                    output.publisher.publish(output.convert(answer))
        except LetOccError as error:
            self.health.drop("refused set", (), str(error))
        except Exception as error:  # such as CUDA out of memory: say so, and go on with the next set
            self.get_logger().error(traceback.format_exc(), throttle_duration_sec=10.0)
            self.health.drop("failed set", (), f"a set failed: {type(error).__name__}: {error}")
        else:
            self._count(answer)

    def _count(self, answer: OccFlow) -> None:
        now = time.monotonic()
        latency = now - self._arrivals.pop(answer.stamp_ns, now)
        for stale in [stamp for stamp, came in list(self._arrivals.items()) if now - came > 60]:
            self._arrivals.pop(stale, None)
        if answer.reset_reason is not None:
            self.get_logger().info(f"the past is forgotten: {answer.reset_reason}")
        self.health.set_out(latency, answer.seconds, answer.reset_reason)

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        """Validate, then apply; refused with the reason."""
        fixed = parameters.fixed_while_configured(changes)
        if self._pipeline is not None and fixed:
            reason = (
                f"{', '.join(fixed)}: can change only while the node is unconfigured; deactivate and clean it up first"
            )
            return SetParametersResult(successful=False, reason=reason)
        try:
            self.parameters = parameters.read(self, changes)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if self._pipeline is not None:
            self._pipeline.threshold = self.parameters.threshold or self._pipeline.model.config.occupancy_threshold
            self._markers.min_speed = self.parameters.min_marker_speed
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        message = DiagnosticArray(status=self.health.statuses(self._state))
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def load_pipeline(p: NodeParameters) -> OccFlowPipeline:
    """The pipeline that the parameters ask for. Raises `CheckpointError` or `ConfigError`."""
    if p.threads:
        torch.set_num_threads(p.threads)
    _check_device(p.device)
    path = Path(p.checkpoint).expanduser() if p.checkpoint else shipped_checkpoint()
    model, input_config, _ = checkpoint.load_model(path, p.device, _expected(p.config))
    return OccFlowPipeline(model, input_config, p.threshold or None, p.device)


def shipped_checkpoint() -> Path:
    """The street model in the installed package. Raises `CheckpointError` where the package is not installed."""
    from ament_index_python.packages import PackageNotFoundError, get_package_share_path

    try:
        return get_package_share_path("letocc_ros") / SHIPPED_CHECKPOINT
    except PackageNotFoundError as error:
        raise CheckpointError(
            f"{SHIPPED_CHECKPOINT}: the package letocc_ros is not installed in this environment; "
            "source its setup.bash, or name a checkpoint: --ros-args -p checkpoint:=PATH"
        ) from error


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"parameter 'device' is '{name}', which this machine cannot use: {error}") from error


def _expected(path: str) -> dict | None:
    """Sections model and input of a training YAML, with all defaults written out."""
    if not path:
        return None
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"parameter 'config' is '{path}': no such file")
    sections = yaml.safe_load(file.read_text()) or {}
    kinds = {"model": ModelConfig, "input": InputConfig}
    return {
        name: config.to_dict(config.from_dict(kind, sections.get(name) or {}, path, f"{name}."))
        for name, kind in kinds.items()
    }


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is interrupted; exit status 1 if it cannot start."""
    make_room_for_images()
    rclpy.init(args=args)
    node = None
    try:
        node = OccFlowNode()
        if node.parameters.autostart and not node.start():
            return 1
        executor = SingleThreadedExecutor()  # callbacks in the order of arrival; the network has its own thread
        executor.add_node(node)
        executor.spin()
    except (LetOccError, ParameterException) as error:
        print(f"occ_flow_node: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
