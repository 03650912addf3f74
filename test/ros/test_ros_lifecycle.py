"""The managed node in this process: its states, its parameters, several of it; nothing is sent."""

import gc
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; source scripts/env.sh")
pytest.importorskip("letocc_ros.msg", reason="the ROS package is not built; source scripts/env.sh")

import rclpy
import ros_rig as rig
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from ros_rig import CAMERAS, until

from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_ros.node import OccFlowNode, main
from letocc_ros.outputs import Outputs
from letocc_ros.parameters import NodeParameters, defaults

OUTPUTS = ("occupancy", "points", "costmap", "clearing", "markers", "objects")
QOS_PAGE = (rig.REPOSITORY / "docs" / "ros.md").read_text()
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def start(checkpoint: Path) -> Iterator[Callable[..., OccFlowNode]]:
    """Makes nodes, in one context; takes arguments as on the command line."""
    rig.isolate_ros()
    context, nodes = Context(), []
    context.init()

    def make(*arguments: str, **parameters: object) -> OccFlowNode:
        given = {"checkpoint": str(checkpoint), "cameras": list(CAMERAS)} | parameters
        overrides = [Parameter(name, value=value) for name, value in given.items()]
        command = ["--ros-args", *arguments] if arguments else None
        nodes.append(OccFlowNode(context=context, cli_args=command, parameter_overrides=overrides))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    context.try_shutdown()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until it is set, a set that the network has begun is not answered; `gate.begun` is set when it has."""
    gate, step = threading.Event(), OccFlowPipeline.step
    gate.begun = threading.Event()

    def slow(pipeline: OccFlowPipeline, frames):
        if threading.current_thread().name == "inference":
            gate.begun.set()
            gate.wait(200)
        return step(pipeline, frames)

    monkeypatch.setattr(OccFlowPipeline, "step", slow)
    yield gate
    gate.set()


def values(node: OccFlowNode, state: str = "active") -> dict[str, str]:
    return {pair.key: pair.value for pair in node.health.statuses(state)[0].values}


def test_a_managers_way_and_back(start: Callable[..., OccFlowNode]):
    node = start()
    for _ in range(2):
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        assert node.trigger_deactivate() == SUCCESS
        assert node.trigger_cleanup() == SUCCESS


def test_deactivated_it_keeps_the_model_and_cleaned_up_it_frees_it(start: Callable[..., OccFlowNode]):
    node = start()
    assert node.start()
    pipeline = weakref.ref(node._pipeline)
    node._submit(rig.frame_set(0))
    until(lambda: values(node)["sets out"] == "1", rig.DEADLINE, "an answer")
    assert node.trigger_deactivate() == SUCCESS
    assert node._pipeline is pipeline()
    assert node.trigger_cleanup() == SUCCESS
    gc.collect()
    assert pipeline() is None


@pytest.mark.parametrize("steps", [[], ["configure"], ["configure", "activate"]])
def test_it_shuts_down_from_every_state(start: Callable[..., OccFlowNode], steps: list[str]):
    node = start()
    for step in steps:
        assert getattr(node, f"trigger_{step}")() == SUCCESS
    assert node.trigger_shutdown() == SUCCESS


def test_nothing_waits_for_a_set_that_takes_long(start: Callable[..., OccFlowNode], gate: threading.Event):
    """With the network at work on a set that never ends: deactivated at once, cleaned up after `PATIENCE`."""
    node = start()
    assert node.start()
    node._submit(rig.frame_set(0))
    assert gate.begun.wait(rig.DEADLINE)
    node._submit(rig.frame_set(1))
    assert node.trigger_deactivate() == SUCCESS
    assert values(node)["dropped: deactivated"] == "1"  # the one that waited
    assert node.trigger_shutdown() == SUCCESS
    assert node._worker.alive
    gate.set()
    until(lambda: not node._worker.alive, rig.DEADLINE, "the end of the set in work")
    assert values(node)["sets out"] == "0"


INTERRUPTED = """
import time
from letocc_core import ending
from letocc_ros import node
ending.GRACE = 600
load = node.load_pipeline
def slow(parameters):
    print("configuring", flush=True)
    time.sleep(600)
    return load(parameters)
