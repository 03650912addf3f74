"""Bags of answers, as `occ_flow_node` publishes them, written and read without ROS; RViz opens either."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from letocc_core.data.bags.reader import open_bag
from letocc_core.data.bags.recording import all_poses
from letocc_core.data.bags.writer import BagWriter
from letocc_core.errors import DataError, MissingDependencyError, PoseError
from letocc_core.stream.assembler import AssemblerConfig
from letocc_core.stream.packing import pack, unpack
from letocc_core.stream.types import OccFlow

ANSWER = "letocc_ros/msg/OccFlowGrid"
OCCUPANCY_TOPIC, POINTS_TOPIC = "/occ_flow_node/occupancy", "/occ_flow_node/points"


class AnswerBag:
    """A bag being written: `/tf`, and the node's topics `occupancy` and `points`; a context manager.

    Raises `DataError` if `path` exists already.
    """

    def __init__(self, path: str | Path, base_frame: str = "base_link", fixed_frame: str = "odom"):
        self._bag = BagWriter(path)
        self._bag.register(ANSWER, answer_definition())
        self.base_frame, self.fixed_frame = base_frame, fixed_frame

    def __enter__(self) -> "AnswerBag":
        self._bag.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bag.__exit__(kind, error, trace)

    def write(self, answer: OccFlow, T_world_ego: np.ndarray) -> None:
        """One answer, and where the vehicle was then ([4, 4] m, base frame -> fixed frame)."""
        self._bag.write_tf(answer.stamp_ns, self.fixed_frame, self.base_frame, T_world_ego)
        self._write_grid(answer)
        index = np.argwhere(answer.occupied & answer.seen)
        at = tuple(index.T)
        x, y, z = answer.grid.centres_of(index).astype(np.float32).T
        vx, vy = answer.velocity[at].T
        columns = {"x": x, "y": y, "z": z, "probability": answer.probability[at], "vx": vx, "vy": vy}
        self._bag.write_points(answer.stamp_ns, self.base_frame, columns, POINTS_TOPIC)

    def _write_grid(self, answer: OccFlow) -> None:
        packed, grid = pack(answer), answer.grid
        lower = dict(zip("xyz", map(float, grid.lower), strict=True))
        self._bag.write(
            OCCUPANCY_TOPIC,
            ANSWER,
            answer.stamp_ns,
            header=self._bag.header(answer.stamp_ns, self.base_frame),
            voxel_size=grid.voxel_size,
            origin=self._bag.message("geometry_msgs/msg/Point", **lower),
            **dict(zip(("size_x", "size_y", "size_z"), grid.shape, strict=True)),
            probability=packed.probability.reshape(-1),
            threshold=float(answer.threshold),
            occupied=packed.occupied,
            vx=np.ascontiguousarray(packed.velocity[:, 0]),
            vy=np.ascontiguousarray(packed.velocity[:, 1]),
            class_names=list(answer.class_names),
            labels=packed.labels,
            visibility=packed.visibility.reshape(-1),
        )


def read_answers(path: str | Path) -> Iterator[OccFlow]:
    """The answers in a bag, in recorded order. Raises `DataError` for a bag that cannot be read."""
    with open_bag(path) as bag:
        for _, _, message in bag.raw(bag.topics(ANSWER)):
            yield unpack(message)


def read_placed_answers(
    path: str | Path, base_frame: str = "base_link", fixed_frame: str = "odom"
) -> Iterator[tuple[OccFlow, np.ndarray]]:
    """The same, each with the vehicle's pose then ([4, 4] m, base frame -> fixed frame); where unknown, the identity.

    Raises `DataError` also for a bag without answers.
    """
    with open_bag(path) as bag:
        if not bag.topics(ANSWER):
            raise DataError(f"{path}: no topic of type {ANSWER}; expected a bag of what occ_flow_node published")
        poses = all_poses(bag, AssemblerConfig(("none",), base_frame, fixed_frame), damaged=lambda error: None)
    for answer in read_answers(path):
        try:
            pose = poses.ego_pose(answer.stamp_ns)
        except PoseError:
            pose = np.eye(4)
        yield answer, pose


def answer_definition() -> str:
    """The text of OccFlowGrid.msg: of the source tree, the installed library, or the ROS package that is sourced."""
    here = Path(__file__).resolve().parents
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    places = [here[3] / "msg", here[2] / "msg", *(Path(p) / "share/letocc_ros/msg" for p in prefixes)]
    for place in places:
        if (place / "OccFlowGrid.msg").is_file():
            return (place / "OccFlowGrid.msg").read_text("utf-8-sig")
    raise MissingDependencyError(
        f"OccFlowGrid.msg is in none of {', '.join(map(str, places))}: install letocc again, or source the ROS workspace "
        "that letocc_ros was built in"
    )
