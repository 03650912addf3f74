"""Voxels and their motion as markers for RViz."""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.consumers.objects import MovingObject
from letocc_core.stream.types import OccFlow
from letocc_ros.conversions import make_header

FULL_SPEED = 10.0  # m/s at the end of the colour ramp
FAINT = 0.25  # opacity of what is hidden behind a surface
COLOUR_STEPS = 64
# Blue, cyan, green, yellow, red (RGB in [0, 1]).
RAMP = np.array([[0.1, 0.2, 0.7], [0.1, 0.7, 0.8], [0.3, 0.8, 0.3], [0.95, 0.85, 0.2], [0.9, 0.2, 0.15]])


class MarkerMaker:
    """Markers for RViz. Python message objects are slow to make: a voxel's point is made once, colours are few."""

    def __init__(self, grid: GridSpec):
        self._grid = grid
        self._points: dict[int, Point] = {}
        self._colours = [*colour_ramp(), *colour_ramp(FAINT)]

    def __call__(
        self, answer: OccFlow, frame_id: str, coloured_by: str, motion_colour: Sequence[float], min_speed: float
    ) -> MarkerArray:
        """Two markers: namespace `voxels` (CUBE_LIST) and `motion` (LINE_LIST, the way in one second).

        Args:
            coloured_by: what a voxel's colour shows: height, probability, or speed up to `FULL_SPEED`.
            motion_colour: RGB in [0, 1].
            min_speed: m/s, motion below it is not drawn.
        """
        header = make_header(answer.stamp_ns, frame_id)
        voxels = self._voxels(answer, header, coloured_by)
        return MarkerArray(markers=[voxels, self._motion(answer, header, _colour(motion_colour), min_speed)])

    def _voxels(self, answer: OccFlow, header: Header, coloured_by: str) -> Marker:
        occupied = np.flatnonzero(answer.occupied)
        self._keep(occupied)
        steps = np.rint(_shown(answer, occupied, coloured_by).clip(0, 1) * (COLOUR_STEPS - 1)).astype(int)
        steps += COLOUR_STEPS * ~answer.seen.reshape(-1)[occupied]  # the faint colours
        size = float(self._grid.voxel_size)
        return _marker(
            header,
            "voxels",
            Marker.CUBE_LIST,
            Vector3(x=size, y=size, z=size),
            [self._points[i] for i in occupied.tolist()],
            [self._colours[step] for step in steps.tolist()],
        )

    def _motion(self, answer: OccFlow, header: Header, colour: ColorRGBA, min_speed: float) -> Marker:
        moving = answer.occupied & (np.linalg.norm(answer.velocity, axis=-1) > min_speed)
        starts = self._grid.centres_of(np.argwhere(moving))
        ends = starts.copy()
        ends[:, :2] += answer.velocity[moving]
        lines = np.stack([starts, ends], 1).reshape(-1, 3).tolist()
        points = [Point(x=x, y=y, z=z) for x, y, z in lines]
        return _marker(header, "motion", Marker.LINE_LIST, Vector3(x=0.08), points, [colour] * len(points))

    def _keep(self, occupied: np.ndarray) -> None:
        """Make the points of voxels that were never occupied before."""
        new = [i for i in occupied.tolist() if i not in self._points]
        centres = self._grid.centres_of(np.stack(np.unravel_index(new, self._grid.shape), -1)) if new else np.zeros(0)
        for i, (x, y, z) in zip(new, centres.tolist(), strict=True):
            self._points[i] = Point(x=x, y=y, z=z)


def to_object_markers(
    objects: Sequence[MovingObject], stamp_ns: int, frame_id: str, colour: Sequence[float]
) -> MarkerArray:
    """For each object a CUBE (namespace `boxes`: its place, size and heading) and an ARROW (`velocities`: m in 1 s).

    The first marker takes away those of the answer before.
    """
    header = make_header(stamp_ns, frame_id)
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    for i, item in enumerate(objects):
        markers.append(_box_marker(item, i, header, _colour(colour, alpha=0.5)))
        markers.append(_velocity_marker(item, i, header, _colour(colour)))
    return MarkerArray(markers=markers)


