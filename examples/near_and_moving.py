"""A node that warns of what moves within 5 m. Run it beside occ_flow_node: python examples/near_and_moving.py"""

from contextlib import suppress

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from letocc_ros import grid
from letocc_ros.msg import OccFlowGrid

NEAR, MOVING = 5.0, 0.5  # m, m/s


class NearAndMoving(Node):
    def __init__(self):
        super().__init__("near_and_moving")
        self.create_subscription(OccFlowGrid, "/occ_flow_node/occupancy", self.on_answer, 1)

    def on_answer(self, message: OccFlowGrid) -> None:
        points = grid.occupied_points(grid.from_message(message), lowest=0.3, highest=2.0)
        near = (points.distance < NEAR) & (points.speed > MOVING)
        if near.any():
            first = points.distance[near].argmin()
            x, y, _ = points.centres[near][first]
            speed = points.speed[near][first]
            self.get_logger().warning(f"something moves at {speed:.1f} m/s, at x {x:.1f} m, y {y:.1f} m")


if __name__ == "__main__":
    rclpy.init()
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(NearAndMoving())
