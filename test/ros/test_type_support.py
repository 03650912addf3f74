"""What we record is read by everybody, and plays again: the bag carries the definition of our message."""

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; source scripts/env.sh")
pytest.importorskip("letocc_ros.msg", reason="the ROS package is not built; source scripts/env.sh")

import ros_rig as rig
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from letocc_core.data.bags.answers import ANSWER, OCCUPANCY_TOPIC
from letocc_ros.msg import OccFlowGrid
from letocc_ros.player import play
from letocc_ros.recorder import Recorder

CONSTANTS = {"NOT_SEEN": 255, "SEEN": 0, "HIDDEN": 1}


@pytest.fixture(scope="module", autouse=True)
def isolated() -> None:
    rig.isolate_ros()


@pytest.fixture(scope="module")
def sent() -> OccFlowGrid:
    """2 x 1 x 3 voxels, of which the last is occupied and moves."""
    message = OccFlowGrid(voxel_size=0.5, size_x=2, size_y=1, size_z=3, threshold=0.25)
    message.header.frame_id, message.header.stamp.sec, message.header.stamp.nanosec = "chassis", 1_700_000_000, 5
    message.origin.x, message.origin.y, message.origin.z = -1.0, -0.25, 0.5
    message.probability, message.visibility = [0, 10, 255, 20, 30, 254], [0, 0, 1, 0, 1, 0]
    message.occupied, message.vx, message.vy = [5], [1.5], [-0.75]
    message.class_names, message.labels = ["road", "vehicle"], [1]
    return message


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, sent) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "bag"
    with Recorder(path, {OCCUPANCY_TOPIC: ANSWER}) as recorder, rig.Peer() as peer:
        rig.until(
            lambda: peer.publish(OCCUPANCY_TOPIC, sent) or recorder.wait_for(OCCUPANCY_TOPIC, 1, 0.2),
            rig.DEADLINE,
            "a message",
        )
    return path


def values(message: object, names: list[str]) -> dict[str, object]:
    """Fields of a message of rclpy or of rosbags, in plain types."""

    def plain(value: object) -> object:
        if hasattr(value, "get_fields_and_field_types"):
            return values(value, list(value.get_fields_and_field_types()))
        if hasattr(value, "__dataclass_fields__"):
            return values(value, [name for name in value.__dataclass_fields__ if name != "__msgtype__"])
        return value if isinstance(value, (str, int, float)) else list(value)

    return {name: plain(getattr(message, name)) for name in names}


def test_rosbags_decodes_our_message_by_the_schema_in_the_bag(recorded, sent):
    """With no store of types that knows it."""
    names = list(sent.get_fields_and_field_types())
    with AnyReader([recorded], default_typestore=get_typestore(Stores.EMPTY)) as bag:
        constants, fields = bag.typestore.fielddefs[ANSWER]
        assert {name: value for name, _, value in constants} == CONSTANTS
        assert [name for name, _ in fields] == names
        connection, _, data = next(bag.messages())
        read = bag.deserialize(data, connection.msgtype)
    assert connection.topic == OCCUPANCY_TOPIC
    assert values(read, names) == values(sent, names)


def test_the_file_carries_the_definition_with_all_that_it_builds_on(recorded):
    """As MCAP prescribes for `ros2msg`, by which Foxglove decodes it as well."""
    with next(recorded.glob("*.mcap")).open("rb") as file:
        schemas = {schema.name: schema for schema in make_reader(file).get_summary().schemas.values()}
    schema = schemas[ANSWER]
    text = schema.data.decode()
    assert schema.encoding == "ros2msg"
    for part in ("uint8 HIDDEN=1", "MSG: std_msgs/Header", "MSG: builtin_interfaces/Time", "MSG: geometry_msgs/Point"):
        assert part in text, text


def test_what_was_recorded_plays_again(recorded, sent):
    with rig.Peer({OCCUPANCY_TOPIC: OccFlowGrid}) as peer:
        assert play(recorded, rate=10.0).messages >= 1
        rig.until(lambda: peer.received[OCCUPANCY_TOPIC], rig.DEADLINE, "the message that was recorded")
    assert peer.received[OCCUPANCY_TOPIC][0] == sent
