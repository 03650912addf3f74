"""A node in a context of its own, for the length of a `with` block; serialised messages and their stamps."""

import importlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.subscription import Subscription

from letocc_core.errors import DataError
from letocc_ros.middleware import make_room_for_images


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
