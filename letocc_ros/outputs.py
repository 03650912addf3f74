"""What the node publishes of an answer: one topic each, made only while it is switched on and someone listens."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from nav_msgs.msg import OccupancyGrid
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from letocc_core.stream.consumers.costmap import moving
from letocc_core.stream.consumers.objects import moving_objects
from letocc_core.stream.types import OccFlow
from letocc_ros import conversions
from letocc_ros.conversions import make_header
from letocc_ros.msg import OccFlowGrid
from letocc_ros.parameters import NodeParameters
from letocc_ros.session import overridable
from letocc_ros.view.markers import ObstacleTypes, obstacle_types, to_markers, to_object_markers, to_obstacles


@dataclass
class Output:
    """A topic, and how an answer becomes a message of it."""

    name: str  # the topic is `~/name`
    switch: str  # the parameter that switches it
    publisher: Publisher
    convert: Callable[[OccFlow], object]
    confirmed: float = field(default_factory=time.monotonic)  # s, when no subscriber lacked a message the last time

    def unconfirmed(self) -> float:
        """s since when a reliable subscriber has not confirmed a message; 0 where none is missing. Does not wait.

        The middleware of the subscriber's process confirms what reaches it, whether or not a callback takes it.
        """
        now = time.monotonic()
        if self.publisher.wait_for_all_acked(Duration()):
            self.confirmed = now
        return now - self.confirmed


class Outputs:
    """The publishers of a configured node."""

    def __init__(self, node: LifecycleNode, parameters: NodeParameters):
        self._node = node
        self._T_fixed_ego = np.eye(4)  # of the answer that is being published
        self.parameters = parameters  # may be replaced at any time
        kinds: dict[str, tuple[type, str, Callable[[OccFlow], object]]] = {
            "occupancy": (OccFlowGrid, "publish_occupancy", self._occupancy),
            "points": (PointCloud2, "publish_points", self._points),
            "clearing": (PointCloud2, "publish_clearing", self._clearing),
            "markers": (MarkerArray, "publish_markers", self._voxels),
            "objects": (MarkerArray, "publish_objects", self._objects),
        }
        for name in parameters.bands:
            kinds[name] = (OccupancyGrid, "publish_costmap", partial(self._costmap, name))
        if (obstacles := obstacle_types()) is not None:
            kinds["obstacles"] = (obstacles.array, "publish_objects", partial(self._obstacles, obstacles))
        self._outputs = [
            Output(name, switch, self._publisher(kind, f"~/{name}"), convert)
            for name, (kind, switch, convert) in kinds.items()
        ]

    def _publisher(self, kind: type, topic: str) -> Publisher:
        qos = QoSProfile(depth=5)
        options = overridable(self._node, qos, f"{self._node.resolve_topic_name(topic)}.publisher")
        return self._node.create_lifecycle_publisher(kind, topic, qos, qos_overriding_options=options)

    def publish(self, answer: OccFlow, T_fixed_ego: np.ndarray) -> int:
        """Send the answer, and where the vehicle was ([4, 4], m), to whoever listens; returns on how many topics."""
        self._T_fixed_ego = T_fixed_ego
        wanted = [o for o in self._outputs if getattr(self.parameters, o.switch)]
        heard = [o for o in wanted if o.publisher.get_subscription_count()]
        for output in heard:
            output.unconfirmed()  # the message before has had a whole set's time to arrive
            output.publisher.publish(output.convert(answer))
        return len(heard)

    def unconfirmed(self) -> dict[str, float]:
        """For each topic (resolved), since when (s) a reliable subscriber of it has not confirmed what it was sent."""
        return {output.publisher.topic_name: output.unconfirmed() for output in self._outputs}

    def destroy(self) -> None:
        """Take the topics away."""
        for output in self._outputs:
            self._node.destroy_lifecycle_publisher(output.publisher)
        self._outputs = []

    def _occupancy(self, answer: OccFlow) -> OccFlowGrid:
        return conversions.to_grid_message(answer, self.parameters.base_frame)

    def _believed(self, answer: OccFlow) -> OccFlow:
        """The answer as planners get it: with `believe_hidden`, nothing counts as hidden."""
        return answer.believed() if self.parameters.believe_hidden else answer

    def _points(self, answer: OccFlow) -> PointCloud2:
        p = self.parameters
        answer = self._believed(answer)
        return conversions.to_point_cloud(answer, p.base_frame, p.points_min_height, p.points_max_height)

    def _clearing(self, answer: OccFlow) -> PointCloud2:
        p = self.parameters
        return conversions.to_clearing(self._believed(answer), p.base_frame, p.bands["costmap"], p.clearing_blind_range)

    def _costmap(self, name: str, answer: OccFlow) -> OccupancyGrid:
        p = self.parameters
        without = moving(answer, p.min_speed) if p.costmap_moving == "exclude" else None
        if p.costmap_frame == "base_frame":
            return conversions.to_costmap(self._believed(answer), p.base_frame, p.bands[name], without)
        return conversions.to_costmap(self._believed(answer), p.fixed_frame, p.bands[name], without, self._T_fixed_ego)

    def _voxels(self, answer: OccFlow) -> bytes:
        p = self.parameters
        return to_markers(answer, p.base_frame, p.voxel_colour, p.motion_colour, p.min_speed)

    def _objects(self, answer: OccFlow) -> MarkerArray:
        p = self.parameters
        objects = moving_objects(self._believed(answer), p.min_speed, p.min_object_voxels)
        return to_object_markers(objects, answer.stamp_ns, p.base_frame, p.motion_colour)

    def _obstacles(self, types: ObstacleTypes, answer: OccFlow) -> object:
        p = self.parameters
        objects = moving_objects(self._believed(answer), p.min_speed, p.min_object_voxels)
        return to_obstacles(objects, types, make_header(answer.stamp_ns, p.base_frame))
