"""What images and scores cost: six JPEGs to the network's input, and RayIoU's rays through grids."""

import numpy as np

from letocc_core.bench.inference import frame_sets
from letocc_core.bench.parts import Parts, Row, rows_of, timed_runs
from letocc_core.frame import InputConfig
from letocc_core.geometry.calibration import Calibration
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics.ray_iou import Rays
from letocc_core.stream import images
from letocc_core.stream.preprocess import rectifier_of

HEIGHT, WIDTH = 900, 1600  # px of the JPEGs
DISTORTION = (-0.05, 0.02, 0.0, 0.0, 0.0)  # plumb_bob
NUSCENES = GridSpec((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4), 0.4)


def measure_images(input: InputConfig, cameras: int, rounds: int, parts: Parts) -> list[Row]:
    """Time of decoding a set of JPEGs, and of undistorting and resizing its images."""
    frames = next(frame_sets(HEIGHT, WIDTH, cameras))
    files = [images.encode(image, "jpeg") for image in frames.images if image is not None]
    first = frames.calibrations[0]
    assert first is not None
    calibration = Calibration(WIDTH, HEIGHT, first.K, np.array(DISTORTION), "plumb_bob")
    rectifier = rectifier_of(input)

    def step() -> None:
        for file in files:
            with parts.part("JPEG decoded"):
                image = images.decode_compressed(file, "bench", "jpeg")
            with parts.part("undistorted, resized"):
                rectifier(image, calibration, "bench")

    return rows_of(timed_runs(parts, step, rounds))


def measure_scores(rounds: int, parts: Parts) -> list[Row]:
    """Time of RayIoU's rays from eight places: a street with walls stops them, an empty grid none of them."""
    origins = np.stack([np.linspace(-14, 14, 8), np.zeros(8), np.full(8, 1.8)], axis=1)
    height = NUSCENES.centres()[..., 2].numpy()
    across = np.abs(NUSCENES.centres()[..., 1].numpy())
    street = (height < 0) | ((across > 10) & (height < 3))

    def step() -> None:
        with parts.part("rays made"):
            rays = Rays.lidar(origins, NUSCENES)
        with parts.part(f"{len(rays.origins)} rays, in a street"):
            rays.cast(street)
        with parts.part(f"{len(rays.origins)} rays, where nothing is"):
            rays.cast(np.zeros(NUSCENES.shape, bool))

    return rows_of(timed_runs(parts, step, rounds))
