"""How good optical flow is as a cue for motion: against the simulator's truth, on what moves and on what does not.

    python benchmarks/bench_cues.py --streets 3

For each interval and estimator: share of pixels that are trusted, their end-point error (px), and on moving pixels the
error relative to the motion to be found (the flow less that of a static world): below 1 is better than standing still.
Last, what the cue could teach: the least-squares velocity of each moving object, from true depth and the trusted pixels,
and its error relative to the object's speed, over the objects with enough of them; and the share of objects that have.
"""

import argparse
import itertools

import numpy as np
from scipy import ndimage

from letocc_core.cues.flow import Dis, decode, trusted_flow
from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.street import SimFrame, Street

INTERVALS = (0.05, 0.1, 0.2)  # s
MOVING = 0.5  # px of flow beyond that of a static world
LEAST_PIXELS = 20  # of an object whose velocity is asked for


def main() -> None:
    """Print one line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streets", type=int, default=3, help="streets, from seed 8000 (default: 3)")
    parser.add_argument("--sets", type=int, default=3, help="image sets a street, 1 s apart (default: 3)")
    parser.add_argument("--preset", choices=("ultrafast", "fast", "medium"), default="medium", help="of DIS")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 224), help="px, height and width")
    options = parser.parse_args()
    columns = "interval s,enlarged,tolerance px,trusted static,EPE static,trusted moving,EPE moving,relative"
    columns += ",velocity error,objects"
    print("| " + columns.replace(",", " | ") + " |\n|" + " ---: |" * (columns.count(",") + 1))
    for interval in INTERVALS:
        pairs = list(frames(options, interval))
        for enlarge, tolerance in itertools.product((1, 2, 3), (0.5, 0.7, 1.0)):
            estimator = Dis(enlarge, options.preset)
            cues = [trusted_flow(estimator, frame.images, later.images, tolerance)[0] for frame, later in pairs]
            rows = [score(*pair, cue) for pair, cue in zip(pairs, cues, strict=True)]
            objects = [o for pair, cue in zip(pairs, cues, strict=True) for o in velocities(*pair, cue, interval)]
            print(f"| {interval} | {enlarge} x | {tolerance} | {line(np.concatenate(rows), objects)} |", flush=True)


def frames(options: argparse.Namespace, interval: float):
    """Image sets with their truth, and the images an interval later."""
    for seed in range(8000, 8000 + options.streets):
        street = Street(seed, Rig.load("nuscenes").resized(*options.size), flow_interval=interval)
        for t in range(options.sets):
            yield street.render(t), street.render(t + interval, truth=False)


def score(frame: SimFrame, later: SimFrame, cue: np.ndarray) -> np.ndarray:
    """For each pixel of an object or the ground [n, 4]: moves, is trusted, error (px), motion (px)."""
    flow, valid = decode(cue)
    true = frame.truth.flow_forward
    known = np.isfinite(true).all(-1)
    motion = np.linalg.norm(true - static_flow(frame, later), axis=-1)
    error = np.linalg.norm(flow - true, axis=-1)
    return np.stack([motion > MOVING, valid, error, motion], -1)[known]


def velocities(frame: SimFrame, later: SimFrame, cue: np.ndarray, interval: float) -> list[tuple[float, float]]:
    """For each moving object in an image: distance of the cue's velocity from the true one, and its speed (m/s).

    NaN for an object with too few trusted pixels.
    """
    flow, valid = decode(cue)
    true = frame.truth.flow_forward
    motion = np.linalg.norm(true - static_flow(frame, later), axis=-1)
    found = []
    for camera in range(len(flow)):
        labels, count = ndimage.label(np.nan_to_num(motion[camera]) * frame.movable[camera] > MOVING)
        for pixels in (labels == k + 1 for k in range(count)):
            if pixels.sum() < LEAST_PIXELS:
                continue
            speed = least_squares(frame, later, camera, pixels, true, interval)
            trusted = pixels & valid[camera]
            estimate = least_squares(frame, later, camera, trusted, flow, interval)
            error = np.linalg.norm(estimate - speed) if trusted.sum() >= LEAST_PIXELS else np.nan
            found.append((error, np.linalg.norm(speed)))
    return found


def least_squares(
    frame: SimFrame, later: SimFrame, camera: int, pixels: np.ndarray, flow: np.ndarray, interval: float
) -> np.ndarray:
    """Velocity (m/s) [2] of the pixels [H, W] of one camera that explains their flow best; Gauss-Newton from 0."""
    velocity, steps = np.zeros(2), np.eye(2) * 0.01
    at = pixels & np.isfinite(flow[camera]).all(-1)
    for _ in range(5 if at.any() else 0):
        here = rendered(frame, later, camera, velocity * interval)[at]
        slope = [(rendered(frame, later, camera, (velocity + d) * interval)[at] - here) / 0.01 for d in steps]
        velocity = (
            velocity
            + np.linalg.lstsq(np.stack(slope, -1).reshape(-1, 2), (flow[camera][at] - here).ravel(), rcond=None)[0]
        )
    return velocity


def static_flow(frame: SimFrame, later: SimFrame) -> np.ndarray:
    """Flow (px) [N, H, W, 2] that true depth gives in a world that stands still."""
    return np.stack([rendered(frame, later, camera, np.zeros(2)) for camera in range(len(frame.K))])


def rendered(frame: SimFrame, later: SimFrame, camera: int, displacement: np.ndarray) -> np.ndarray:
    """Flow (px) [H, W, 2] of one camera that true depth gives if everything moves by [2] (m, ego axes)."""
    H, W = frame.truth.depth.shape[1:]
    pixels = np.stack([*np.meshgrid(np.arange(W), np.arange(H)), np.ones((H, W))], -1)
    T = np.linalg.inv(later.T_world_ego @ later.T_ego_cam[camera]) @ frame.T_world_ego
    T_ego_cam = frame.T_ego_cam[camera]
    with np.errstate(invalid="ignore", divide="ignore"):
        rays = pixels @ np.linalg.inv(frame.K[camera]).T
        points = (rays * frame.truth.depth[camera][..., None]) @ T_ego_cam[:3, :3].T + T_ego_cam[:3, 3]
        seen = ((points + np.array([*displacement, 0])) @ T[:3, :3].T + T[:3, 3]) @ later.K[camera].T
        return seen[..., :2] / seen[..., 2:] - pixels[..., :2]


def line(rows: np.ndarray, objects: list[tuple[float, float]]) -> str:
    """The columns of the table for pixels [n, 4] and objects (error, speed)."""
    moving, trusted = rows[:, 0] > 0, rows[:, 1] > 0
    still, moves = rows[~moving & trusted], rows[moving & trusted]
    columns = [trusted[~moving].mean(), still[:, 2].mean(), trusted[moving].mean(), moves[:, 2].mean()]
    error, speed = np.array(objects).T
    usable = np.isfinite(error)
    columns += [moves[:, 2].sum() / moves[:, 3].sum(), error[usable].sum() / speed[usable].sum(), usable.mean()]
    return " | ".join(f"{c:.2f}" for c in columns)


if __name__ == "__main__":
    main()
