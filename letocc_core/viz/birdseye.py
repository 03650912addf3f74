"""Occupancy from above: the height of each column, what nobody sees, velocities, a scale bar."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from letocc_core.geometry.grid import GridSpec
from letocc_core.viz import colours
from letocc_core.viz.voxels import EGO_BOX, View

MOVING = 0.5  # m/s, slower velocities are not drawn
ARROW_SECONDS = 0.8  # s, an arrow's length is the way driven in this time


@dataclass(frozen=True, eq=False)
class MovingThing:
    """A connected group of voxels that moves."""

    centre: Float[np.ndarray, "3"]  # m, middle of its upper side
    velocity: Float[np.ndarray, "2"]  # m/s


def moving_things(
    occupied: Bool[np.ndarray, "X Y Z"], velocity: Float[np.ndarray, "X Y Z 2"], grid: GridSpec, smallest: int = 3
) -> list[MovingThing]:
    """Groups of at least `smallest` touching voxels faster than `MOVING`, with their mean velocity."""
    moving = occupied & (np.linalg.norm(velocity, axis=-1) > MOVING)
    groups, count = ndimage.label(moving, structure=np.ones((3, 3, 3)))
    out = []
    for index in range(1, count + 1):
        voxels = np.argwhere(groups == index)
        if len(voxels) >= smallest:
            centre = np.append(voxels[:, :2].mean(0), voxels[:, 2].max() + 0.5) + 0.5
            mean = velocity[tuple(voxels.T)].mean(0)
            out.append(MovingThing(np.asarray(grid.lower) + centre * grid.voxel_size, mean))
    return out


def birdseye(
    occupied: Bool[np.ndarray, "X Y Z"],
    velocity: Float[np.ndarray, "X Y Z 2"],
    grid: GridSpec,
    size: int,
    seen: Bool[np.ndarray, "X Y Z"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The grid from above, forward up and left to the left; `size` px along the box's longer side.

    Args:
        seen: voxels that count as looked at; a column without any is drawn as unseen.
    """
    z = grid.lower[2] + (np.arange(grid.shape[2]) + 0.5) * grid.voxel_size
    top = np.where(occupied, z, -np.inf).max(-1)
    picture = colours.height_colours(np.where(np.isfinite(top), top, 0.0))
    picture[~np.isfinite(top)] = colours.EMPTY
    if seen is not None:
        picture[~seen.any(-1) & ~np.isfinite(top)] = colours.UNSEEN
    scale = size / max(grid.shape[:2])
    shape = tuple(round(n * scale) for n in grid.shape[:2])
    picture = cv2.resize(
        np.ascontiguousarray(picture[::-1, ::-1]), shape[::-1], interpolation=cv2.INTER_NEAREST
    )  # rows: x from far to near; columns: y from left to right
    metre = scale / grid.voxel_size

    def place(points: np.ndarray) -> np.ndarray:
        return (np.asarray(grid.upper[:2]) - np.asarray(points)[..., :2])[..., ::-1] * metre

    _rings(picture, place, grid, metre)
    _ego(picture, place)
    for thing in moving_things(occupied, velocity, grid):
        draw_arrow(picture, place(thing.centre), place(thing.centre[:2] + thing.velocity * ARROW_SECONDS))
    return picture


def arrows_in_view(
    picture: UInt8[np.ndarray, "h w 3"],
    occupied: Bool[np.ndarray, "X Y Z"],
    velocity: Float[np.ndarray, "X Y Z 2"],
    grid: GridSpec,
    view: View,
) -> None:
    """Draw the velocities of what moves into a 3D picture."""
    for thing in moving_things(occupied, velocity, grid):
        tip = thing.centre + np.append(thing.velocity * ARROW_SECONDS, 0)
        start, end = view.project(np.stack([thing.centre, tip]))
        draw_arrow(picture, start, end)


def draw_arrow(picture: UInt8[np.ndarray, "h w 3"], start: np.ndarray, end: np.ndarray) -> None:
    """A velocity arrow with a pale outline, between pixels (x, y)."""
    length = max(float(np.linalg.norm(end - start)), 1.0)
    points = [tuple(round(c * 16) for c in p) for p in (start, end)]
    for colour, width in ((colours.PAPER, 5), (colours.ARROW, 2)):
        cv2.arrowedLine(picture, *points, colour, width, cv2.LINE_AA, 4, min(0.35, 9 / length))


def _rings(picture: np.ndarray, place, grid: GridSpec, metre: float) -> None:
    """Faint circles every 10 m around the ego vehicle."""
    overlay = picture.copy()
    centre = tuple(round(c) for c in place(np.zeros(2)))
    farthest = np.abs([*grid.lower[:2], *grid.upper[:2]]).max()
    for radius in range(10, int(farthest * 1.5), 10):
        cv2.circle(overlay, centre, round(radius * metre), colours.FAINT, 1, cv2.LINE_AA)
    cv2.addWeighted(overlay, 0.45, picture, 0.55, 0, dst=picture)


def _ego(picture: np.ndarray, place) -> None:
    """The ego vehicle as a pointed box."""
    (x0, y0, _), (x1, y1, _) = EGO_BOX
    nose = x1 - 1.0
    outline = np.array([(x0, y0), (nose, y0), (x1, 0.0), (nose, y1), (x0, y1)])
    corners = np.round(place(outline) * 16).astype(np.int32)
    cv2.fillPoly(picture, [corners], colours.EGO, cv2.LINE_AA, 4)
    cv2.polylines(picture, [corners], True, colours.PAPER, 1, cv2.LINE_AA, 4)
