"""A picture of what a checkpoint knows of motion in a recording: its depth and its flow beside the cue's.

    python benchmarks/show_motion.py models/kitti_small.safetensors out/kitti_0012 --frames 45 49 53 --out motion.png

A row a frame, for the first camera: the image; the rendered depth; the flow to the next frame as rendered, as it would
be if the world stood still, and as the cue has it; what moves by the residual of the cue (`cues/residual.py`).
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from letocc_core import config as configuration
from letocc_core.checkpoint import load_model
from letocc_core.cues.residual import FlowResidual
from letocc_core.data.build import build
from letocc_core.data.config import BagData, DataConfig
from letocc_core.errors import DataError
from letocc_core.frame import Clip, collate
from letocc_core.losses.optical_flow import rendered_flow
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.rendering.rays import pixel_rays
from letocc_core.rendering.render import render
from letocc_core.viz import colours
from letocc_core.viz.canvas import MARGIN, Canvas
from letocc_core.viz.overview import save_png

SAMPLES, BETA, STRIDE = 192, 0.05, 2  # of the rendering, as in evaluation; px between rays
TILE = 320  # px, width of a picture
HEADINGS = ("image", "rendered depth", "rendered flow", "flow if nothing moved", "flow of the cue", "moves, by the cue")


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--frames", type=int, nargs="+", required=True, help="positions in the recording")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model, input_config, metadata = load_model(options.checkpoint)
    trained = configuration.from_dict(DataConfig, metadata["config"]["data"], str(options.checkpoint)).bag
    data = BagData(bags=(options.bag,), cameras=trained.cameras, cue="dis", masks=FlowResidual())
    clips = build(DataConfig(bag=data, workers=0), input_config, model.config.temporal.frames, model.config.grid)
    position = {clip.current: i for i, (_, clip) in enumerate(clips.clips)}
    absent = [frame for frame in options.frames if frame not in position]
    if absent:
        raise DataError(f"{options.bag}: no clip of frames {absent}; there are {min(position)} to {max(position)}")
    rows = [pictures(model, collate([clips[position[frame]]])) for frame in options.frames]
    save_png(options.out, page(rows, options.frames))


@torch.no_grad()
def pictures(model: LetOccFlow, clip: Clip) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The pictures of one frame, in the order of `HEADINGS`."""
    grid, frame, cue = model.config.grid, clip.current, clip.cues[-1]
    rays = pixel_rays(frame, grid, STRIDE)
    seen = render(model(clip.current, clip.history, history_gradient=False), grid, rays, SAMPLES, BETA, motion=True)
    inside = (rays.valid & (seen.opacity > 0.5))[0, 0].numpy()
    rendered, still = (
        rendered_flow(rays, seen.t, seen.weights, frame, cue, velocity)[0, 0].numpy()
        for velocity in (seen.velocity, None)
    )
    image = (frame.images[0, 0] * 255).byte().permute(1, 2, 0).numpy()
    flow, known = cue.flow[0, 0].permute(1, 2, 0).numpy(), cue.valid[0, 0].numpy()
    moves = frame.movable[0, 0].numpy()
    longest = np.quantile(np.linalg.norm(flow[known], axis=-1), 0.98)
    return [
        image,
        colours.depth_colours(np.where(inside, seen.depth[0, 0].numpy(), np.nan)),
        *(flow_colours(f, where, longest) for f, where in ((rendered, inside), (still, inside), (flow, known))),
        np.where(moves[..., None], (image * 0.4 + np.array(colours.EGO) * 0.6).astype(np.uint8), image),
    ]


def flow_colours(
    flow: Float[np.ndarray, "h w 2"], known: Bool[np.ndarray, "h w"], longest: float
) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of flow (px): hue by its direction, the stronger the longer it is, full at `longest`."""
    strength = np.clip(np.linalg.norm(flow, axis=-1) / longest, 0, 1)[..., None]
    mixed = strength * colours.direction_colours(flow) + (1 - strength) * 255
    return np.where(known[..., None], mixed, colours.UNSEEN).astype(np.uint8)


def page(rows: list[list[np.ndarray]], frames: list[int]) -> UInt8[np.ndarray, "h w 3"]:
    """All pictures; a column a frame."""
    height = round(TILE * rows[0][0].shape[0] / rows[0][0].shape[1])
    label = 170
    out = Canvas(2 * MARGIN + label + len(rows) * (TILE + 6), 2 * MARGIN + 20 + len(HEADINGS) * (height + 6))
    for column, (tiles, frame) in enumerate(zip(rows, frames, strict=True)):
        x = MARGIN + label + column * (TILE + 6)
        out.text(f"frame {frame}", x, MARGIN + 14, anchor="ls")
        for row, tile in enumerate(tiles):
            enlarged = cv2.resize(tile, (TILE, height), interpolation=cv2.INTER_NEAREST)
            out.picture(enlarged, x, MARGIN + 20 + row * (height + 6))
    for row, words in enumerate(HEADINGS):
        out.text(words, MARGIN, MARGIN + 20 + row * (height + 6) + height // 2, 15, colours.FAINT, "lm")
    return out.array()


if __name__ == "__main__":
    main()
