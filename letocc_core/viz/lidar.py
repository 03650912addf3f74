"""A LiDAR sweep in the images of the same instant: shows at a glance whether poses and calibrations fit together."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from letocc_core.errors import DataError
from letocc_core.frame import Frame
from letocc_core.geometry.camera import project_lidar
from letocc_core.viz import colours
from letocc_core.viz.canvas import MARGIN, Canvas
from letocc_core.viz.overview import left_to_right

COLUMNS = 3  # images in a row
HEAD = 26  # px above an image, for its name


def sweep_picture(frame: Frame, cameras: Sequence[str], title: str) -> UInt8[np.ndarray, "h w 3"]:
    """The images of one frame (no batch), darkened, with each return as a dot coloured by its depth.

    Args:
        cameras: names, in the order of the images.

    Raises `DataError` if the frame has no sweep.
    """
    if frame.lidar is None:
        raise DataError(f"{title}: no LiDAR sweep to draw; choose another frame, or a source with LiDAR")
    images = (frame.images * 160).byte().permute(0, 2, 3, 1).numpy()  # darker, so that the dots stand out
    height, width = images.shape[1:3]
    order = left_to_right(frame.T_ego_cam.double().numpy())
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    page = Canvas(MARGIN + columns * (width + MARGIN), 2 * MARGIN + 60 + rows * (height + HEAD + MARGIN))
    page.text(title, MARGIN, MARGIN, 20)
    for place, n in enumerate(order):
        x = MARGIN + place % columns * (width + MARGIN)
        y = MARGIN + 40 + place // columns * (height + HEAD + MARGIN)
        page.text(cameras[n], x, y, 15, colours.FAINT)
        page.picture(_with_dots(images[n].copy(), frame, frame.lidar, n), x, y + HEAD)
    depths = np.geomspace(colours.NEAREST, colours.FARTHEST, 256)
    marks = {float(np.searchsorted(depths, m) / 256): f"{m} m" for m in (2, 5, 10, 20, 40)}
    page.scale(colours.depth_colours(depths), MARGIN, page.array().shape[0] - MARGIN - 20, 360, marks)
    return page.array()


def _with_dots(image: np.ndarray, frame: Frame, lidar: Float[Tensor, "P 3"], camera: int) -> np.ndarray:
    height, width = image.shape[:2]
    K, T = frame.K[camera].double().numpy(), frame.T_ego_cam[camera].double().numpy()
    depth = project_lidar(lidar.numpy(), K, T, height, width)
    place = np.argwhere(np.isfinite(depth))
    nearest_last = place[np.argsort(-depth[tuple(place.T)])]
    table = colours.depth_colours(depth[tuple(nearest_last.T)])
    for (v, u), colour in zip(nearest_last, table, strict=True):
        cv2.circle(image, (int(u), int(v)), max(1, width // 500), colour.tolist(), -1, cv2.LINE_AA)
    return image
