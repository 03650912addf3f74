"""`letocc view --live`: what a running node answers, with the images and poses that it hears, in viewers.

It subscribes beside the node and groups images as the node does; what it costs the node is one more subscriber.
"""

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python

from letocc_core.ending import asked_to_end
from letocc_core.errors import DataError
from letocc_core.frame import InputConfig
from letocc_core.stream.preprocess import rectifier_of, rectify
from letocc_core.stream.types import FrameSet
from letocc_core.viz.viewers.logs import Logs, ViewOptions, open_logs
from letocc_core.viz.viewers.scene import Scene
from letocc_ros import conversions
from letocc_ros.health import Health
from letocc_ros.inputs import Inputs
from letocc_ros.msg import OccFlowGrid
from letocc_ros.parameters import LEFT_OPEN, NodeParameters
from letocc_ros.session import session

PATIENCE = 5.0  # s that the node may take to say something
ATTEMPTS = 2  # to ask for its parameters
KEPT = 30  # sets of images that wait for their answer


def view_live(name: str, options: ViewOptions) -> None:
    """Show what the node of this (fully qualified) name answers, until interrupted.

    Raises `DataError` where no such node runs, and what `open_logs` raises.
    """
    with suppress(KeyboardInterrupt), session("letocc_view") as (node, executor):
        parameters = parameters_of(node, executor, name)
        with open_logs(options, parameters.base_frame, parameters.fixed_frame) as logs:
            LiveView(node, name, parameters, logs)
            asked = asked_to_end()
            while not asked.is_set():
                executor.spin_once(timeout_sec=0.1)


def parameters_of(node: Node, executor: SingleThreadedExecutor, name: str) -> NodeParameters:
    """The parameters of a running node, with the cameras, frames and slop that it goes by. Raises `DataError` where none runs."""
    heard: list[tuple[str, ...]] = []
    settled: dict[str, str] = {}

    def listen(message: DiagnosticArray) -> None:
        statuses = {status.name: status for status in message.status}
        own = name.lstrip("/")
        if own in statuses:
            heard.append(tuple(s.removeprefix(f"{own}: ") for s in statuses if s.startswith(f"{own}: ")))
            settled.update((pair.key, pair.value) for pair in statuses[own].values if pair.key in LEFT_OPEN)

    subscription = node.create_subscription(DiagnosticArray, "/diagnostics", listen, 10)
    client = node.create_client(GetParameters, f"{name}/get_parameters")
    try:
        _spin_until(executor, lambda: bool(heard and heard[-1]) and client.service_is_ready())
        if not heard or not heard[-1]:
            raise DataError(
                f"{name}: no active node of this name within {PATIENCE:g} s; start it, or name another with --node"
            )
        wanted = [f.name for f in fields(NodeParameters) if f.name != "cameras"]
        for _ in range(ATTEMPTS):  # an answer is lost if the node does not know of us yet
            answer = client.call_async(GetParameters.Request(names=wanted))
            _spin_until(executor, answer.done)
            if answer.done():
                break
        else:
            raise DataError(f"{name}: did not return its parameters within {ATTEMPTS * PATIENCE:g} s")
    finally:
        node.destroy_subscription(subscription)
        node.destroy_client(client)
    values = {n: parameter_value_to_python(v) for n, v in zip(wanted, answer.result().values, strict=True)}
    known = {n: tuple(v) if isinstance(v, (list, np.ndarray)) else v for n, v in values.items() if v is not None}
    known |= {n: type(getattr(NodeParameters, n))(value) for n, value in settled.items()}
    namespace = name.rpartition("/")[0]
    return replace(NodeParameters(), **known, cameras=tuple(f"{namespace}/{camera}" for camera in heard[-1]))


def _spin_until(executor: SingleThreadedExecutor, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done() and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.05)


class LiveView:
    """Subscribes, pairs each answer with the images it came from, and hands both to viewers."""

    def __init__(self, node: Node, name: str, parameters: NodeParameters, logs: Logs):
        self._logs, self._slop_ns = logs, round(parameters.slop * 1e9)
        self._cameras = tuple(camera.rpartition("/")[2] for camera in parameters.cameras)
        self._name = name.lstrip("/")
        self._sets: deque[FrameSet] = deque(maxlen=KEPT)
        self._latency: dict[str, float] = {}
        self._dropped: dict[str, int] = {}
        self._pose = np.eye(4)
        self._rectifier = rectifier_of(InputConfig())
        health = Health("letocc_view", lambda text: None)
        self._inputs = Inputs(node, parameters, health, self._sets.append)  # nobody else keeps it
        health.clear(self._inputs.image_topics)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        node.create_subscription(OccFlowGrid, f"{name}/occupancy", self._on_answer, 5)

    def _on_answer(self, message: OccFlowGrid) -> None:
        answer = replace(conversions.from_grid_message(message), seconds=self._latency)
        nearest = min(self._sets, key=lambda s: abs(s.stamp_ns - answer.stamp_ns), default=None)
        if nearest is None or abs(nearest.stamp_ns - answer.stamp_ns) > self._slop_ns:
            self._logs.add(Scene(answer, self._pose, dropped=self._dropped))
            return
        self._pose = nearest.T_world_ego
        if any(c is not None and c.distorted for c in nearest.calibrations):
            nearest = rectify(nearest, InputConfig(), self._rectifier)
        self._logs.add(Scene(answer, self._pose, nearest, self._names(nearest), dropped=self._dropped))

    def _names(self, frames: FrameSet) -> tuple[str, ...]:
        """Of the images; a fisheye camera has become several views."""
        same = len(frames.images) == len(self._cameras)
        return self._cameras if same else tuple(f"view_{i}" for i in range(len(frames.images)))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == self._name:
                self._read(status)

    def _read(self, status: DiagnosticStatus) -> None:
        values = {pair.key: pair.value for pair in status.values}
        ending = " median (ms)"
        self._latency = {k.removesuffix(ending): float(v) / 1e3 for k, v in values.items() if k.endswith(ending)}
        self._dropped = {k.removeprefix("dropped: "): int(v) for k, v in values.items() if k.startswith("dropped: ")}
