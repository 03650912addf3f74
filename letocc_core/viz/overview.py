"""One moment on a page: what the cameras see, depth, occupancy from above and in 3D, computed beside the truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from letocc_core.stream.types import OccFlow
from letocc_core.viz import colours
from letocc_core.viz.birdseye import ARROW_SECONDS, arrows_in_view, birdseye, objects_of, voxel_colours
from letocc_core.viz.canvas import MARGIN, Canvas
from letocc_core.viz.voxels import View, render_voxels

WIDTH = 1800  # px of the page
LABEL = 112  # px left of the rows, for their names
LARGEST_TILE = 420  # px, width of one camera's picture


@dataclass(frozen=True, eq=False)
class Moment:
    """What is shown of one image set. N cameras; what is None is left out."""

    output: OccFlow
    images: Sequence[UInt8[np.ndarray, "_ _ 3"] | None]  # RGB
    cameras: Sequence[str]  # names
    depth: Sequence[Float[np.ndarray, "_ _"] | None] | None = None  # m, computed
    true_depth: Sequence[Float[np.ndarray, "_ _"] | None] | None = None  # m, NaN or inf = unknown
    true_occupied: Bool[np.ndarray, "X Y Z"] | None = None
    true_velocity: Float[np.ndarray, "X Y Z 2"] | None = None  # m/s
    true_seen: Bool[np.ndarray, "X Y Z"] | None = None  # voxels that the truth knows about
    order: Sequence[int] = field(default_factory=tuple)  # cameras from left to right; empty: as they come


def overview(moment: Moment, title: str, caption: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """The page as an image."""
    tile = _tile_size(moment)
    rows = _camera_rows(moment)
    grid = moment.output.grid
    square = 540
    map_width = round(square * grid.shape[1] / max(grid.shape[:2]))
    map_height = round(square * grid.shape[0] / max(grid.shape[:2]))
    volumes = _volumes(moment)
    top = 96
    panels_top = top + len(rows) * (tile[1] + 6) + 112
    height = panels_top + len(volumes) * (map_height + 58) + 50
    page = Canvas(WIDTH, height)
    page.text(title, MARGIN, MARGIN, 30)
    page.text(caption, MARGIN, MARGIN + 38, 16, colours.FAINT)
    _draw_cameras(page, moment, rows, tile, top)
    for i, (name, occupied, velocity, seen, hidden) in enumerate(volumes):
        y = panels_top + i * (map_height + 58)
        page.text(name, MARGIN, y - 8, 18, anchor="ls")
        view = View.behind(grid, map_height, WIDTH - 3 * MARGIN - map_width)
        objects = objects_of(occupied, velocity, grid)
        picture = render_voxels(occupied, voxel_colours(velocity, grid, hidden), grid, view)
        arrows_in_view(picture, objects, view)
        page.picture(picture, MARGIN, y)
        x = WIDTH - MARGIN - map_width
        page.text("from above, forward is up", x, y - 8, 14, colours.FAINT, "ls")
        page.picture(birdseye(occupied, velocity, grid, square, seen, objects, hidden), x, y)
        ten_metres = round(10 / grid.voxel_size * square / max(grid.shape[:2]))
        page.length_bar(x + map_width - 12, y + map_height - 12, ten_metres, "10 m")
    _legend(page, height - 52)
    return page.array()


def save_png(path: Path, image: UInt8[np.ndarray, "h w 3"]) -> Path:
    """Write an RGB image; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    return path


def left_to_right(T_ego_cam: Float[np.ndarray, "N 4 4"]) -> list[int]:
    """Cameras by where they look: from the left rear over the front to the right rear, the rear one last."""
    yaw = np.arctan2(T_ego_cam[:, 1, 2], T_ego_cam[:, 0, 2])
    rear = np.abs(yaw) > np.radians(150)
    return sorted(range(len(yaw)), key=lambda i: (rear[i], -yaw[i]))


