"""How good optical flow is as a cue for motion: against the simulator's truth, on what moves and on what does not.

    python benchmarks/bench_cues.py --streets 3

For each interval and estimator: share of pixels that are trusted, their end-point error (px), and on moving pixels the
error relative to the motion to be found (the flow less that of a static world): below 1 is better than standing still.
"""

import argparse
import itertools

import numpy as np

from letocc_core.cues.flow import Dis, decode, trusted_flow
from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.street import SimFrame, Street

INTERVALS = (0.05, 0.1, 0.2)  # s
MOVING = 0.5  # px of flow beyond that of a static world


def main() -> None:
    """Print one line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streets", type=int, default=3, help="streets, from seed 8000 (default: 3)")
    parser.add_argument("--sets", type=int, default=3, help="image sets a street, 1 s apart (default: 3)")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 224), help="px, height and width")
    options = parser.parse_args()
    print(
        "| interval s | enlarged | tolerance px | trusted, static | EPE static | trusted, moving | EPE moving | relative |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for interval in INTERVALS:
        pairs = list(frames(options, interval))
        for enlarge, tolerance in itertools.product((1, 2, 3), (0.5, 0.7, 1.0)):
            rows = [score(frame, later, Dis(enlarge), tolerance, interval) for frame, later in pairs]
            print(f"| {interval} | {enlarge} x | {tolerance} | {line(np.concatenate(rows))} |", flush=True)


def frames(options: argparse.Namespace, interval: float):
    """Image sets with their truth, and the images an interval later."""
    for seed in range(8000, 8000 + options.streets):
        street = Street(seed, Rig.load("nuscenes").resized(*options.size), flow_interval=interval)
        for t in range(options.sets):
            yield street.render(t), street.render(t + interval, truth=False)


def score(frame: SimFrame, later: SimFrame, estimator: Dis, tolerance: float, interval: float) -> np.ndarray:
    """For each pixel of an object or the ground [n, 4]: moves, is trusted, error (px), motion (px)."""
    flow, valid = decode(trusted_flow(estimator, frame.images, later.images, tolerance)[0])
    true = frame.truth.flow_forward
    known = np.isfinite(true).all(-1)
    motion = np.linalg.norm(true - static_flow(frame, later), axis=-1)
    error = np.linalg.norm(flow - true, axis=-1)
    return np.stack([motion > MOVING, valid, error, motion], -1)[known]


def static_flow(frame: SimFrame, later: SimFrame) -> np.ndarray:
    """Flow (px) [N, H, W, 2] that true depth gives in a world that stands still."""
    H, W = frame.truth.depth.shape[1:]
    pixels = np.stack(np.meshgrid(np.arange(W), np.arange(H)), -1)
    T = np.linalg.inv(later.T_world_ego @ later.T_ego_cam) @ frame.T_world_ego @ frame.T_ego_cam
    with np.errstate(invalid="ignore"):
        rays = np.einsum("hwj,nij->nhwi", np.dstack([pixels, np.ones((H, W))]), np.linalg.inv(frame.K))
        points = (
            np.einsum("nij,nhwj->nhwi", T[:, :3, :3], rays * frame.truth.depth[..., None]) + T[:, None, None, :3, 3]
        )
        seen = np.einsum("nij,nhwj->nhwi", later.K, points)
        return seen[..., :2] / seen[..., 2:] - pixels


def line(rows: np.ndarray) -> str:
    """The columns of the table for pixels [n, 4]."""
    moving, trusted = rows[:, 0] > 0, rows[:, 1] > 0
    still, moves = rows[~moving & trusted], rows[moving & trusted]
    columns = [trusted[~moving].mean(), still[:, 2].mean(), trusted[moving].mean(), moves[:, 2].mean()]
    return " | ".join(f"{c:.2f}" for c in [*columns, moves[:, 2].sum() / moves[:, 3].sum()])


if __name__ == "__main__":
    main()
