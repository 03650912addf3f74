"""Voxels and their motion as markers for RViz."""

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Vector3
from jaxtyping import Float
from rclpy.serialization import serialize_message
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from letocc_core.stream.consumers.objects import MovingObject
from letocc_core.stream.types import OccFlow
from letocc_ros.conversions import make_header

FULL_SPEED = 10.0  # m/s at the end of the colour ramp
FAINT = 0.25  # opacity of what is hidden behind a surface
COLOUR_STEPS = 64
ENCAPSULATION = 4  # bytes before a serialised message, which alignment does not count
# Blue, cyan, green, yellow, red (RGB in [0, 1]).
RAMP = np.array([[0.1, 0.2, 0.7], [0.1, 0.7, 0.8], [0.3, 0.8, 0.3], [0.95, 0.85, 0.2], [0.9, 0.2, 0.15]])


def to_markers(
    answer: OccFlow, frame_id: str, coloured_by: str, motion_colour: Sequence[float], min_speed: float
) -> bytes:
    """A serialised `MarkerArray`: namespace `motion` (LINE_LIST, the way in one second) and `voxels` (CUBE_LIST).

    Bytes, since to make and to serialise Python objects of 30 000 voxels takes ten times as long as all other messages.

    Args:
        coloured_by: what a voxel's colour shows: height, probability, or speed up to `FULL_SPEED`.
        motion_colour: RGB in [0, 1].
        min_speed: m/s, motion below it is not drawn.
    """
    header, grid = make_header(answer.stamp_ns, frame_id), answer.grid
    occupied = np.flatnonzero(answer.occupied)
    steps = np.rint(_shown(answer, occupied, coloured_by).clip(0, 1) * (COLOUR_STEPS - 1)).astype(int)
    hidden = ~answer.seen.reshape(-1)[occupied]
    colours = np.concatenate([colour_ramp(), colour_ramp(FAINT)])[steps + COLOUR_STEPS * hidden]
    centres = grid.centres_of(np.stack(np.unravel_index(occupied, grid.shape), axis=-1))
    size = float(grid.voxel_size)
    voxels = _marker(header, "voxels", Marker.CUBE_LIST, Vector3(x=size, y=size, z=size), shown=len(occupied) > 0)
    motion = _motion(centres, answer.velocity.reshape(-1, 2)[occupied], header, _colour(motion_colour), min_speed)
    return _with_lists(serialize_message(MarkerArray(markers=[motion, voxels])), centres, colours)


def _with_lists(message: bytes, points: Float[np.ndarray, "n 3"], colours: Float[np.ndarray, "n 4"]) -> bytes:
    """The serialised `MarkerArray` whose last marker has no points and no colours, with these."""
    at = len(message) - _length_behind_lists() - 8
    count = len(points).to_bytes(4, sys.byteorder)
    padding = bytes(-(at - ENCAPSULATION + 4) % 8 if len(points) else 0)  # float64 begins at a multiple of 8
    lists = count + padding + np.float64(points).tobytes() + count + np.float32(colours).tobytes()
    return message[:at] + lists + message[at + 8 :]


@cache
def _length_behind_lists() -> int:
    """Bytes of a serialised marker without texts behind its points and colours."""
    colour = np.full(4, 0.7, np.float32)
    message = serialize_message(MarkerArray(markers=[Marker(colors=[_colour(colour.tolist()[:3], float(colour[3]))])]))
    return len(message) - message.rindex(colour.tobytes()) - colour.nbytes


def _motion(
    centres: Float[np.ndarray, "n 3"],
    velocity: Float[np.ndarray, "n 2"],
    header: Header,
    colour: ColorRGBA,
    min_speed: float,
) -> Marker:
    moving = np.hypot(*velocity.T) > min_speed
    starts = centres[moving]
    ends = starts.copy()
    ends[:, :2] += velocity[moving]
    lines = np.stack([starts, ends], 1).reshape(-1, 3).tolist()
    marker = _marker(header, "motion", Marker.LINE_LIST, Vector3(x=0.08), shown=bool(lines))
    marker.points = [Point(x=x, y=y, z=z) for x, y, z in lines]
    marker.colors = [colour] * len(lines)
    return marker


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


def _marker(header: Header, namespace: str, kind: int, scale: Vector3, shown: bool) -> Marker:
    """A list of shapes, yet without any; one that will have none takes the last one away: RViz complains about empty lists."""
    marker = Marker(header=header, ns=namespace, type=kind, scale=scale)
    marker.action = Marker.ADD if shown else Marker.DELETE
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


def colour_ramp(alpha: float = 1.0) -> Float[np.ndarray, "64 4"]:
    """The `COLOUR_STEPS` colours from blue to red, RGBA in [0, 1]."""
    at = np.linspace(0, len(RAMP) - 1, COLOUR_STEPS)
    rgb = [np.interp(at, range(len(RAMP)), channel) for channel in RAMP.T]
    return np.stack([*rgb, np.full(COLOUR_STEPS, alpha)], axis=-1)


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
