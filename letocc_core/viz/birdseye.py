"""Occupancy from above: the height of each column, what nobody sees, what moves, a scale bar."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.consumers.objects import MovingObject, moving_objects
from letocc_core.stream.types import OccFlow
from letocc_core.viz import colours
from letocc_core.viz.voxels import EGO_BOX, View, voxel_heights

Place = Callable[[np.ndarray], np.ndarray]  # points (m) to pixels of the picture

MOVING = 0.5  # m/s, slower velocities are not drawn
SMALLEST = 3  # voxels, smaller groups get no arrow
HIGHEST_HIDDEN = 2.0  # m, above which hidden voxels do not make a column hidden
ARROW_SECONDS = 1.2  # s, an arrow's length is the way driven in this time


def objects_of(
    occupied: Bool[np.ndarray, "X Y Z"], velocity: Float[np.ndarray, "X Y Z 2"], grid: GridSpec
) -> list[MovingObject]:
    """What moves: objects of at least `SMALLEST` occupied voxels faster than `MOVING`."""
    everywhere = np.ones(grid.shape, bool)
    answer = OccFlow(0, grid, occupied.astype(np.float32), np.asarray(velocity, np.float32), everywhere, threshold=0.5)
    return moving_objects(answer, MOVING, SMALLEST)


def voxel_colours(
    velocity: Float[np.ndarray, "X Y Z 2"], grid: GridSpec, hidden: Bool[np.ndarray, "X Y Z"] | None = None
) -> UInt8[np.ndarray, "X Y Z 3"]:
    """RGB of voxels: by height, and of what moves by the direction of motion; faint where hidden."""
    out = colours.height_colours(voxel_heights(grid))
    moving = np.linalg.norm(velocity, axis=-1) > MOVING
    out[moving] = colours.direction_colours(velocity[moving])
    if hidden is not None:
        out[hidden] = colours.faint(out[hidden])
    return out


def birdseye(
    occupied: Bool[np.ndarray, "X Y Z"],
    velocity: Float[np.ndarray, "X Y Z 2"],
    grid: GridSpec,
    size: int,
    seen: Bool[np.ndarray, "X Y Z"] | None = None,
    objects: Sequence[MovingObject] = (),
    hidden: Bool[np.ndarray, "X Y Z"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The grid from above, forward up and left to the left; `size` px along the box's longer side.

    Args:
        seen: voxels that count as looked at; a column without any is drawn as unseen.
        objects: drawn with an arrow each.
        hidden: voxels behind a surface: what is there is drawn faint, as are columns empty but for such voxels up to
            `HIGHEST_HIDDEN`.
    """
    top = grid.shape[2] - 1 - occupied[:, :, ::-1].argmax(-1)  # the highest occupied voxel of each column
    empty = ~occupied.any(-1)
    picture = np.take_along_axis(voxel_colours(velocity, grid, hidden), top[..., None, None], axis=2)[:, :, 0]
    picture[empty] = colours.EMPTY
    if hidden is not None:
        low = hidden & (voxel_heights(grid) > colours.LOWEST) & (voxel_heights(grid) < HIGHEST_HIDDEN)
        picture[low.any(-1) & empty] = colours.HIDDEN
    if seen is not None:
        picture[~seen.any(-1) & empty] = colours.UNSEEN
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
    for item in objects:
        start, tip = arrow_of(item)
        draw_arrow(picture, place(start), place(tip), item.velocity)
    return picture


def arrows_in_view(picture: UInt8[np.ndarray, "h w 3"], objects: Sequence[MovingObject], view: View) -> None:
    """Draw the velocities of what moves into a 3D picture."""
    for item in objects:
        start, tip = view.project(np.stack(arrow_of(item)))
        draw_arrow(picture, start, tip, item.velocity)


def arrow_of(item: MovingObject) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Both ends (m, ego axes) of an object's arrow: from the middle of its upper side, the way of `ARROW_SECONDS`."""
    start = np.add(item.position, (0.0, 0.0, item.size[2] / 2))
    return start, start + np.append(np.multiply(item.velocity, ARROW_SECONDS), 0.0)


def draw_arrow(
    picture: UInt8[np.ndarray, "h w 3"], start: np.ndarray, end: np.ndarray, velocity: tuple[float, float]
) -> None:
    """An arrow between pixels (x, y) in the colour of a velocity's direction, outlined in black and white."""
    length = max(float(np.linalg.norm(end - start)), 1.0)
    tail, tip = ((round(p[0] * 16), round(p[1] * 16)) for p in (start, end))
    inside = tuple(int(c) for c in colours.direction_colours(np.array(velocity)))
    for colour, width in ((colours.PAPER, 6), (colours.INK, 4), (inside, 2)):
        cv2.arrowedLine(picture, tail, tip, colour, width, cv2.LINE_AA, 4, min(0.35, 9 / length))


def _rings(picture: np.ndarray, place: Place, grid: GridSpec, metre: float) -> None:
    """Faint circles every 10 m around the ego vehicle."""
    overlay = picture.copy()
    centre = tuple(round(c) for c in place(np.zeros(2)))
    farthest = np.abs([*grid.lower[:2], *grid.upper[:2]]).max()
    for radius in range(10, int(farthest * 1.5), 10):
        cv2.circle(overlay, centre, round(radius * metre), colours.FAINT, 1, cv2.LINE_AA)
    cv2.addWeighted(overlay, 0.45, picture, 0.55, 0, dst=picture)


def _ego(picture: np.ndarray, place: Place) -> None:
    """The ego vehicle as a pointed box."""
    (x0, y0, _), (x1, y1, _) = EGO_BOX
    nose = x1 - 1.0
    outline = np.array([(x0, y0), (nose, y0), (x1, 0.0), (nose, y1), (x0, y1)])
    corners = np.round(place(outline) * 16).astype(np.int32)
    cv2.fillPoly(picture, [corners], colours.EGO, cv2.LINE_AA, 4)
    cv2.polylines(picture, [corners], True, colours.PAPER, 1, cv2.LINE_AA, 4)