node.load_pipeline = slow
node.run()
"""


def test_it_ends_while_it_configures(checkpoint: Path):
    """As a process: terminated while it loads, it neither finishes loading nor complains nor leaves its shared memory."""
    rig.isolate_ros()
    node = rig.NodeProcess(command=[sys.executable, "-c", INTERRUPTED, "--ros-args", "-p", f"checkpoint:={checkpoint}"])
    node.wait_for("configuring")
    memory = rig.shared_memory(node.process.pid)
    node.process.terminate()
    assert node.process.wait(rig.DEADLINE) == 0
    assert "Traceback" not in node.output
    assert not [path for path in memory if path.exists()]


def test_a_node_that_ends_or_cannot_be_gives_back_its_shared_memory(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    rig.isolate_ros()
    before = rig.shared_memory(os.getpid())
    assert main(["--ros-args", "-p", "threshold:=7.0"]) == 1
    assert rig.shared_memory(os.getpid()) == before

    during, started, start = set(), threading.Event(), OccFlowNode.start

    def start_and_say(node: OccFlowNode) -> bool:
        during.update(rig.shared_memory(os.getpid()) - before)
        done = start(node)
        started.set()
        return done

    def end_it(end: Callable[[], None]) -> None:
        threading.Thread(target=lambda: started.wait(rig.DEADLINE) and end()).start()

    monkeypatch.setattr(OccFlowNode, "start", start_and_say)
    assert main(["--ros-args", "-p", f"checkpoint:={checkpoint}"], end_it) == 0
    assert during or rclpy.get_rmw_implementation_identifier() != "rmw_fastrtps_cpp"
    assert not [path for path in during if path.exists()]


def test_an_answer_of_an_earlier_activation_is_not_published(start: Callable[..., OccFlowNode], gate: threading.Event):
    node = start()
    assert node.start()
    node._submit(rig.frame_set(0))
    assert gate.begun.wait(rig.DEADLINE)
    assert node.trigger_deactivate() == node.trigger_activate() == SUCCESS
    gate.set()
    until(lambda: values(node).get("dropped: deactivated") == "1", rig.DEADLINE, "the earlier set counted as dropped")
    node._submit(rig.frame_set(1))
    until(lambda: values(node)["sets out"] == "1", rig.DEADLINE, "an answer")
    assert node._pipeline.resets == {"deactivated": 1}


def test_a_model_that_does_not_fit_is_said_and_can_be_tried_again(
    start: Callable[..., OccFlowNode], monkeypatch: pytest.MonkeyPatch
):
    def full(self, cameras: int) -> None:
        raise RuntimeError("not enough memory: you tried to allocate 99 TB")

    node = start()
    with monkeypatch.context() as patch:
        patch.setattr(OccFlowPipeline, "warm_up", full)
        assert node.trigger_configure() == FAILURE
        assert "99 TB" in node.health.statuses("unconfigured")[0].message
    assert node.trigger_configure() == SUCCESS


def test_several_nodes_of_one_system_keep_to_themselves(start: Callable[..., OccFlowNode]):
    left = start("-r", "__ns:=/left", "-r", "__node:=seer")
    right = start("-r", "__ns:=/right", "-r", "camera_front/image_raw/compressed:=/sensors/front")
    assert left.start()
    assert right.start()
    assert left.get_fully_qualified_name() == "/left/seer"
    assert left._inputs.image_topics[CAMERAS[0]] == "/left/camera_front/image_raw/compressed"
    assert right._inputs.image_topics[CAMERAS[0]] == "/sensors/front"
    topics = {p.topic_name for node in (left, right) for p in node.publishers}
    assert {"/left/seer/occupancy", "/right/occ_flow_node/occupancy", "/diagnostics"} <= topics
    assert left.health.statuses("active")[0].name == "left/seer"
    assert right.set_parameters([Parameter("threshold", value=0.75)])[0].successful
    assert left._pipeline.threshold != right._pipeline.threshold == 0.75


def test_what_changes_live_and_what_is_refused(start: Callable[..., OccFlowNode]):
    node = start()
    assert node.start()
    live = {
        "threshold": 0.6,
        "surface_threshold": 0.1,
        "min_speed": 1.0,
        "costmap_max_height": 3.0,
        "points_min_height": 0.2,
        "voxel_colour": "speed",
        "motion_colour": [0.0, 1.0, 0.0],
        "publish_objects": True,
        "publish_points": False,
    }
    for name, value in live.items():
        assert node.set_parameters([Parameter(name, value=value)])[0].successful, name
    assert (node._pipeline.threshold, node._pipeline.surface_threshold) == (0.6, 0.1)
    assert node._outputs.parameters.voxel_colour == "speed"
    fixed = sorted(defaults().keys() - {name for name in defaults() if is_live(name)})
    assert {"checkpoint", "cameras", "camera_timeout", "odometry_topic", "device"} <= set(fixed)
    for name in fixed:
        (result,) = node.set_parameters([Parameter(name, value=node.get_parameter(name).value)])
        assert not result.successful
        assert f"{name}: can change only while the node is unconfigured" in result.reason
    for name, value in (("voxel_colour", "taste"), ("motion_colour", [1.0]), ("costmap_max_height", 0.0)):
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert not result.successful
        assert name.removesuffix("max_height") in result.reason
    together = [Parameter("costmap_min_height", value=4.0), Parameter("costmap_max_height", value=5.0)]
    assert node.set_parameters_atomically(together).successful  # one by one the first would be refused


def test_whole_numbers_are_taken_for_floats(start: Callable[..., OccFlowNode], tmp_path: Path):
    """As people write them: in a file, on the command line, and while the node runs."""
    file = tmp_path / "params.yaml"
    file.write_text("/**: {ros__parameters: {min_speed: 1, motion_colour: [1, 0, 1], costmap_max_height: 3}}")
    node = start("--params-file", str(file), "-p", "slop:=1")
    p = node.parameters
    assert (p.min_speed, p.motion_colour, p.costmap_max_height, p.slop) == (1.0, (1.0, 0.0, 1.0), 3.0, 1.0)
    assert {type(value) for value in (p.min_speed, *p.motion_colour, p.slop)} == {float}
    assert node.set_parameters([Parameter("min_speed", value=2)])[0].successful
    assert node.parameters.min_speed == 2.0
    (result,) = node.set_parameters([Parameter("min_speed", value=200)])
    assert "'min_speed' is 200.0, expected 0 to 100 m/s" in result.reason
    (result,) = node.set_parameters([Parameter("min_speed", value="fast")])
    assert "'min_speed' is 'fast', expected a number" in result.reason
    assert not node.set_parameters([Parameter("min_speed")])[0].successful  # taken away
    assert node.parameters.min_speed == 2.0


def is_live(name: str) -> bool:
    return NodeParameters.__dataclass_fields__[name].metadata["live"]


class Publisher:
    """Stands in for a lifecycle publisher."""

    def __init__(self, topic: str):
        self.topic_name, self.listeners, self.sent, self.confirming = topic, 0, [], True

    def get_subscription_count(self) -> int:
        return self.listeners

    def publish(self, message: object) -> None:
        self.sent.append(message)

    def wait_for_all_acked(self, timeout: Duration) -> bool:
        assert timeout.nanoseconds == 0  # nobody waits
        return self.confirming or not self.sent


class Publishers:
    """Stands in for the node."""

    def __init__(self):
        self.made: dict[str, Publisher] = {}

    def resolve_topic_name(self, topic: str) -> str:
        return topic.replace("~", "/node")

    def create_lifecycle_publisher(self, kind: type, topic: str, qos: QoSProfile, **options) -> Publisher:
        self.made[topic] = Publisher(topic)
        return self.made[topic]

    def destroy_lifecycle_publisher(self, publisher: Publisher) -> None:
        del self.made[publisher.topic_name]


def test_an_output_is_made_if_it_is_switched_on_and_someone_listens(checkpoint: Path):
    pipeline = OccFlowPipeline.from_checkpoint(checkpoint)
    answer = pipeline.step(rig.frame_set(0))
    node = Publishers()
    frames = {"base_frame": "base_link", "fixed_frame": "odom"}
    outputs = Outputs(node, NodeParameters(**frames))
    assert set(node.made) == {f"~/{name}" for name in OUTPUTS}
    assert outputs.publish(answer, np.eye(4)) == 0
    for publisher in node.made.values():
        publisher.listeners = 1
    assert outputs.publish(answer, np.eye(4)) == 5  # objects are off by default
    outputs.parameters = NodeParameters(**frames, publish_objects=True, publish_points=False)
    assert outputs.publish(answer, np.eye(4)) == 5
    assert [len(node.made[f"~/{name}"].sent) for name in ("points", "objects", "costmap")] == [1, 1, 2]
    found = {name: {m.header.frame_id for m in p.sent if hasattr(m, "header")} for name, p in node.made.items()}
    assert found.pop("~/costmap") == {"odom"}
    assert set().union(*found.values()) == {"base_link"}
    outputs.parameters = NodeParameters(**frames, costmap_frame="base_frame")
    outputs.publish(answer, np.eye(4))
    assert node.made["~/costmap"].sent[-1].header.frame_id == "base_link"
    outputs.destroy()
    assert not node.made


def test_each_band_of_heights_has_a_costmap_without_what_moves_if_so_wished(checkpoint: Path):
    pipeline = OccFlowPipeline.from_checkpoint(checkpoint)
    answer = pipeline.step(rig.frame_set(0))
    node, both = Publishers(), ("low 0 1.5", "sky 50 60")
    outputs = Outputs(node, NodeParameters(costmap_bands=both))
    costmaps = {name: publisher for name, publisher in node.made.items() if "costmap" in name}
    assert set(costmaps) == {"~/costmap", "~/costmap_low", "~/costmap_sky"}
    for publisher in costmaps.values():
        publisher.listeners = 1
    assert outputs.publish(answer, np.eye(4)) == 3
    outputs.parameters = NodeParameters(costmap_bands=both, costmap_moving="exclude", min_speed=0.0)
    assert outputs.publish(answer, np.eye(4)) == 3
    with_motion, without = node.made["~/costmap_low"].sent
    assert 100 in with_motion.data and 100 not in without.data  # all of this network's matter moves
    assert with_motion.data.count(-1) == without.data.count(-1)
    assert set(node.made["~/costmap_sky"].sent[0].data) == {-1}
    outputs.destroy()


def test_a_subscriber_that_confirms_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    pipeline, now = OccFlowPipeline.from_checkpoint(checkpoint), [100.0]
    monkeypatch.setattr("letocc_ros.outputs.time", SimpleNamespace(monotonic=lambda: now[0]))
    answer, node = pipeline.step(rig.frame_set(0)), Publishers()
    outputs = Outputs(node, NodeParameters())
    costmap = node.made["~/costmap"]
    costmap.listeners, costmap.confirming = 1, False
    now[0] = 200.0
    assert set(outputs.unconfirmed().values()) == {0.0}  # nothing was sent yet
    for now[0] in (201.0, 203.0):
        outputs.publish(answer, np.eye(4))
    assert outputs.unconfirmed() == {f"~/{name}": 2.0 * (name == "costmap") for name in OUTPUTS}
    costmap.confirming, now[0] = True, 205.0
    outputs.publish(answer, np.eye(4))  # now it has what came before
    costmap.confirming, now[0] = False, 206.0
    assert outputs.unconfirmed()["~/costmap"] == 1.0


def test_the_quality_of_service_is_the_tables_and_can_be_overridden(start: Callable[..., OccFlowNode]):
    """What `ros2 topic info -v` shows, of the node as it is and with overrides; a wrong one is named."""
    table = re.findall(r"^\| `(\S+)` \| (\w+) \| (\d+) \| (\w+) \| (\w+) \|", QOS_PAGE, re.MULTILINE)
    described = {topic: (side, int(depth), *policies) for topic, side, depth, *policies in table}
    assert len(described) > 8

    node = start(odometry_topic="/odometry")
    assert node.start()
    found = qualities(node)
    for topic, expected in described.items():
        resolved = topic.replace("CAMERA", "/camera_left").replace("~", "/occ_flow_node")
        assert found.pop(resolved) == expected, topic
    assert {topic for topic in found if not topic.startswith("/camera_front/")} == set()

    image = "/camera_front/image_raw/compressed"
    changed = start(
        "-r",
        "__node:=changed",
        **{
            f"qos_overrides.{image}.subscription.reliability": "reliable",
            f"qos_overrides.{image}.subscription.depth": 2,
            "qos_overrides./changed/costmap.publisher.durability": "transient_local",
        },
    )
    assert changed.start()
    found = qualities(changed)
    assert found[image] == ("subscription", 2, "reliable", "volatile")
    assert found["/changed/costmap"] == ("publisher", 5, "reliable", "transient_local")
    assert found["/camera_left/image_raw/compressed"] == ("subscription", 5, "best_effort", "volatile")

    wrong = start("-r", "__node:=wrong", **{f"qos_overrides.{image}.subscription.reliability": "perhaps"})
    assert not wrong.start()
    assert "qos_overrides: Unexpected QoS override for policy `reliability`: `perhaps`" in wrong.health.failure


def test_the_reliability_of_images_changes_with_its_parameter(start: Callable[..., OccFlowNode]):
    """Though rclpy has declared what it was the first time."""
    node = start()
    assert node.start()
    assert node.trigger_deactivate() == node.trigger_cleanup() == SUCCESS
    assert node.set_parameters([Parameter("image_reliability", value="reliable")])[0].successful
    assert node.start()
    assert qualities(node)["/camera_front/image_raw/compressed"] == ("subscription", 5, "reliable", "volatile")


def qualities(node: OccFlowNode) -> dict[str, tuple[str, int, str, str]]:
    """By topic: side, depth, reliability, durability. Depths are the node's own, DDS does not tell them."""
    found = {}
    for side, entities in (
        ("subscription", node._inputs._subscriptions),
        ("publisher", [output.publisher for output in node._outputs._outputs]),
    ):
        for entity in entities:
            topic = entity.topic_name
            (shown,) = [e for e in getattr(node, f"get_{side}s_info_by_topic")(topic) if e.node_name == node.get_name()]
            policies = shown.qos_profile.reliability.name.lower(), shown.qos_profile.durability.name.lower()
            found[topic] = (side, entity.qos_profile.depth, *policies)
    return found
