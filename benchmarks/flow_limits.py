"""What limits the flow of movable objects: a checkpoint's depth and velocities, each in turn replaced by the truth's.

    python benchmarks/flow_limits.py models/street.safetensors --seeds 9000-9007

For the pixels that `epe_fg` counts, by what they show and its true depth: their share of the pixels and of the still
world's summed error; the median of the rendered depth over the true one, and of its relative error; then the mean error
(px) of the flow that a depth and a velocity imply. *Still*: nothing moves. *True* depth: that of the pixel, with the
predicted velocity of the voxel there.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
from bench_grounded import INSIDE, fastest
from jaxtyping import Float

from letocc_core.cli.arguments import seed_range
from letocc_core.data.truth import Truth
from letocc_core.evaluation.config import EvaluationConfig
from letocc_core.evaluation.depth import depth_truth, read_depth
from letocc_core.evaluation.samples import simulated_street
from letocc_core.metrics.frame_score import DepthTruth, flow_of_points, velocity_at
from letocc_core.metrics.motion import MOVING_SPEED
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.stream.types import OccFlow

DEPTHS = (0.0, 2.0, 3.0, 4.0, 8.0, 12.0, 30.0)  # m, edges of the rows
WAYS = ("still", "predicted", "true velocity", "true depth, still", "true depth")
HEADINGS = ("", "pixels", "of the error", "depth over true", "error of depth", *WAYS)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--seeds", type=seed_range, default=range(9000, 9008), help="of the streets (default: 9000-9007)"
    )
    options = parser.parse_args()
    pipeline = OccFlowPipeline.from_checkpoint(options.checkpoint)
    found = np.concatenate([errors for seed in options.seeds for errors in street_errors(pipeline, seed)])
    moves, depth, summed = found[:, 0] > 0, found[:, 1], found[:, 3].sum()
    print(f"| {' | '.join(HEADINGS)} |\n| --- |{' ---: |' * (len(HEADINGS) - 1)}")
    rows = {"all": np.ones_like(moves)}
    for kind, chosen in (("stands", ~moves), ("moves", moves)):
        rows[kind] = chosen
        rows |= {f"{kind}, {a:g} to {b:g} m": chosen & (depth >= a) & (depth < b) for a, b in pairwise(DEPTHS)}
    for label, chosen in rows.items():
        here = found[chosen]
        ratio = here[:, 2] / here[:, 1]
        shares = f"{chosen.mean():.0%} | {here[:, 3].sum() / summed:.0%}"
        means = " | ".join(f"{x:.2f}" for x in [np.median(ratio), np.median(abs(ratio - 1)), *here[:, 3:].mean(0)])
        print(f"| {label} | {shares} | {means} |")


def street_errors(pipeline: OccFlowPipeline, seed: int):
    """Of each image set that `letocc eval` scores, the errors of its pixels [n, 3 + 5]: whether it moves, true and
    depth that was read (m), and the flow's error (px) in each of the `WAYS`."""
    config, grid = EvaluationConfig(), pipeline.model.config.grid
    pipeline.reset("a new street begins")
    street = simulated_street(seed, "nuscenes", grid, pipeline.input.image_size, config.times())
    for position, sample in enumerate(street):
        output = pipeline.step(sample.frame_set)
        if position >= pipeline.model.config.temporal.frames:
            yield errors(
                output,
                depth_truth(sample, config.depth_stride),
                sample.truth,
            )


def errors(output: OccFlow, seen: DepthTruth, truth: Truth) -> Float[np.ndarray, "n 8"]:
    """The same of one image set."""
    grid = output.grid
    counted = seen.inside(grid) & np.isfinite(seen.flow).all(-1) & seen.foreground
    true_depth = np.where(counted, seen.depth, 1.0)
    depth = read_depth(output.probability, grid, seen)
    true, here = seen.points(true_depth), seen.points(depth)
    velocity = fastest(np.stack([seen.points(true_depth + further) for further in INSIDE]), truth, grid)
    still = np.zeros_like(velocity)
    moved = {
        "still": (here, still),
        "predicted": (here, velocity_at(here, output.velocity, grid)),
        "true velocity": (here, velocity),
        "true depth, still": (true, still),
        "true depth": (true, velocity_at(true, output.velocity, grid)),
    }
    flows = [flow_of_points(seen, *moved[way]) for way in WAYS]
    counted &= np.isfinite(flows).all((0, -1))
    moves = np.linalg.norm(velocity, axis=-1) > MOVING_SPEED
    values = [moves, true_depth, depth, *(np.linalg.norm(flow - seen.flow, axis=-1) for flow in flows)]
    return np.stack([value[counted] for value in values], axis=1)


if __name__ == "__main__":
    main()
