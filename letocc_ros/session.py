"""A node in a context of its own, for the length of a `with` block; room for large images; serialised messages."""

import importlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from ament_index_python.packages import get_package_share_path
from rcl_interfaces.msg import SetParametersResult
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from letocc_core.errors import DataError

# What names a profile to Fast DDS, the default middleware: version 2, up to Jazzy, knows the first, version 3 wants the other.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
OVERRIDABLE = (QoSPolicyKind.DEPTH, QoSPolicyKind.DURABILITY, QoSPolicyKind.HISTORY, QoSPolicyKind.RELIABILITY)
FAST_DDS_3 = 8  # first version of rclpy after Jazzy's


def make_room_for_images() -> None:
    """Let this process use config/fastdds.xml, unless its environment names a profile; call it before rclpy starts.

    Without it a single PNG image of half a megabyte does not fit the shared memory of its publisher, and is lost.
    """
    if any(name in os.environ for name in PROFILE_VARIABLES):
        return
    third = int(version("rclpy").split(".")[0]) >= FAST_DDS_3
    os.environ[PROFILE_VARIABLES[third]] = str(get_package_share_path("letocc_ros") / "config" / "fastdds.xml")


@contextmanager
def session(name: str) -> Iterator[tuple[Node, SingleThreadedExecutor]]:
    """A node and the executor that spins it, independent of any other use of rclpy in this process."""
    make_room_for_images()
    context = Context()
    context.init()
    try:
        node = Node(name, context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        try:
            yield node, executor
        finally:
            executor.shutdown()
            node.destroy_node()
    finally:
        context.try_shutdown()


def overridable(node: Node, qos: QoSProfile, entity: str) -> QoSOverridingOptions:
    """Lets parameters `qos_overrides.<entity>.<policy>` change the quality of service of a topic as it is created.

    Args:
        qos: that of the node, which counts where nothing is overridden.
        entity: resolved topic and side, such as `/tf.subscription`.
    """
    given = getattr(node, "_parameter_overrides", {})  # rclpy has no public name for them
    ours = {policy: getattr(qos, policy.name.lower()) for policy in OVERRIDABLE}

    def keep_ours(changed: QoSProfile) -> SetParametersResult:
        """rclpy goes by what it declared the first time: of a node that is activated again, with other parameters."""
        for policy, value in ours.items():
            if f"qos_overrides.{entity}.{policy.name.lower()}" not in given:
                setattr(changed, policy.name.lower(), value)
        return SetParametersResult(successful=True)

    return QoSOverridingOptions(OVERRIDABLE, callback=keep_ours)


def count_publishers(node: Node, subscription: Subscription) -> int:
    """How many publishers a subscription hears."""
    if hasattr(subscription, "get_publisher_count"):
        return subscription.get_publisher_count()
    return node.count_publishers(subscription.topic_name)  # older rclpy: what the graph says


def pending(subscription: Subscription) -> list[object]:
    """Takes the messages that have come and that the executor has not taken yet, as it would: the oldest first."""
    messages = []
    with subscription.handle:
        while (taken := subscription.handle.take_message(subscription.msg_type, subscription.raw)) is not None:
            messages.append(taken[0])
    return messages


def message_class(kind: str) -> type:
    """The Python class of `package/msg/Name`; raises `ImportError` or `AttributeError` where ROS lacks it."""
    package, _, name = kind.partition("/msg/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def header_stamp_ns(data: bytes, offset: int = 0) -> int:
    """ns in the `std_msgs/Header` at `offset` bytes into a serialised message (CDR). Raises `DataError` if cut off."""
    if len(data) < offset + 12:
        raise DataError(f"serialised message of {len(data)} bytes, expected at least {offset + 12} for its header")
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, offset + 4)  # 4: encapsulation
    return seconds * 10**9 + nanoseconds