def _volumes(moment: Moment) -> list[tuple]:
    """Name, occupied, velocity, looked-at and hidden voxels of what is drawn."""
    output = moment.output
    out: list[tuple] = [("Computed from the images", output.occupied, output.velocity, output.observed, output.hidden)]
    if moment.true_occupied is not None:
        still = np.zeros((*output.grid.shape, 2), np.float32)
        velocity = still if moment.true_velocity is None else moment.true_velocity
        out.append(("Truth", moment.true_occupied, velocity, moment.true_seen, None))
    return out


def _camera_rows(moment: Moment) -> list[tuple[str, Sequence[np.ndarray | None]]]:
    """Names and RGB pictures of the rows of camera tiles."""
    rows: list[tuple[str, Sequence[np.ndarray | None]]] = [("images", moment.images)]
    for name, maps in (("depth,\ncomputed", moment.depth), ("depth,\ntrue", moment.true_depth)):
        if maps is not None:
            rows.append((name, [None if m is None else colours.depth_colours(m) for m in maps]))
    return rows


def _tile_size(moment: Moment) -> tuple[int, int]:
    count = len(moment.images)
    width = min((WIDTH - 2 * MARGIN - LABEL - 6 * (count - 1)) // count, LARGEST_TILE)
    shape = next(image.shape for image in moment.images if image is not None)
    return width, round(width * shape[0] / shape[1])


def _draw_cameras(page: Canvas, moment: Moment, rows: list, tile: tuple[int, int], top: int) -> None:
    order = moment.order or range(len(moment.images))
    for i, (name, pictures) in enumerate(rows):
        y = top + 22 + i * (tile[1] + 6)
        page.text(name, MARGIN, y + tile[1] // 2, 16, colours.FAINT, "lm")
        for column, camera in enumerate(order):
            x = MARGIN + LABEL + column * (tile[0] + 6)
            if i == 0:
                page.text(moment.cameras[camera].removeprefix("camera_").replace("_", " "), x, y - 6, 15, anchor="ls")
            if pictures[camera] is None:
                page.text("no image", x + tile[0] // 2, y + tile[1] // 2, 15, colours.FAINT, "mm")
            else:
                page.picture(pictures[camera], x, y, tile)
    if len(rows) > 1:
        _depth_scale(page, MARGIN + LABEL, top + 22 + len(rows) * (tile[1] + 6) + 4)


def _depth_scale(page: Canvas, x: int, y: int) -> None:
    near, far = colours.NEAREST, colours.FARTHEST
    marks = {float(np.log(d / near) / np.log(far / near)): f"{d:g} m" for d in (near, 5, 10, 20, far)}
    page.scale(colours.depth_colours(near * (far / near) ** np.linspace(0, 1, 256)), x + 20, y, 300, marks)
    page.swatch(colours.UNSEEN, "beyond the box, or sky", x + 370, y)


def _legend(page: Canvas, y: int) -> None:
    low, high = colours.LOWEST, colours.HIGHEST
    page.text("height above the road", MARGIN, y + 6, 14, colours.FAINT, "lm")
    marks = {(h - low) / (high - low): f"{h:g} m" for h in (1, 2, 3, high)}
    page.scale(colours.height_colours(np.linspace(low, high, 256)), 200, y, 260, marks)
    x = page.swatch(colours.GROUND, "ground", 520, y)
    x = page.swatch(colours.EMPTY, "empty", x, y)
    x = page.swatch(colours.HIDDEN, "hidden (matter: faint)", x, y)
    x = page.swatch(colours.UNSEEN, "not looked at", x, y)
    x = page.swatch(colours.EGO, "ego vehicle", x, y)
    wheel = colours.direction_wheel(34)
    page.picture(wheel, x, y - 10, outline=False)
    page.text(
        f"what moves, by direction; arrows: the way of {ARROW_SECONDS:g} s", x + 42, y + 7, 14, colours.FAINT, "lm"
    )
