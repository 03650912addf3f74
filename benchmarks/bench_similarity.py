"""How good the similarity of features is as a cue for motion: against the simulator's truth, on streets not trained on.

    python benchmarks/bench_similarity.py models/street.safetensors

Cells of the ground under moving matter: the share of them that is compared; of these, the share found to move, the
median angle to the true velocity, and the median error relative to the speed; of the compared cells under matter that
stands, the share found to move. Once with the geometry that the network finds, once with the true one.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from letocc_core.checkpoint import load_model
from letocc_core.data.truth import FREE, Truth
from letocc_core.evaluation.samples import Sample, simulated_street
from letocc_core.frame import Frame
from letocc_core.geometry import se3
from letocc_core.losses import feature_similarity
from letocc_core.metrics.motion import MOVING_SPEED, direction_error_deg
from letocc_core.model.fields import Fields
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.stream.preprocess import to_frame

INTERVAL = 0.2  # s


@dataclass(frozen=True)
class Cells:
    """What is known of the cells of one image set, in one row each."""

    true: np.ndarray  # m/s [n, 2], of the fastest matter above each cell that has matter
    found: np.ndarray  # m/s [n, 2]
    known: np.ndarray
    moves: np.ndarray


def main() -> None:
    """Print one line for each geometry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--streets", type=int, default=4, help="streets, from seed 8000 (default: 4)")
    options = parser.parse_args()
    model, input_config, _ = load_model(options.checkpoint)
    rows: dict[str, list[Cells]] = {"its own": [], "true": []}
    for seed in range(8000, 8000 + options.streets):
        for start in (0.0, 1.6):
            times = start + INTERVAL * np.arange(4)
            street = simulated_street(seed, "nuscenes", model.config.grid, input_config.image_size, times)
            frames = [to_frame(sample.frame_set, input_config).unsqueeze() for sample in street]
            frames[2] = replace(frames[2], movable=torch.from_numpy(street[2].truth.movable)[None])
            for name, pair in geometries(model, frames, street):
                rows[name].append(compare(model, frames[2:], pair, street[2].truth))
    print("| geometry | compared | found | direction (deg) | relative error | false |\n| --- |" + " ---: |" * 5)
    for name, cells in rows.items():
        print(f"| {name} | {line(cells)} |")


@torch.no_grad()
def geometries(model: LetOccFlow, frames: list[Frame], street: list[Sample]) -> Iterator[tuple[str, list[Fields]]]:
    """Fields of the third and the fourth frame: the network's, and the truth."""
    yield "its own", [model(frames[i], (frames[i - 1], frames[i - 2])) for i in (2, 3)]
    occupied = [torch.from_numpy(sample.truth.occupancy != FREE) for sample in street[2:]]
    yield "true", [Fields(torch.where(o, -1.0, 1.0)[None, None], None) for o in occupied]


@torch.no_grad()
def compare(model: LetOccFlow, frames: list[Frame], fields: list[Fields], truth: Truth) -> Cells:
    """The cue between two frames, beside the truth of the first."""
    grid, config = model.config.grid, feature_similarity.SimilarityConfig()
    (now, movable), (later, _) = (
        feature_similarity.features_of(model, *pair, config) for pair in zip(frames, fields, strict=True)
    )
    T = se3.relative(frames[1].T_world_ego, frames[0].T_world_ego)
    cue = feature_similarity.compare(now, later, T, torch.tensor([INTERVAL]), grid, config)
    moves = (cue.moves & movable)[0].numpy()
    occupied = feature_similarity.could_move(torch.from_numpy(truth.occupancy != FREE)[None], grid, config)[0].numpy()
    speed = np.linalg.norm(truth.velocity, axis=-1) * occupied
    fastest = speed.argmax(-1)[..., None, None]
    true = np.take_along_axis(truth.velocity, fastest, axis=2)[:, :, 0]
    matter = occupied.any(-1)
    found = cue.velocity[0].permute(1, 2, 0).numpy()
    return Cells(true[matter], found[matter], cue.known[0].numpy()[matter], moves[matter])


def line(cells: list[Cells]) -> str:
    """The columns of the table."""
    true, found = (np.concatenate([getattr(c, name) for c in cells]) for name in ("true", "found"))
    known, moves = (np.concatenate([getattr(c, name) for c in cells]) for name in ("known", "moves"))
    speed = np.linalg.norm(true, axis=-1)
    moving = speed > MOVING_SPEED
    hit = moving & known & moves
    error = np.linalg.norm(found - true, axis=-1)[hit] / speed[hit]
    columns = [
        known[moving].mean(),
        moves[moving & known].mean(),
        np.median(direction_error_deg(true[hit], found[hit])),
    ]
    columns += [np.median(error), moves[known & ~moving].mean()]
    return "{:.2f} | {:.2f} | {:.0f} | {:.2f} | {:.2f}".format(*columns)


if __name__ == "__main__":
    main()
