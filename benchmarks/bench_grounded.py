"""How well masks and optical flow tell the motion of objects on the ground, without a network: against the truth.

    python benchmarks/bench_grounded.py --streets 8

For pixels of movable objects inside the box, by their true speed, and for those that move by their depth: the share
whose place is known by where they stand, and of these the shares that are said to move and to stand still, the rest being
left open; of those that are said to move the median and mean error of the velocity, and the median of the speed over the
true one.
"""

import argparse
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import torch
from jaxtyping import Float

from letocc_core.cues.flow import Dis, decode, trusted_flow
from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.street import SimFrame, Street
from letocc_core.data.truth import FREE, Truth
from letocc_core.frame import FlowCue, Frame
from letocc_core.geometry import camera
from letocc_core.geometry.grid import GridSpec
from letocc_core.losses.grounded_motion import grounded_motion
from letocc_core.metrics.frame_score import velocity_at

SPEEDS = (0.0, 0.5, 2.0, 4.0, 8.0, 20.0)  # m/s, edges of the rows
DEPTHS = (0.0, 5.0, 9.0, 13.0, 17.0, 30.0)  # m
INSIDE = (0.0, 0.15, 0.3, 0.5)  # m behind the visible surface, where the voxel may be the object's
GRID = GridSpec()


def main() -> None:
    """Print one line for each range of speeds, and of depths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streets", type=int, default=8, help="streets, from seed 8000 (default: 8)")
    parser.add_argument("--sets", type=int, default=3, help="image sets a street, 1 s apart (default: 3)")
    parser.add_argument(
        "--intervals", type=float, nargs="+", default=(0.05, 0.2, 0.4), help="s to the cues (default: 0.05 0.2 0.4)"
    )
    parser.add_argument("--size", type=int, nargs=2, default=(128, 224), help="px, height and width")
    options = parser.parse_args()
    found = [table(*sets) for seed in range(8000, 8000 + options.streets) for sets in image_sets(seed, options)]
    pixels = np.concatenate(found)
    moving = pixels[pixels[:, 0] >= SPEEDS[1]]
    for name, edges, rows, column in (("true speed m/s", SPEEDS, pixels, 0), ("depth m", DEPTHS, moving, 6)):
        print(f"| {name} | pixels | place known | moves | stands | error m/s, median | mean | speed over true |")
        print("|" + " ---: |" * 8)
        for low, high in pairwise(edges):
            print(row(f"{low:g} to {high:g}", rows[(rows[:, column] >= low) & (rows[:, column] < high)]))
        print()


def image_sets(seed: int, options: argparse.Namespace):
    """Image sets with their truth, and those each interval earlier and later."""
    street = Street(seed, Rig.load("nuscenes").resized(*options.size), grid=GRID)
    for t in 1.0 + np.arange(options.sets):
        others = [street.render(t + s * seconds, truth=False) for seconds in options.intervals for s in (-1, 1)]
        yield street.render(t), others


def table(now: SimFrame, others: list[SimFrame]) -> np.ndarray:
    """For each pixel of a movable object in the box [n, 7]: true speed, place known, moves, stands, error (m/s), the speed
    that is told over the true one, and the depth (m)."""
    frame = framed(now)
    cues = [cue(now, other) for other in others]
    with patch.multiple("letocc_core.losses.grounded_motion", STRIDE=1, FEWEST=30):
        told = grounded_motion(frame, cues, GRID)
    true, movable = true_velocity(now, frame)
    velocity = np.zeros((*movable.shape, 2))
    known, moves, stands = (np.zeros(movable.shape, bool) for _ in range(3))
    _, views, _ = (torch.arange(n) for n in told.moves.shape)
    view = views[:, None].expand(told.moves.shape[1:]).numpy()
    u, v = told.pixels[0].long().unbind(-1)
    for image, values in ((known, torch.ones_like(told.moves)), (moves, told.moves), (stands, told.still)):
        np.logical_or.at(image, (view, v.numpy(), u.numpy()), values[0].numpy())
    taught = (told.moves | told.still)[0].numpy()
    velocity[view[taught], v.numpy()[taught], u.numpy()[taught]] = told.velocity[0].numpy()[taught]
    speed = np.linalg.norm(true, axis=-1)
    error = np.linalg.norm(velocity - true, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.linalg.norm(velocity, axis=-1) / np.where(speed > SPEEDS[1], speed, np.nan)
    values = (speed, known, moves, stands, error, ratio, now.truth.depth)
    return np.stack([x[movable].astype(float) for x in values], axis=1)


def framed(sim: SimFrame) -> Frame:
    """A simulated set as a batch of one, with its masks."""
    return Frame(
        torch.tensor([sim.stamp_ns]),
        torch.from_numpy(sim.images).movedim(-1, 1)[None] / 255,
        torch.ones(1, len(sim.images), dtype=torch.bool),
        *(torch.from_numpy(x).float()[None] for x in (sim.K, sim.T_ego_cam)),
        torch.from_numpy(sim.T_world_ego)[None],
        movable=torch.from_numpy(sim.movable)[None],
    )


def cue(now: SimFrame, other: SimFrame) -> FlowCue:
    """DIS between the images of two sets."""
    flow, valid = decode(trusted_flow(Dis(), now.images, other.images)[0])
    there = framed(other)
    flow = torch.from_numpy(flow).movedim(-1, 1)[None]
    return FlowCue(there.stamp, there.K, there.T_ego_cam, there.T_world_ego, flow, torch.from_numpy(valid)[None])


def true_velocity(now: SimFrame, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Velocity (m/s) [N, H, W, 2] of what each pixel shows, and where it shows a movable object in the box."""
    truth = now.truth
    N, H, W = now.movable.shape
    v, u = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    directions = camera.ray_directions(torch.stack([u, v], -1).float().view(-1, 2).expand(N, -1, -1), frame.K[0])
    directions = directions @ frame.T_ego_cam[0, :, :3, :3].mT
    depth = torch.from_numpy(np.nan_to_num(truth.depth, posinf=1e3)).float().view(N, -1, 1)
    points = [frame.T_ego_cam[0, :, None, :3, 3] + (depth + further) * directions for further in INSIDE]
    inside = torch.stack([GRID.to_voxel(p)[1] for p in points]).any(0).view(N, H, W).numpy()
    velocity = fastest(np.stack([p.numpy() for p in points]), truth, GRID).reshape(N, H, W, 2)
    return velocity, now.movable & inside


def fastest(points: Float[np.ndarray, "k *n 3"], truth: Truth, grid: GridSpec) -> Float[np.ndarray, "*n 2"]:
    """True velocity (m/s) of the fastest matter at k points (m, ego axes) each; 0 where none has any."""
    found = velocity_at(points, np.where((truth.occupancy != FREE)[..., None], truth.velocity, 0.0), grid)
    which = np.linalg.norm(found, axis=-1).argmax(0)
    return np.take_along_axis(found, which[None, ..., None], axis=0)[0]


def row(label: str, pixels: np.ndarray) -> str:
    """A line of the table."""
    known = pixels[pixels[:, 1] > 0]
    moves = known[known[:, 2] > 0]
    shares = [pixels[:, 1].mean(), known[:, 2].mean(), known[:, 3].mean()]
    told = [np.median(moves[:, 4]), moves[:, 4].mean(), np.median(moves[:, 5])]
    return f"| {label} | {len(pixels)} | " + " | ".join(f"{x:.2f}" for x in [*shares, *told]) + " |"


if __name__ == "__main__":
    main()
