"""`occ_flow_node`: camera images and poses in, 3D occupancy and velocity out.

Messages become sets in `letocc_core.stream.FrameAssembler` and answers in `OccFlowPipeline`, as in the offline replay.
Callbacks only take messages in (`inputs`); the network runs in a thread of its own, on the newest set, and publishes
(`outputs`).
"""

import dataclasses
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_srvs.srv import Trigger

from letocc_core import checkpoint, config
from letocc_core.ending import leave, on_signal
from letocc_core.engines.backends import run_by
from letocc_core.errors import CheckpointError, ConfigError, DataError, LetOccError
from letocc_core.frame import InputConfig
from letocc_core.geometry import body_masks
from letocc_core.model.let_occ_flow import ModelConfig
from letocc_core.processes import require_device
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.stream.types import FrameSet
from letocc_core.versions import versions
from letocc_ros import parameters
from letocc_ros.health import Health
from letocc_ros.inputs import Inputs
from letocc_ros.outputs import Outputs
from letocc_ros.parameters import SHIPPED_CHECKPOINT, NodeParameters
from letocc_ros.session import make_room_for_images
from letocc_ros.worker import LatestWorker

DIAGNOSTICS_PERIOD = 1.0  # s
# s without a confirmation after which a subscriber is named: one that was lost is asked for again after 3 s (Fast DDS's period
# of heartbeats) where no message follows, twice in this time
UNCONFIRMED = 7.0
PATIENCE = 0.3  # s that ending waits for the set in work, or for a checkpoint that loads


@dataclass(frozen=True)
class Work:
    """A set on its way to the network."""

    frames: FrameSet
    complete: float  # s (monotonic), when the set was complete, with its poses
    activation: int  # which activation of the node it belongs to


