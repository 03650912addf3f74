"""How good the votes of rays are (`letocc_core/cues/votes.py`), against the truth of simulated streets:

    python benchmarks/bench_votes.py --streets 4
    python benchmarks/bench_votes.py --streets 4 --source lidar

Of the voxels that a camera or the LiDAR sees: how many have votes; what a share of votes for matter is worth (calibration);
and precision, recall and IoU if a share above `--share` counts as matter, also of what stands on the ground, by distance and of what moves.
"""

import argparse
import math
from itertools import pairwise

import numpy as np
import torch

from letocc_core.cues import votes
from letocc_core.cues.votes import VotesConfig
from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.street import SimFrame
from letocc_core.data.simulator.varied.street import open_street
from letocc_core.data.truth import CLASS_NAMES, FREE, GROUND_CLASSES, MOVABLE_CLASSES
from letocc_core.frame import Frame
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics.motion import MOVING_SPEED
from letocc_core.processes import keep_freed_memory

GRID = GridSpec()
FRAMES, INTERVAL, CURRENTS = 17, 0.2, (2, 5, 8, 11, 14)
KNOWN = 0.2  # votes, from which a voxel has some
RINGS = (0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 40.0)  # m


def frame_of(rendered: SimFrame) -> Frame:
    return Frame(
        stamp=torch.tensor(rendered.stamp_ns),
        images=torch.from_numpy(rendered.images).permute(0, 3, 1, 2).float() / 255,
        camera_valid=torch.from_numpy(rendered.camera_valid),
        K=torch.from_numpy(rendered.K).float(),
        T_ego_cam=torch.from_numpy(rendered.T_ego_cam).float(),
        T_world_ego=torch.from_numpy(rendered.T_world_ego),
        movable=torch.from_numpy(rendered.movable),
        own=torch.from_numpy(rendered.own),
        lidar=None if rendered.lidar is None else torch.from_numpy(rendered.lidar).float(),
        lidar_origin=torch.from_numpy(rendered.lidar_origin).float(),
    )


def of_street(seed: int, variety: bool, config: VotesConfig) -> tuple[np.ndarray, ...]:
    """Votes, labels, visibility and what moves [n, ...] of some frames of a street."""
    street = open_street(seed, Rig.load("nuscenes").resized(128, 224), GRID, variety=variety)
    frames = [
        frame_of(street.render(i * INTERVAL, truth=False, lidar=config.source != "camera")) for i in range(FRAMES)
    ]
    stamps = [int(f.stamp) for f in frames]
    instants = [
        votes.instant(
            frame, [frames[j] for j in votes.neighbours(stamps, i, config)], config, frames[:i] + frames[i + 1 :]
        )
        for i, frame in enumerate(frames)
    ]
    truths = [street.render(i * INTERVAL, lidar=False).truth for i in CURRENTS]
    cast = [votes.cast(instants, instants[i], GRID, config) for i in CURRENTS]
    moves = [(t.occupancy != FREE) & (np.linalg.norm(t.velocity, axis=-1) > MOVING_SPEED) for t in truths]
    return (
        np.stack(cast),
        np.stack([t.occupancy for t in truths]),
        np.stack([t.visible for t in truths]),
        np.stack(moves),
    )


def scores(true: np.ndarray, said: np.ndarray) -> str:
    both = (true & said).sum()
    return (
        f"{both / max((true | said).sum(), 1):.3f} | {both / max(said.sum(), 1):.3f} | {both / max(true.sum(), 1):.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streets", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=8000)
    parser.add_argument("--variety", action="store_true", help="varied streets")
    parser.add_argument("--source", choices=("camera", "lidar", "both"), default="camera")
    parser.add_argument("--share", type=float, default=0.35)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    config = VotesConfig(source=options.source)
    seeds = range(options.first_seed, options.first_seed + options.streets)
    streets = [of_street(seed, options.variety, config) for seed in seeds]
    cast, labels, visible, moves = (np.concatenate(column) for column in zip(*streets, strict=True))
    total = cast.sum(1)
    known, share = visible & (total > KNOWN), cast[:, 1] / np.maximum(total, 1e-6)
    matter, said = labels != FREE, share > options.share
    standing = ~np.isin(labels, [CLASS_NAMES.index(c) for c in GROUND_CLASSES])
    layers = np.arange(GRID.shape[2]) > np.floor((0.2 - GRID.lower[2]) / GRID.voxel_size)
    print(f"votes in {known.sum() / visible.sum():.2f} of the voxels that a sensor sees\n")
    print("| voxels with votes | IoU | precision | recall |\n| --- | ---: | ---: | ---: |")
    print(f"| all | {scores(matter[known], said[known])} |")
    above = known & layers
    print(f"| above the road's layer | {scores((matter & standing)[above], said[above])} |")
    ring = np.hypot(*np.meshgrid(*[a.numpy() for a in GRID.axes()[:2]], indexing="ij"))[None, :, :, None]
    for low, high in pairwise(RINGS):
        there = known & (ring >= low) & (ring < high)
        print(f"| {low:g} to {high:g} m | {scores(matter[there], said[there])} |")
    of_moving = known & moves
    for name in MOVABLE_CLASSES:
        there = of_moving & (labels == CLASS_NAMES.index(name))
        print(f"| moving: {name}, {there.sum()} voxels | | | {said[there].mean() if there.any() else math.nan:.3f} |")
    print("\n| share of votes for matter | voxels | matter in truth |\n| --- | ---: | ---: |")
    for low in np.arange(0, 1, 0.1):
        there = known & (share >= low) & (share <= low + 0.1)
        print(f"| {low:.1f} to {low + 0.1:.1f} | {there.sum()} | {matter[there].mean():.2f} |")


if __name__ == "__main__":
    main()
