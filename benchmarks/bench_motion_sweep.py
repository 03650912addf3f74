"""How much of the velocity of moving things the motion sweep finds by itself, on unseen streets, with no network.

    python benchmarks/bench_motion_sweep.py --streets 6

Compared at the visible voxels that hold something moving, with standing still; and the time of a sweep.
"""

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F

from letocc_core.data.sequences import simulated_street
from letocc_core.data.truth import FREE
from letocc_core.frame import Frame, InputConfig
from letocc_core.geometry import se3
from letocc_core.geometry.grid import GridSpec
from letocc_core.model.motion_sweep import SCALE, MotionSweepConfig, View, sweep_velocity
from letocc_core.model.plane_sweep import grey_half, half_intrinsics
from letocc_core.stream.preprocess import to_frame

SLOWEST = 0.5  # m/s of what counts as moving


def main() -> None:
    """Print one line for each number of past frames."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streets", type=int, default=6, help="streets, from seed 8000 (default: 6)")
    parser.add_argument("--sets", type=int, default=6, help="image sets a street, 0.2 s apart (default: 6)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    grid, input_config = GridSpec(), InputConfig()
    times = np.arange(options.sets) * input_config.history_interval
    streets = [
        simulated_street(8000 + i, "nuscenes", grid, input_config.image_size, times) for i in range(options.streets)
    ]
    print(
        "| past frames | error m/s | standing still m/s | median error | median, still | median direction deg | CPU s |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for past in (1, 2):
        found, true, seconds = [], [], []
        for street in streets:
            frames = [to_frame(sample.frame_set, input_config).unsqueeze() for sample in street]
            for i in range(past, options.sets):
                start = time.process_time()
                velocity = sweep(frames[i], frames[i - past : i][::-1], grid)
                seconds.append(time.process_time() - start)
                truth = street[i].truth
                moving = (np.linalg.norm(truth.velocity, axis=-1) > SLOWEST) & (truth.occupancy != FREE) & truth.visible
                found.append(velocity[moving])
                true.append(truth.velocity[moving])
        print(f"| {past} | {figures(np.concatenate(found), np.concatenate(true))} | {np.mean(seconds):.2f} |")


def sweep(current: Frame, past: list[Frame], grid: GridSpec) -> np.ndarray:
    """Velocities (m/s) [X, Y, Z, 2]."""

    def view(frame: Frame) -> View:
        return View(frame.stamp, grey_half(frame.images), half_intrinsics(frame.K), frame.T_ego_cam, frame.camera_valid)

    T_past_now = [se3.relative(frame.T_world_ego, current.T_world_ego).float() for frame in past]
    out = sweep_velocity(view(current), [view(f) for f in past], T_past_now, grid.coarser(2), MotionSweepConfig())
    fine = F.interpolate(out[:, :2], scale_factor=2, mode="trilinear", align_corners=False)
    return (fine[0] * SCALE).movedim(0, -1).numpy()


def figures(found: np.ndarray, true: np.ndarray) -> str:
    error, still = np.linalg.norm(found - true, axis=-1), np.linalg.norm(true, axis=-1)
    turn = np.arctan2(found[:, 1], found[:, 0]) - np.arctan2(true[:, 1], true[:, 0])
    direction = np.degrees(np.abs(np.arctan2(np.sin(turn), np.cos(turn))))
    columns = (error.mean(), still.mean(), np.median(error), np.median(still), np.median(direction))
    return " | ".join(f"{c:.2f}" for c in columns)


if __name__ == "__main__":
    main()