def _box_marker(item: MovingObject, number: int, header: Header, colour: ColorRGBA) -> Marker:
    marker = Marker(header=header, ns="boxes", id=number, type=Marker.CUBE, action=Marker.ADD)
    marker.pose.position = Point(**dict(zip("xyz", item.position, strict=True)))
    marker.pose.orientation.z, marker.pose.orientation.w = np.sin(item.heading / 2), np.cos(item.heading / 2)
    marker.scale = Vector3(**dict(zip("xyz", item.size, strict=True)))
    marker.color = colour
    return marker


def _velocity_marker(item: MovingObject, number: int, header: Header, colour: ColorRGBA) -> Marker:
    x, y, z = item.position
    start, end = Point(x=x, y=y, z=z), Point(x=x + item.velocity[0], y=y + item.velocity[1], z=z)
    marker = Marker(
        header=header, ns="velocities", id=number, type=Marker.ARROW, action=Marker.ADD, points=[start, end]
    )
    marker.scale = Vector3(x=0.15, y=0.35, z=0.0)  # m: diameter of shaft and head
    marker.pose.orientation.w = 1.0
    marker.color = colour
    return marker


def _marker(
    header: Header, namespace: str, kind: int, scale: Vector3, points: list[Point], colours: list[ColorRGBA]
) -> Marker:
    """A list of shapes; without any it takes the last one away, because RViz complains about empty lists."""
    marker = Marker(header=header, ns=namespace, type=kind, scale=scale, points=points, colors=colours)
    marker.action = Marker.ADD if points else Marker.DELETE
    marker.pose.orientation.w = 1.0
    marker.color.a = 1.0
    return marker


def _shown(answer: OccFlow, occupied: np.ndarray, coloured_by: str) -> np.ndarray:
    """[n] in [0, 1]: where on the colour ramp each of n occupied voxels (flat indices) lies."""
    if coloured_by == "probability":
        return answer.probability.reshape(-1)[occupied]
    if coloured_by == "speed":
        return np.linalg.norm(answer.velocity.reshape(-1, 2)[occupied], axis=-1) / FULL_SPEED
    layers = answer.grid.shape[2]
    return (occupied % layers) / max(layers - 1, 1)


def colour_ramp(alpha: float = 1.0) -> list[ColorRGBA]:
    """The `COLOUR_STEPS` colours from blue to red."""
    at = np.linspace(0, len(RAMP) - 1, COLOUR_STEPS)
    return [_colour(rgb, alpha) for rgb in np.stack([np.interp(at, range(len(RAMP)), c) for c in RAMP.T], -1).tolist()]


def _colour(rgb: Sequence[float], alpha: float = 1.0) -> ColorRGBA:
    return ColorRGBA(r=rgb[0], g=rgb[1], b=rgb[2], a=alpha)


@dataclass(frozen=True)
class ObstacleTypes:
    """Messages of `nav2_dynamic_msgs`, which Nav2's layers and controllers for dynamic obstacles take."""

    array: Callable[..., Any]
    obstacle: Callable[..., Any]


def obstacle_types() -> ObstacleTypes | None:
    """Them, or None where the package is not installed."""
    try:
        package = importlib.import_module("nav2_dynamic_msgs.msg")
    except ImportError:
        return None
    return ObstacleTypes(package.ObstacleArray, package.Obstacle)


def to_obstacles(objects: Sequence[MovingObject], types: ObstacleTypes, header: Header) -> Any:
    """`nav2_dynamic_msgs/ObstacleArray`: centre, size along the axes (m) and velocity (m/s) of each object.

    Nothing is tracked: an obstacle's UUID stays zero, and the message has one only where its version has the field.
    """
    obstacles = []
    for item in objects:
        obstacle = types.obstacle()
        if hasattr(obstacle, "header"):  # older versions have it in each obstacle
            obstacle.header = header
        if hasattr(obstacle, "score"):
            obstacle.score = 1.0
        obstacle.position = Point(**dict(zip("xyz", item.position, strict=True)))
        vx, vy = item.velocity
        obstacle.velocity = Vector3(x=vx, y=vy, z=0.0)
        cos, sin = abs(math.cos(item.heading)), abs(math.sin(item.heading))
        length, width, height = item.size
        obstacle.size = Vector3(x=cos * length + sin * width, y=sin * length + cos * width, z=height)
        obstacles.append(obstacle)
    return types.array(header=header, obstacles=obstacles)
