"""A sequence as an animated picture: the images, what is computed from them, and the truth from above."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from letocc_core.errors import DataError
from letocc_core.viz import colours
from letocc_core.viz.birdseye import arrows_in_view, birdseye, objects_of, voxel_colours
from letocc_core.viz.canvas import Canvas
from letocc_core.viz.overview import Moment
from letocc_core.viz.voxels import View, render_voxels

WIDTH, GAP = 960, 8  # px
MAP = 300  # px, side of the maps


def write_gif(path: Path, moments: Iterable[Moment], title: str, fps: float = 5.0) -> Path:
    """Write an animation that repeats for ever; one frame a moment.

    Raises `DataError` if there is no moment to show.
    """
    frames = [gif_frame(m, title) for m in moments]
    if not frames:
        raise DataError(f"{path}: no output to animate; expected at least one image set with its result")
    return save_gif(path, frames, fps)


def save_gif(path: Path, pictures: Sequence[UInt8[np.ndarray, "h w 3"]], fps: float, colours: int = 256) -> Path:
    """Write pictures of one size as an animation that repeats for ever, in one palette; makes the folder."""
    from PIL import Image

    frames = [Image.fromarray(picture) for picture in pictures]
    palette = frames[len(frames) // 2].quantize(colours, dither=Image.Dither.NONE)
    frames = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0, optimize=True)
    return path


def gif_frame(moment: Moment, title: str) -> UInt8[np.ndarray, "h w 3"]:
    """Images in a strip; below it the voxels in 3D, and from above computed and true."""
    output, grid = moment.output, moment.output.grid
    order = list(moment.order or range(len(moment.images)))
    count = len(order)
    shape = next(image.shape for image in moment.images if image is not None)
    tile = min((WIDTH - GAP * (count + 1)) // count, 420)
    tile_height = round(tile * shape[0] / shape[1])
    body = 34 + tile_height + GAP
    page = Canvas(WIDTH, body + 2 * MAP + 3 * GAP + 20)
    page.text(title, GAP, 17, 17, anchor="lm")
    page.text(f"{output.stamp_ns * 1e-9 % 1000:.1f} s", WIDTH - GAP, 17, 15, colours.FAINT, "rm")
    for column, camera in enumerate(order):
        if (image := moment.images[camera]) is not None:
            page.picture(image, GAP + column * (tile + GAP), 34, (tile, tile_height))
    maps: list[tuple] = [("from above, computed", output.occupied, output.velocity, output.observed, output.hidden)]
    if moment.true_occupied is not None:
        velocity = np.zeros_like(output.velocity) if moment.true_velocity is None else moment.true_velocity
        maps.append(("from above, truth", moment.true_occupied, velocity, moment.true_seen, None))
    x = WIDTH - GAP - MAP
    for i, (name, occupied, velocity, seen, hidden) in enumerate(maps):
        y = body + i * (MAP + GAP + 18)
        objects = objects_of(occupied, velocity, grid)
        page.picture(birdseye(occupied, velocity, grid, MAP, seen, objects, hidden), x, y)
        page.text(name, x, y + MAP + 3, 13, colours.FAINT)
    view = View.behind(grid, 2 * MAP + GAP + 18, x - 2 * GAP)
    picture = render_voxels(
        output.occupied, voxel_colours(output.velocity, grid, output.hidden), grid, view, antialias=1
    )
    arrows_in_view(picture, objects_of(output.occupied, output.velocity, grid), view)
    page.picture(picture, GAP, body)
    page.picture(colours.direction_wheel(34, colours.SKY), GAP + 8, body + 8, outline=False)
    return page.array()
