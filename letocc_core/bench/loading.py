"""What images and scores cost: six JPEGs to the network's input, and RayIoU's rays through a grid."""

import numpy as np

from letocc_core.bench.inference import frame_sets
from letocc_core.bench.parts import Parts, Row, rows_of
from letocc_core.frame import InputConfig
from letocc_core.geometry.calibration import Calibration
from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.rectify import Rectifier
from letocc_core.metrics.ray_iou import Rays
from letocc_core.stream.images import _decode_jpeg, encode
from letocc_core.stream.preprocess import rectifier_of

HEIGHT, WIDTH = 900, 1600  # px of the JPEGs
DISTORTION = (-0.05, 0.02, 0.0, 0.0, 0.0)  # plumb_bob


def measure_images(input: InputConfig, cameras: int, rounds: int, parts: Parts) -> list[Row]:
    """Time of decoding a set of JPEGs, and of undistorting and resizing its images."""
    (frames,) = frame_sets(HEIGHT, WIDTH, cameras, 1)
    files = [np.frombuffer(encode(image, "jpeg"), np.uint8) for image in frames.images]
    K = frames.calibrations[0].K
    calibration = Calibration(WIDTH, HEIGHT, K, "plumb_bob", np.array(DISTORTION))
    rectifier: Rectifier = rectifier_of(input)
    runs = []
    for number in range(rounds + 1):
        parts.seconds.clear()
        with parts.whole():
            for file in files:
                with parts.part("JPEG decoded"):
                    image = _decode_jpeg(file, "bench")
                with parts.part("undistorted, resized"):
                    rectifier(image, calibration, "bench")
        if number:
            runs.append(dict(parts.seconds))
    return rows_of(runs)


def measure_scores(rounds: int, parts: Parts) -> list[Row]:
    """Time of RayIoU's rays from eight places, through an empty grid of nuScenes' size, which each crosses as a whole."""
    grid = GridSpec((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4), 0.4)
    origins = np.stack([np.linspace(-14, 14, 8), np.zeros(8), np.full(8, 1.8)], axis=1)
    runs = []
    for number in range(rounds + 1):
        parts.seconds.clear()
        with parts.whole():
            with parts.part("rays made"):
                rays = Rays.lidar(origins, grid)
            with parts.part(f"{len(rays.origins)} rays cast"):
                rays.cast(np.zeros(grid.shape, bool))
        if number:
            runs.append(dict(parts.seconds))
    return rows_of(runs)