class OccFlowNode(LifecycleNode):
    """Managed node around the online path. Inactive: the model is loaded; active: it is subscribed and answers.

    Raises `ConfigError` or rclpy's `ParameterException` for parameters that cannot be.
    """

    def __init__(self, **options):
        super().__init__("occ_flow_node", **options)
        self.health = Health(self.get_fully_qualified_name().lstrip("/"), self.get_logger().warning)
        self._pipeline: OccFlowPipeline | None = None
        self._metadata: dict[str, Any] | None = None  # of the checkpoint that is loaded, or about to be
        self._slop = 0.0  # s, that the recording which is played needs; 0: none is
        self._worker: LatestWorker[Work] | None = None
        self._outputs: Outputs | None = None
        self._inputs: Inputs | None = None
        self._activation = 0  # odd while active
        self._forget: str | None = None  # why the worker must forget the past before the next set
        self._state = "unconfigured"
        try:
            self._set_up()
        except Exception:
            self.destroy_node()  # nobody else has it
            raise

    def _set_up(self) -> None:
        for text in parameters.unknown(self):
            self.get_logger().warning(text)
        self.parameters = parameters.declare(self)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self.create_timer(DIAGNOSTICS_PERIOD, self._publish_diagnostics, clock=steady)
        self.add_on_set_parameters_callback(self._on_parameters)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/save_snapshot", self._on_save_snapshot)

    def start(self) -> bool:
        """Configure and activate; False if either fails, for the reason that was logged, or when interrupted."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.context.ok() and self.trigger_activate() == success

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the checkpoint and try it; FAILURE, with the reason in log and diagnostics, if it cannot."""
        try:
            self._checkpoint = checkpoint_path(self.parameters)
            self._checkpoint_state = file_state(self._checkpoint)
            pipeline = load_pipeline(self.parameters)
            self._metadata = checkpoint.read_metadata(self._checkpoint)
            self._slop = self._slop_of_recording(parameters.read(self))
            self.parameters = parameters.resolved(parameters.read(self), self._metadata, self._slop)
            self._masks = masks(self.parameters, self._metadata)
            pipeline.warm_up(len(self.parameters.cameras))
            self._outputs = Outputs(self, self.parameters)
        except (
            LetOccError,
            ParameterException,
            RuntimeError,
        ) as error:  # the last by torch when memory does not suffice
            self.health.failure = str(error)
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        self.health.failure = None
        self._worker = LatestWorker(self._answer, "inference")
        self._pipeline = pipeline
        self._state = "inactive"
        return super().on_configure(state)

    def _slop_of_recording(self, p: NodeParameters) -> float:
        """s, with which the cameras of the recording form sets; 0 if none is named or `slop` is. Raises `DataError`."""
        if p.slop or not p.recording:
            return 0.0
        from letocc_core.data.bags.info import slop_for

        usual = parameters.resolved(p, self._metadata)
        topics = [self.resolve_topic_name(usual.images_of(camera)) for camera in usual.cameras]
        slop = slop_for(Path(p.recording).expanduser(), topics, usual.slop)
        if slop > usual.slop:
            self.get_logger().info(
                f"slop is {slop:g} s, with which the cameras of {p.recording} form sets; set parameter 'slop' for another"
            )
        return slop

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start answering, with an empty past."""
        answered = super().on_activate(state)
        self._activation += 1
        try:
            self._inputs = Inputs(self, self.parameters, self.health, self._submit, self._masks)
        except (RuntimeError, ParameterException) as error:
            self.health.failure = f"qos_overrides: {error}"
            self.get_logger().error(self.health.failure)
            self._activation += 1
            super().on_deactivate(state)
            return TransitionCallbackReturn.FAILURE
        self.health.failure = None
        settled = {name: getattr(self.parameters, name) for name in parameters.LEFT_OPEN}
        self.health.clear(self._inputs.image_topics, settled)
        self._state = "active"
        self.get_logger().info(f"active: images from {', '.join(self._inputs.image_topics.values())}")
        return answered

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen and publish no more; the model stays."""
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

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a transition that broke: back to unconfigured."""
        self._stop()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """End the worker before what it publishes with goes away; then leave the graph and the middleware's shared memory."""
        self._stop()
        self._release()
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()  # rclpy forgets it, and it holds what the node holds

    def _stop(self) -> None:
        if self._inputs is None:
            return
        self._activation += 1  # what the set in work gives is not published
        self._inputs.destroy()
        self._inputs = None
        if self._worker.clear() is not None:
            self.health.drop("deactivated", (), "a set was waiting when the node was deactivated")
        self._forget = "deactivated"
        self._state = "inactive"

    def _release(self) -> None:
        if self._pipeline is None:
            return
        self._worker.stop(PATIENCE)
        self._outputs.destroy()
        self._outputs = self._pipeline = self._metadata = None
        self._state = "unconfigured"

    def _submit(self, frames: FrameSet) -> None:
        present = [c for c, image in zip(self.parameters.cameras, frames.images, strict=True) if image is not None]
        self.health.set_in(present)
        if self._worker.submit(Work(frames, time.monotonic(), self._activation)) is not None:
            self.health.drop("superseded", (), "image sets come faster than the network answers; the newest wins")

    def _answer(self, work: Work) -> None:
        """In the worker's thread: one set through the pipeline, and out to whoever listens."""
        self.health.set_begun()
        try:
            self._step_and_publish(work, self._pipeline, self._outputs)
        except LetOccError as error:
            self.health.drop("refused set", (), str(error))
        except Exception as error:  # such as CUDA out of memory: say so, and go on with the next set
            self.get_logger().error(traceback.format_exc(), throttle_duration_sec=10.0)
            self.health.drop("failed set", (), f"a set failed: {type(error).__name__}: {error}")
        finally:
            self.health.set_done()

    def _step_and_publish(self, work: Work, pipeline: OccFlowPipeline, outputs: Outputs) -> None:
        begun = time.monotonic()
        arrived = work.complete if work.frames.arrived is None else work.frames.arrived
        self._forget_if_asked(pipeline)
        answer = pipeline.step(work.frames)
        if answer.reset_reason is not None:
            self.health.reset(answer.reset_reason)
        if work.activation != self._activation or not self.context.ok():
            self.health.drop("deactivated", (), "a set was in work when the node was deactivated")
            return
        answered = time.monotonic()
        heard = outputs.publish(answer, work.frames.T_world_ego)
        stages = {
            "network": sum(answer.seconds.values()),
            "wait": work.complete - arrived,
            "queue": begun - work.complete,
            **answer.seconds,
            "publish": time.monotonic() - answered,
        }
        self.health.set_out(time.monotonic() - arrived, stages, heard)

    def _forget_if_asked(self, pipeline: OccFlowPipeline) -> None:
        reason, self._forget = self._forget, None
        if reason is not None:
            pipeline.reset(reason)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._pipeline is None:
            response.message = "not configured: there is no past to forget"
            return response
        self._forget = "asked for"
        response.success, response.message = True, "the next image set is answered without a past"
        return response

    def _on_save_snapshot(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            response.message = str(self._save_snapshot())
        except (LetOccError, OSError) as error:
            response.message = str(error)
            return response
        response.success = True
        return response

    def _save_snapshot(self) -> Path:
        snapshot = self._pipeline.last if self._pipeline is not None else None
        if snapshot is None:
            raise DataError("no image set has been answered since the node was configured or its past was forgotten")
        about = snapshot.about | {
            "checkpoint": str(self._checkpoint.absolute()),
            "cameras": list(self.parameters.cameras),
            "versions": versions(),
        }
        name = self.get_fully_qualified_name().strip("/").replace("/", "_")
        folder = Path(self.parameters.snapshot_folder).expanduser()
        return dataclasses.replace(snapshot, about=about).save(folder / f"{name}_{snapshot.answer.stamp_ns}")

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        """Validate, then apply; refused with the reason."""
        fixed = parameters.fixed_while_configured(changes)
        if self._pipeline is not None and fixed:
            reason = (
                f"{', '.join(fixed)}: can change only while the node is unconfigured; deactivate and clean it up first"
            )
            return SetParametersResult(successful=False, reason=reason)
        try:
            changed = parameters.read(self, changes)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.parameters = parameters.resolved(changed, self._metadata, self._slop) if self._metadata else changed
        if self._pipeline is not None:
            model = self._pipeline.model.config
            self._pipeline.threshold = self.parameters.threshold or model.occupancy_threshold
            self._pipeline.surface_threshold = self.parameters.surface_threshold or model.surface_threshold
            self._outputs.parameters = self.parameters
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        self._look_around()
        message = DiagnosticArray(status=self.health.statuses(self._state))
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _look_around(self) -> None:
        """What no message tells."""
        own = (self.get_name(), self.get_namespace())
        if self.get_node_names_and_namespaces().count(own) > 1:
            name = self.get_fully_qualified_name()
            self.health.problem(
                ("name",),
                f"another node is named {name}, or one was killed a moment ago; both would publish on the same topics: "
                "start one of them in a namespace or with another name (--ros-args -r __node:=NAME)",
            )
        if self._pipeline is not None and file_state(self._checkpoint) != self._checkpoint_state:
            self.health.problem(
                ("checkpoint",),
                f"{self._checkpoint} has changed since it was loaded, and what was loaded still runs; deactivate, clean "
                "up and configure the node to load it anew",
            )
        for key, text in (self._inputs.mismatches() if self._inputs is not None else {}).items():
            self.health.problem(key, text)
        unconfirmed = self._outputs.unconfirmed() if self._outputs is not None else {}
        for topic, seconds in unconfirmed.items():
            if seconds > UNCONFIRMED:
                self.health.problem(
                    ("subscriber", topic),
                    f"a subscriber of {topic} has confirmed no message for {seconds:.0f} s: its process hangs or cannot "
                    "be reached; the others are served, nobody waits for it",
                )


def file_state(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def load_pipeline(p: NodeParameters) -> OccFlowPipeline:
    """The pipeline that the parameters ask for. Raises `CheckpointError` or `ConfigError`."""
    if p.threads:
        torch.set_num_threads(p.threads)
    require_device(p.device, "parameter 'device'")
    model, input_config, _ = checkpoint.load_model(checkpoint_path(p), p.device, _expected(p.config))
    run_by(p.backend, model, checkpoint_path(p))
    least = p.surface_threshold or None
    return OccFlowPipeline(model, input_config, p.threshold or None, p.device, surface_threshold=least)


def checkpoint_path(p: NodeParameters) -> Path:
    """The file that the parameters name, or the shipped one. Raises `CheckpointError` if that is not installed."""
    return Path(p.checkpoint).expanduser() if p.checkpoint else shipped_checkpoint()


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


def masks(p: NodeParameters, metadata: Mapping[str, Any]) -> body_masks.Masks:
    """Of the vehicle's own body: from the folder that the parameters name, or else the checkpoint's. Raises `DataError`."""
    if p.body_masks:
        return body_masks.load(p.body_masks, p.cameras)
    return body_masks.from_text(metadata.get("body_masks", {}), p.checkpoint)


def _expected(path: str) -> dict | None:
    """Sections model and input of a training YAML, with all defaults written out."""
    if not path:
        return None
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"parameter 'config' is '{path}': no such file")
    sections = config.read(file)
    kinds = {"model": ModelConfig, "input": InputConfig}
    return {
        name: config.to_dict(config.from_dict(kind, sections.get(name) or {}, path, f"{name}."))
        for name, kind in kinds.items()
    }


def main(
    args: Sequence[str] | None = None, when_asked_to_end: Callable[[Callable[[], None]], None] | None = None
) -> int:
    """Run the node until it is asked to end; exit status 1 if it cannot start.

    Args:
        when_asked_to_end: is given what ends the node, to be called from any other thread; it returns when all is given back.
    """
    make_room_for_images()
    try:
        # rclpy's own handlers take the context away first, and with it the log of what the end brings
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # arguments that are none, parameter files that cannot be read
        print(f"occ_flow_node: {error}", file=sys.stderr)
        return 1
    status, node, asked = 0, None, Future()
    closing, closed = threading.Lock(), threading.Event()
    executor = SingleThreadedExecutor()  # one message of each topic in turn; the network has its own thread

    def close() -> None:
        with closing:
            if not closed.is_set():
                if node is not None:
                    node.destroy_node()
                rclpy.try_shutdown()
                closed.set()

    def end() -> None:
        asked.set_result(None)
        if not closed.wait(PATIENCE):
            close()  # the main thread loads, or waits for the set in work

    if when_asked_to_end is not None:
        when_asked_to_end(end)
    try:
        node = OccFlowNode()
        if node.parameters.autostart and not asked.done() and not node.start():
            status = int(not asked.done())
        executor.add_node(node)
        if status == 0:
            executor.spin_until_future_complete(asked)
    except (LetOccError, ParameterException) as error:
        print(f"occ_flow_node: {error}", file=sys.stderr)
        status = 1
    except ExternalShutdownException:
        pass
    finally:
        close()
    return status


def run() -> None:
    """`main` as a process of its own, which SIGINT and SIGTERM end: soon, whatever the network is at work on."""
    leave(main(when_asked_to_end=on_signal))


if __name__ == "__main__":
    run()
