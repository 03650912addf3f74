"""`letocc eval`: a checkpoint against truth and baselines.

letocc eval models/street.safetensors --data simulator --seeds 9000-9007 --json out.json
"""

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from letocc_core import config as configuration
from letocc_core.errors import DataError
from letocc_core.evaluation.config import EvaluationConfig
from letocc_core.evaluation.samples import RecordedDrive, simulated_street
from letocc_core.evaluation.score import Tally, score_sequence
from letocc_core.frame import InputConfig
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics import baselines, results
from letocc_core.processes import single_threaded
from letocc_core.versions import versions


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
) -> dict[str, Any]:
    """Measure a checkpoint, print the table, write the result file (docs/results-format.md).

    Args:
        data: `simulator`, or a bag with LiDAR.
        seeds: of the simulated streets.
        frames: of a bag: positions of the image sets to score; all after the warm-up if None. Earlier sets are run too.
        json: file to write.
        workers: processes, one thread each (simulator only).
        cache: folder for the mean of the training streets.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        DataError: the bag cannot be used, or nothing could be scored.
    """
    from letocc_core.checkpoint import load_model
    from letocc_core.stream.pipeline import OccFlowPipeline

    model, input_config, metadata = load_model(checkpoint)
    warmup = model.config.temporal.frames
    spread = {}
    if data == "simulator":
        streets = _score_streets(
            checkpoint, metadata["config"], model.config.grid, seeds, warmup, workers, cache, config
        )
        tally = sum(streets, start=Tally())
        spread = {"spread": results.spread([street.results() for street in streets])}
    else:
        pipeline = OccFlowPipeline(model, input_config)
        drive = RecordedDrive(Path(data), **bag_frames(metadata["config"]))
        chosen = range(warmup, sys.maxsize) if frames is None else frames
        track = drive.track if drive.truth else np.zeros((0, 3))
        tally = score_sequence(pipeline, drive, chosen, config=config, track=track)
    if not tally.frames:
        raise DataError(f"{data}: nothing was scored; expected image sets after the warm-up, or after the first one")
    found = {
        **tally.results(),
        **spread,
        "checkpoint": str(checkpoint),
        "config": metadata["config"],
        **({"trained": metadata["trained"]} if "trained" in metadata else {}),
        "versions": versions(),
        "command": command,
    }
    print(results.markdown_table(results.rows(found)))
    if json is not None:
        results.write_results(json, found)
    return found


def bag_frames(config: Mapping[str, Any]) -> dict[str, Any]:
    """Cameras, TF frames and slop of the recordings that a checkpoint was trained on (the defaults for any other), and input."""
    trained = config.get("data", {}).get("bag") or {}
    known = {k: trained[k] for k in ("base_frame", "fixed_frame", "slop", "odometry_topic") if k in trained}
    input = configuration.from_dict(InputConfig, config["input"], "checkpoint", "input.")
    return {"cameras": tuple(trained.get("cameras", ())), "input": input, **known}


def _score_streets(
    checkpoint: Path,
    trained: Mapping[str, Any],
    grid: GridSpec,
    seeds: range,
    warmup: int,
    workers: int,
    cache: Path,
    config: EvaluationConfig,
) -> list[Tally]:
    """Score simulated streets one by one, over processes of one thread each."""
    from tqdm import tqdm

    mean = training_mean(trained, grid, workers, cache, config)
    rig = _training_streets(trained)[1]
    with single_threaded(workers) as pool:
        jobs = [pool.submit(_score_street, checkpoint, seed, rig, warmup, mean, config) for seed in seeds]
        bar = tqdm(jobs, unit="street", desc="evaluating", file=sys.stderr)
        return [job.result() for job in bar]


def _training_streets(trained: Mapping[str, Any]) -> tuple[range, str]:
    """Seeds and rig of the streets in a training configuration; 600 from seed 0 of the default rig for any other."""
    streets = (trained.get("data") or {}).get("simulator") or {}
    first, count = streets.get("first_seed", 0), streets.get("scenes", 600)
    return range(first, first + count), streets.get("rig", "nuscenes")


def _score_street(
    checkpoint: Path, seed: int, rig: str, warmup: int, mean: np.ndarray, config: EvaluationConfig
) -> Tally:
    """One simulated street, in a process of its own."""
    from letocc_core.stream.pipeline import OccFlowPipeline

    pipeline = OccFlowPipeline.from_checkpoint(checkpoint)
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
    with single_threaded(workers) as pool:
        jobs = [pool.submit(_street_occupancy, seed, rig, grid, config.seconds) for seed in seeds]
        bar = tqdm(jobs, unit="street", desc="mean of the training streets", file=sys.stderr)
        share = np.mean([job.result() for job in bar], axis=0, dtype=np.float64).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}_{os.getpid()}.npz")
    np.savez_compressed(temporary, share=share)
    temporary.replace(path)
    return share


def _street_occupancy(seed: int, rig: str, grid: GridSpec, seconds: float) -> Float[np.ndarray, "X Y Z"]:
    """Mean occupancy of three moments of one street."""
    moments = simulated_street(seed, rig, grid, (32, 56), (0.0, seconds / 2, seconds))
    return baselines.mean_of(sample.truth.occupancy for sample in moments)
