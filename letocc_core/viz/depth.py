"""Depth as the network sees it, for a look during training."""

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from letocc_core.frame import Frame
from letocc_core.geometry.grid import GridSpec
from letocc_core.model.fields import Fields
from letocc_core.rendering.rays import pixel_rays
from letocc_core.rendering.render import render

NEAREST, FARTHEST = 1.0, 40.0  # m, ends of the colour scale (logarithmic)


@torch.no_grad()
def depth_strip(
    fields: Fields, grid: GridSpec, frame: Frame, beta: float, samples: int = 96
) -> UInt8[np.ndarray, "h w 3"]:
    """The first sample's images above the depth rendered from its fields, camera beside camera."""
    rays = pixel_rays(frame, grid, stride=2)
    depth = render(fields, grid, rays, samples, beta).depth[0].cpu().numpy()
    images = (frame.images[0].permute(0, 2, 3, 1).cpu().numpy() * 255).astype(np.uint8)
    height, width = depth.shape[1:]
    top = np.concatenate([cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images], axis=1)
    return np.concatenate([top, colour_depth(np.concatenate(list(depth), axis=1))], axis=0)


def colour_depth(depth: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Depth (m) in colours, near is bright: logarithmic from 1 to 40 m."""
    scaled = np.log(np.clip(depth, NEAREST, FARTHEST) / NEAREST) / np.log(FARTHEST / NEAREST)
    coloured = cv2.applyColorMap(((1 - scaled) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    return np.ascontiguousarray(coloured[..., ::-1])
