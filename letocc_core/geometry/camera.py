"""Pinhole cameras in the optical frame (z forward, x right, y down). Pixel (0, 0) is the centre of the first pixel."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from letocc_core.geometry import se3

MIN_DEPTH = 0.1  # m, nearer points count as behind the camera


def project(
    points: Float[Tensor, "*batch n 3"], K: Float[Tensor, "*batch 3 3"]
) -> tuple[Float[Tensor, "*batch n 2"], Float[Tensor, "*batch n"]]:
    """Pixels (u, v) and depths z (m) of points in the camera's optical frame.

    Points nearer than `MIN_DEPTH` are divided by `MIN_DEPTH`: test the depth before using the pixel.
    """
    depth = points[..., 2]
    pixels = points @ K.transpose(-1, -2)
    return pixels[..., :2] / depth.clamp(min=MIN_DEPTH)[..., None], depth


def project_lattice(
    axes: Sequence[Float[Tensor, "_"]], K: Float[Tensor, "*batch 3 3"], T_ego_cam: Float[Tensor, "*batch 4 4"]
) -> tuple[Float[Tensor, "*batch x y z 2"], Float[Tensor, "*batch x y z"]]:
    """Pixels and depths, as of `project`, of the points with every combination of x, y and z (m, ego axes).

    In homogeneous coordinates each axis adds its share, so that thousands of points cost a few additions each.
    """
    P = (K @ se3.inverse(T_ego_cam)[..., :3, :]).movedim((-2, -1), (0, 1))[..., None]  # [3, 4, *batch, 1]
    x, y, z = (P[:, i] * axis for i, axis in enumerate(axes))
    points = x[..., :, None, None] + (y[..., :, None] + (z + P[:, 3])[..., None, :])[..., None, :, :]
    depth = points[2]
    return (points[:2] / depth.clamp(min=MIN_DEPTH)).movedim(0, -1), depth


def pinhole_intrinsics(height: int, width: int, fov: float) -> Float[np.ndarray, "3 3"]:
    """Intrinsics (px) of a pinhole camera that sees `fov` degrees horizontally, its principal point in the middle."""
    focal = 0.5 / math.tan(math.radians(fov) / 2) * width
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def in_image(pixels: Float[Tensor, "*n 2"], depth: Float[Tensor, "*n"], height: int, width: int) -> Tensor:
    """Whether a projection lies in front of the camera and on a pixel of the image (half a pixel of border counts)."""
    u, v = pixels[..., 0], pixels[..., 1]
    return (depth > MIN_DEPTH) & (u >= -0.5) & (u <= width - 0.5) & (v >= -0.5) & (v <= height - 0.5)


def at_nearest(images: Shaped[Tensor, "B N H W"], pixels: Float[Tensor, "B N *p 2"]) -> Shaped[Tensor, "B N *p"]:
    """Entries of images, such as labels, at the nearest pixels (u, v); beyond the border, those of the border."""
    height, width = images.shape[-2:]
    u, v = pixels.round().long().unbind(-1)
    index = v.clamp(0, height - 1) * width + u.clamp(0, width - 1)
    return images.flatten(2).gather(2, index.flatten(2)).view(index.shape)


def to_unit(pixels: Float[Tensor, "*n 2"], height: int, width: int) -> Float[Tensor, "*n 2"]:
    """Pixels (u, v) as grid_sample coordinates in [-1, 1] (`align_corners=False`)."""
    size = torch.as_tensor([width, height], dtype=pixels.dtype, device=pixels.device)
    return pixels * (2 / size) + (1 / size - 1)


def unit_intrinsics(K: Float[Tensor, "*batch 3 3"], height: int, width: int) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics whose image coordinates are those of `to_unit`: from -1 to 1 between the borders of the image."""
    return K.new_tensor([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]]) @ K


def ray_directions(pixels: Float[Tensor, "*batch n 2"], K: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch n 3"]:
    """Directions in the optical frame with z = 1, so that a multiple t of one has depth t (m)."""
    x = (pixels[..., 0] - K[..., None, 0, 2]) / K[..., None, 0, 0]
    y = (pixels[..., 1] - K[..., None, 1, 2]) / K[..., None, 1, 1]
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def project_lidar(
    points: Float[np.ndarray, "P 3"],
    K: Float[np.ndarray, "3 3"],
    T_ego_cam: Float[np.ndarray, "4 4"],
    height: int,
    width: int,
) -> Float[np.ndarray, "height width"]:
    """Sparse depth (m along z of the optical frame) of LiDAR returns (m, ego axes); NaN where a pixel has none.

    Each return counts for the pixel nearest to its projection; the nearest of several returns wins.
    """
    T_cam_ego = np.linalg.inv(T_ego_cam)
    in_camera = points @ T_cam_ego[:3, :3].T + T_cam_ego[:3, 3]
    in_camera = in_camera[in_camera[:, 2] > MIN_DEPTH]  # also leaves out rows of NaN
    depth = in_camera[:, 2]
    u, v = np.rint((in_camera @ K.T)[:, :2] / depth[:, None]).astype(np.int64).T
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    out = np.full((height, width), np.inf, np.float32)
    np.minimum.at(out, (v[inside], u[inside]), depth[inside].astype(np.float32))
    return np.where(np.isinf(out), np.float32(np.nan), out)


def scale_intrinsics(K: np.ndarray, scale_x: float, scale_y: float) -> np.ndarray:
    """Intrinsics after resizing an image by (scale_x, scale_y), with pixel centres at whole numbers."""
    out = np.array(K, np.float64)
    out[0, 0] *= scale_x
    out[0, 1] *= scale_x
    out[1, 1] *= scale_y
    out[0, 2] = (K[0, 2] + 0.5) * scale_x - 0.5
    out[1, 2] = (K[1, 2] + 0.5) * scale_y - 0.5
    return out


def covering_size(h: int, w: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of an h x w image scaled uniformly until it covers height x width."""
    scale = max(height / h, width / w)
    return max(height, round(h * scale)), max(width, round(w * scale))


def resize_and_crop(
    image: np.ndarray, K: np.ndarray, height: int, width: int, interpolation: int = cv2.INTER_AREA
) -> tuple[np.ndarray, np.ndarray]:
    """Fit an image [h, w(, c)] to height x width and its intrinsics with it: the one place where either changes.

    Scales uniformly until the target is covered, then crops: centred horizontally, and from the top (sky) vertically.
    Returns the image and its 3 x 3 float64 intrinsics. Use `cv2.INTER_NEAREST` for labels and depth.
    """
    h, w = image.shape[:2]
    new_h, new_w = covering_size(h, w, height, width)
    if (new_h, new_w) != (h, w):
        image = cv2.resize(image, (new_w, new_h), interpolation=interpolation)
    left, top = (new_w - width) // 2, new_h - height
    return image[top : top + height, left : left + width], fitted_intrinsics(K, h, w, height, width)


def fitted_intrinsics(K: Float[np.ndarray, "3 3"], h: int, w: int, height: int, width: int) -> Float[np.ndarray, "3 3"]:
    """Intrinsics (px) of an h x w image once `resize_and_crop` has fitted it to height x width."""
    new_h, new_w = covering_size(h, w, height, width)
    K = scale_intrinsics(K, new_w / w, new_h / h)
    K[0, 2] -= (new_w - width) // 2
    K[1, 2] -= new_h - height
    return K
