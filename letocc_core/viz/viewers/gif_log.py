"""A drive as a short animated picture: the images, and below them the voxels in 3D and from above."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from letocc_core.errors import DataError
from letocc_core.stream.types import FrameSet
from letocc_core.viz import colours
from letocc_core.viz.birdseye import arrows_in_view, birdseye, objects_of, voxel_colours
from letocc_core.viz.canvas import Canvas
from letocc_core.viz.overview import left_to_right
from letocc_core.viz.replay_gif import save_gif
from letocc_core.viz.viewers.scene import Scene, reduced, surface
from letocc_core.viz.voxels import View, render_voxels

WIDTH, GAP = 840, 6  # px
HEIGHT = 330  # px of the views below the images
MAP = 264  # px, side of the map
LONGEST = 30  # frames; of longer drives every second, third, ... set is shown
COLOURS = 128
FPS = 5.0


class GifLog:
    """Draws scenes, and writes the animation at the end of the `with` block. Raises `DataError` if there is none to draw."""

    def __init__(self, path: Path):
        self._path = Path(path)
        self._frames: list[np.ndarray] = []
        self._every = 1  # which sets are drawn
        self._count = 0

    def __enter__(self) -> "GifLog":
        return self

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        if kind is None:
            if not self._frames:
                raise DataError(f"{self._path}: no image set with an answer, so there is nothing to animate")
            save_gif(self._path, self._frames, FPS, COLOURS)

    def add(self, scene: Scene) -> None:
        """Draw one set, if it is one that is shown."""
        if self._count % self._every == 0:
            self._frames.append(animation_frame(scene))
            if len(self._frames) > LONGEST:
                self._frames, self._every = self._frames[::2], 2 * self._every
        self._count += 1


def animation_frame(scene: Scene) -> UInt8[np.ndarray, "h w 3"]:
    """One picture: a strip of the images, the voxels from behind the vehicle, and from above."""
    answer, grid = scene.answer, scene.answer.grid
    top = GAP
    strip = None if scene.frame_set is None else _strip(scene.frame_set)
    if strip is not None:
        top += strip.shape[0] + GAP
    page = Canvas(WIDTH, top + HEIGHT + GAP)
    if strip is not None:
        page.picture(strip, GAP, GAP, outline=False)
    seen = surface(answer)
    objects = objects_of(seen, answer.velocity, grid)
    view = View.behind(grid, HEIGHT, WIDTH - MAP - 3 * GAP)
    picture = render_voxels(seen, voxel_colours(answer.velocity, grid), grid, view)
    arrows_in_view(picture, objects, view)
    page.picture(picture, GAP, top)
    left = WIDTH - MAP - GAP
    page.picture(birdseye(seen, answer.velocity, grid, MAP, answer.observed, objects, answer.hidden), left, top)
    page.text("from above", left + 8, top + 6, 13, colours.FAINT)
    page.picture(colours.direction_wheel(34), left, top + MAP + 18, outline=False)
    page.text("what moves, by direction;", left + 44, top + MAP + 20, 12, colours.FAINT)
    page.text("else by height", left + 44, top + MAP + 36, 12, colours.FAINT)
    return page.array()


def _strip(frame_set: FrameSet) -> UInt8[np.ndarray, "h w 3"]:
    """The images side by side, from left to right."""
    small = reduced(frame_set)
    order = left_to_right(small.T_ego_cam)
    shape = next(image.shape for image in small.images if image is not None)
    width = (WIDTH - GAP * (len(order) + 1)) // len(order)
    height = round(width * shape[0] / shape[1])
    page = Canvas(WIDTH - 2 * GAP, height)
    for place, camera in enumerate(order):
        if (image := small.images[camera]) is not None:
            page.picture(image, place * (width + GAP), 0, (width, height), outline=False)
    return page.array()
