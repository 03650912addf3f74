"""`letocc eval`: a checkpoint against truth and baselines.

letocc eval models/street.safetensors --data simulator --seeds 9000-9007 --json out.json
"""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from letocc_core import config as configuration
from letocc_core.data.cache import save
from letocc_core.errors import DataError
from letocc_core.evaluation.config import EvaluationConfig
from letocc_core.evaluation.samples import RecordedDrive, simulated_street
from letocc_core.evaluation.score import Tally, score_sequence
from letocc_core.frame import InputConfig
from letocc_core.geometry import body_masks
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics import baselines, results
from letocc_core.metrics.occupancy import ProbabilityCounts
from letocc_core.processes import in_order
from letocc_core.versions import versions

READING = ("base_frame", "fixed_frame", "slop", "odometry_topic", "lidar_topic")  # what a checkpoint knows of its bags


def evaluate_checkpoint(
    checkpoint: Path,
    data: str = "simulator",
    seeds: range = range(9000, 9008),
    frames: range | None = None,
    json: Path | None = None,
    workers: int = 2,
    command: str = "",
    cache: Path = Path("runs/cache"),
    config: EvaluationConfig = EvaluationConfig(),
    thresholds: bool = False,
    choose_threshold: bool = False,
    device: str = "cpu",
    reading: Mapping[str, Any] | None = None,
    boxes: Path | None = None,
) -> dict[str, Any]:
    """Measure a checkpoint, print the tables, write the result file (docs/results-format.md).

    Args:
        data: `simulator`, or a bag with LiDAR.
        seeds: of the simulated streets.
        frames: of a bag: positions of the image sets to score; all after the warm-up if None. Earlier sets are run too.
        json: file to write.
        workers: processes, one thread each (simulator only); 0: this one.
        cache: folder for the mean of the training streets.
        thresholds: print what other thresholds would give, and how often probabilities are right.
        choose_threshold: write the threshold of the highest IoU into the checkpoint.
        device: where the network runs: cpu, cuda, cuda:1, ...
        reading: of a bag: arguments of `RecordedDrive` over those of the recordings that the checkpoint was trained on.
        boxes: of a bag: file of labelled objects (`metrics.box_motion`), for `boxes`.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        DataError: the bag cannot be used, or nothing could be scored.
    """
    from letocc_core.checkpoint import load_model
    from letocc_core.stream.pipeline import OccFlowPipeline

    model, input_config, metadata = load_model(checkpoint, device)
    warmup = model.config.temporal.frames
    spread = {}
    if data == "simulator":
        streets = _score_streets(
            checkpoint, metadata["config"], model.config.grid, seeds, warmup, workers, cache, config, device
        )
        tally = sum(streets, start=Tally())
        spread = {"spread": results.spread([street.results() for street in streets])}
    else:
        pipeline = OccFlowPipeline(model, input_config, device=device)
        read = bag_frames(metadata["config"], with_masks(metadata, checkpoint, reading))
        drive = RecordedDrive(Path(data), **read, boxes=boxes)
        chosen = range(warmup, sys.maxsize) if frames is None else frames
        tally = score_sequence(pipeline, drive, chosen, config=config, track=drive.track)
        print(drive.recording.report(), file=sys.stderr)
    if not tally.frames:
        raise DataError(f"{data}: nothing was scored; expected image sets after the warm-up")
    found = {
        **tally.results(),
        **spread,
        "checkpoint": str(checkpoint),
        "config": metadata["config"],
        **({"trained": metadata["trained"]} if "trained" in metadata else {}),
        "versions": versions(),
        "command": command,
    }
    _print_tables(results.tables(results.rows(found)))
    if json is not None:
        results.write_results(json, found)
    counts: ProbabilityCounts = tally.scores["letocc"].get("probability", ProbabilityCounts.none())
    if thresholds:
        _print_tables(counts.tables())
    if choose_threshold:
        _write_best_threshold(checkpoint, counts)
    return found


def _print_tables(tables: Mapping[str, list[list[str]]]) -> None:
    for heading, cells in tables.items():
        print(f"{heading}\n\n{results.markdown(cells)}\n")


def _write_best_threshold(path: Path, counts: ProbabilityCounts) -> None:
    """Put the threshold of the highest IoU into a checkpoint's configuration."""
    from letocc_core.checkpoint import set_threshold

    best = counts.best()
    if best is None:
        raise DataError(f"{path}: no threshold can be chosen: at none is a truly occupied voxel found")
    set_threshold(path, best[0])
    print(f"{path}: model.occupancy_threshold is {best[0]:g} now (IoU {best[1]:.3f} here)")


