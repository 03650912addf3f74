"""The colours of every picture; they stay apart for colour-blind readers (Okabe-Ito, viridis, inferno)."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

INK = (34, 40, 49)  # text
FAINT = (120, 128, 138)  # secondary text
PAPER = (255, 255, 255)  # background of a page
SKY = (236, 241, 246)  # background of a 3D view
UNSEEN = (214, 218, 224)  # what no camera looks at
HIDDEN = (231, 233, 238)  # empty, it is believed, behind a surface
EMPTY = (247, 248, 250)  # seen and empty
GROUND = (186, 178, 165)  # road, kerbs, ground
EGO = (213, 94, 0)  # the ego vehicle

LOWEST, HIGHEST = 0.3, 4.0  # m above the road: ends of the height scale; lower is ground
STANDING, FASTEST = 0.5, 10.0  # m/s: ends of the speed scale; slower stands still
NEAREST, FARTHEST = 2.0, 40.0  # m: ends of the depth scale, which is logarithmic


def height_colours(height: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n 3"]:
    """RGB of heights above the road (m): `GROUND` below `LOWEST`, then viridis."""
    share = (np.asarray(height, np.float64) - LOWEST) / (HIGHEST - LOWEST)
    colours = _lookup(cv2.COLORMAP_VIRIDIS, share * 0.92 + 0.08)
    colours[share < 0] = GROUND
    return colours


def faint(colours: UInt8[np.ndarray, "*n 3"]) -> UInt8[np.ndarray, "*n 3"]:
    """The colours of what is hidden: a third of their own, the rest paper."""
    return np.rint(colours / 3 + np.array(PAPER) * 2 / 3).astype(np.uint8)


def depth_colours(depth: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n 3"]:
    """RGB of depths (m) on a logarithmic scale, near = bright; `UNSEEN` where not finite or not positive."""
    known = np.isfinite(depth) & (depth > 0)
    share = np.log(np.where(known, depth, NEAREST) / NEAREST) / np.log(FARTHEST / NEAREST)
    colours = _lookup(cv2.COLORMAP_INFERNO, 0.95 - 0.87 * np.clip(share, 0, 1))
    colours[~known] = UNSEEN
    return colours


def speed_colours(speed: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n 3"]:
    """RGB of speeds (m/s): `GROUND` for what stands, then inferno up to `FASTEST`."""
    share = np.asarray(speed, np.float64) / FASTEST
    colours = _lookup(cv2.COLORMAP_INFERNO, share.clip(0, 1) * 0.55 + 0.35)
    colours[np.asarray(speed) < STANDING] = GROUND
    return colours


def probability_colours(probability: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n 3"]:
    """RGB of probabilities in [0, 1], viridis."""
    return _lookup(cv2.COLORMAP_VIRIDIS, np.asarray(probability, np.float64))


def direction_colours(velocity: Float[np.ndarray, "*n 2"]) -> UInt8[np.ndarray, "*n 3"]:
    """RGB of velocities (vx, vy in ego axes) by their direction alone: forward red, left yellow-green, back cyan."""
    angle = np.arctan2(velocity[..., 1], velocity[..., 0])
    hues = np.arange(180, dtype=np.uint8)  # OpenCV's: half degrees
    hsv = np.stack([hues, np.full_like(hues, 235), np.full_like(hues, 240)], axis=-1)
    return cv2.cvtColor(hsv[:, None], cv2.COLOR_HSV2RGB)[(np.degrees(angle) / 2).astype(int) % 180, 0]


def direction_wheel(size: int, background: tuple[int, int, int] = PAPER) -> UInt8[np.ndarray, "h w 3"]:
    """A disc that shows the colour of each direction, forward up and left to the left."""
    y, x = (size - 1) / 2 - np.mgrid[:size, :size]  # forward is up, left is to the left
    wheel = direction_colours(np.stack([y, x], axis=-1))
    wheel[np.hypot(x, y) > size / 2] = background
    return wheel


def _lookup(colormap: int, share: np.ndarray) -> np.ndarray:
    index = np.clip(share * 255, 0, 255).astype(np.uint8)
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], colormap)[:, 0, ::-1]
    return table[index]