def with_masks(
    metadata: Mapping[str, Any], checkpoint: str | Path, reading: Mapping[str, Any] | None
) -> dict[str, Any]:
    """`reading`, with the masks of the vehicle's body that a checkpoint was trained with where it has none."""
    return {"body_masks": body_masks.from_text(metadata.get("body_masks", {}), str(checkpoint)), **(reading or {})}


def bag_frames(config: Mapping[str, Any], reading: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Arguments of `RecordedDrive`: as the recordings that a checkpoint was trained on were read, `reading` over that.

    A checkpoint that was trained on something else has no say.
    """
    trained = config.get("data", {}).get("bag") or {}
    known = {k: trained[k] for k in READING if k in trained}
    input = configuration.from_dict(InputConfig, config["input"], "checkpoint", "input.")
    return {"cameras": tuple(trained.get("cameras", ())), "input": input, **known, **(reading or {})}


def _score_streets(
    checkpoint: Path,
    trained: Mapping[str, Any],
    grid: GridSpec,
    seeds: range,
    warmup: int,
    workers: int,
    cache: Path,
    config: EvaluationConfig,
    device: str,
) -> list[Tally]:
    """Score simulated streets one by one, over processes of one thread each."""
    from tqdm import tqdm

    mean = training_mean(trained, grid, workers, cache, config)
    rig = _training_streets(trained)[1]
    calls = [(checkpoint, seed, rig, warmup, mean, config, device) for seed in seeds]
    streets = in_order(_score_street, calls, workers)
    return list(tqdm(streets, total=len(calls), unit="street", desc="evaluating", file=sys.stderr))


def _training_streets(trained: Mapping[str, Any]) -> tuple[range, str]:
    """Seeds and rig of the streets in a training configuration; 600 from seed 0 of the default rig for any other."""
    streets = (trained.get("data") or {}).get("simulator") or {}
    first, count = streets.get("first_seed", 0), streets.get("scenes", 600)
    return range(first, first + count), streets.get("rig", "nuscenes")


def _score_street(
    checkpoint: Path, seed: int, rig: str, warmup: int, mean: np.ndarray, config: EvaluationConfig, device: str
) -> Tally:
    """One simulated street."""
    from letocc_core.stream.pipeline import OccFlowPipeline

    pipeline = OccFlowPipeline.from_checkpoint(checkpoint, device=device)
    street = simulated_street(seed, rig, pipeline.model.config.grid, pipeline.input.image_size, config.times())
    return score_sequence(pipeline, street, range(warmup, len(street)), mean, config)


def training_mean(
    trained: Mapping[str, Any],
    grid: GridSpec,
    workers: int = 2,
    cache: Path = Path("runs/cache"),
    config: EvaluationConfig = EvaluationConfig(),
) -> Float[np.ndarray, "X Y Z"]:
    """Share of the training streets' frames in which each voxel is occupied: the `mean_occupancy` baseline.

    Args:
        trained: a checkpoint's configuration; it says which streets.
        cache: folder that keeps the answer.
    """
    from tqdm import tqdm

    streets, rig = _training_streets(trained)
    seeds = streets[:: max(1, len(streets) // config.training_streets)][: config.training_streets]
    key = hashlib.sha256(repr((seeds, rig, grid, config.seconds)).encode()).hexdigest()[:12]
    path = cache / f"mean_occupancy_{key}.npz"
    if path.exists():
        with np.load(path) as file:
            return file["share"]
    found = in_order(_street_occupancy, [(seed, rig, grid, config.seconds) for seed in seeds], workers)
    bar = tqdm(found, total=len(seeds), unit="street", desc="mean of the training streets", file=sys.stderr)
    share = np.asarray(np.mean(list(bar), axis=0, dtype=np.float64), np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, {"share": share}, compressed=True)
    return share


def _street_occupancy(seed: int, rig: str, grid: GridSpec, seconds: float) -> Float[np.ndarray, "X Y Z"]:
    """Mean occupancy of three moments of one street."""
    moments = simulated_street(seed, rig, grid, (32, 56), (0.0, seconds / 2, seconds))
    return baselines.mean_of(s.truth.occupancy for s in moments if s.truth is not None)
