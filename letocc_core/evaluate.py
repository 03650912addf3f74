"""Measures the online path against truth: what is evaluated is what runs.

    letocc eval models/street.safetensors --data simulator --seeds 9000-9007 --json out.json

A sequence is a list of `Sample`s in time order. Every sample goes through `OccFlowPipeline.step`; those after the
warm-up (until the history is full) are scored, and so are the baselines, by the same code (`metrics.frame_score`).
"""

import hashlib
import os
import sys
from collections.abc import Container, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from letocc_core import config as configuration
from letocc_core.data import sequences
from letocc_core.data.sequences import Sample
from letocc_core.data.truth import FREE, Truth
from letocc_core.errors import DataError
from letocc_core.frame import InputConfig
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics import baselines, frame_score, results
from letocc_core.metrics.depth import DepthRange
from letocc_core.metrics.frame_score import DepthTruth, Prediction, RayTruth
from letocc_core.metrics.ray_iou import select_origins
from letocc_core.metrics.sweep_motion import SweepMotionScore
from letocc_core.novel_view import Earlier
from letocc_core.processes import single_threaded
from letocc_core.stream.types import FrameSet, OccFlow
from letocc_core.versions import versions

MOTION_GROUPS = ("motion", "flow2d", "sweep_motion")  # what velocities change
MAX_SWEEP_PIXELS = 4096  # pixels a camera at which depth is compared with a LiDAR sweep


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and where."""

    interval: float = 0.2  # s between the image sets of a simulated street
    seconds: float = 4.0  # s of each simulated street
    depth_stride: int = 4  # px between the pixels whose depth is compared
    depth_limits: DepthRange = field(default_factory=DepthRange)
    samples: int = 192  # points along a ray when depth is rendered
    beta: float = 0.05  # m, sharpness of the surface when depth is rendered
    training_streets: int = 40  # streets of which the mean_occupancy baseline is the mean

    def times(self) -> Float[np.ndarray, "n"]:
        """Of the image sets of a simulated street (s)."""
        return np.arange(round(self.seconds / self.interval) + 1) * self.interval


@runtime_checkable
class Predictor(Protocol):
    """What `evaluate` asks of a pipeline; `OccFlowPipeline` and `Recorded` give it."""

    def step(self, frame_set: FrameSet) -> OccFlow | None: ...
    def reset(self, reason: str) -> None: ...


class Recorded:
    """Outputs computed before, such as those that a node published, in place of a pipeline."""

    def __init__(self, outputs: Iterable[OccFlow]):
        self._outputs = {output.stamp_ns: output for output in outputs}

    def step(self, frame_set: FrameSet) -> OccFlow | None:
        """The output for this set; None if it was dropped."""
        return self._outputs.get(frame_set.stamp_ns)

    def reset(self, reason: str) -> None:
        """Nothing to forget."""


@dataclass(frozen=True)
class Tally:
    """Scores by method over all frames so far; tallies of several processes can be added."""

    scores: Mapping[str, frame_score.Score] = field(default_factory=dict)
    scenes: int = 0
    frames: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        scores = {
            name: frame_score.add(self.scores.get(name, {}), other.scores.get(name, {}))
            for name in [*self.scores, *(n for n in other.scores if n not in self.scores)]
        }
        return Tally(scores, self.scenes + other.scenes, self.frames + other.frames)

    def results(self) -> dict[str, Any]:
        """The measured part of the results format."""
        groups = {name: frame_score.summary(score) for name, score in self.scores.items()}
        return {
            **groups.pop("letocc", {}),
            "baselines": {name: values for name, values in groups.items() if values},
            "scenes": self.scenes,
            "frames": self.frames,
        }


def evaluate(
    pipeline: Predictor,
    drives: Iterable[Sequence[Sample]],
    warmup: int = 0,
    mean_occupancy: Float[np.ndarray, "X Y Z"] | None = None,
    config: EvaluationConfig = EvaluationConfig(),
) -> dict[str, Any]:
    """Run a pipeline over sequences and score it beside the baselines.

    Args:
        warmup: first samples of each sequence that are run but not scored.
        mean_occupancy: share of training frames in which each voxel is occupied; without it that baseline is absent.

    Returns:
        The results format, less what only the caller knows (`checkpoint`, `config`, `versions`, `command`).

    Raises:
        DataError: nothing was scored.
    """
    tally = Tally()
    for drive in drives:
        tally += score_sequence(pipeline, drive, range(warmup, len(drive)), mean_occupancy, config)
    if not tally.frames:
        raise DataError(f"nothing was scored: no sequence has more than {warmup} image sets with truth and an output")
    return tally.results()


def score_sequence(
    pipeline: Predictor,
    sequence: Iterable[Sample],
    scored: Container[int],
    mean_occupancy: Float[np.ndarray, "X Y Z"] | None = None,
    config: EvaluationConfig = EvaluationConfig(),
    track: Float[np.ndarray, "n 3"] | None = None,
) -> Tally:
    """Run all samples through the pipeline and score those whose position is in `scored`.

    Args:
        track: where the LiDAR is at each sample, m in the fixed frame; by default as the samples say.
    """
    track = sequences.lidar_track(sequence) if track is None else track
    pipeline.reset("a new sequence begins")
    tally, scorer = Tally(scenes=1), Scorer(pipeline, track, mean_occupancy, config)
    for position, sample in enumerate(sequence):
        output = pipeline.step(sample.frame_set)
        if scores := scorer.score(sample, output, wanted=position in scored):
            tally += Tally(scores, frames=1)
    return tally


class Scorer:
    """Scores the outputs of a pipeline, set by set in time order.

    Args:
        track: where the LiDAR is during the drive, m in the fixed frame: RayIoU's rays start there.
        mean_occupancy: as in `evaluate`.
    """

    def __init__(
        self,
        pipeline: Predictor,
        track: Float[np.ndarray, "n 3"],
        mean_occupancy: Float[np.ndarray, "X Y Z"] | None = None,
        config: EvaluationConfig = EvaluationConfig(),
    ):
        self.pipeline, self.track, self.mean_occupancy, self.config = pipeline, track, mean_occupancy, config
        self._earlier: Earlier | None = None
        self._depths: dict[str, tuple[bytes, np.ndarray]] = {}

    def score(self, sample: Sample, output: OccFlow | None, wanted: bool = True) -> dict[str, frame_score.Score]:
        """Scores of the model and the baselines on the set that the pipeline has just answered, by method.

        Against a simulator's truth or the LiDAR; where there is neither, against the set's own images, as the set before
        foretells them. Empty for a set that was dropped or about which nothing is known; without `wanted` none are made.
        """
        earlier, self._earlier = self._earlier, None
        if output is None:
            return {}
        sdf = _sdf(self.pipeline, output)
        if sample.truth is not None or sample.lidar is not None:
            arguments = (sample, self.track, output, sdf, self.mean_occupancy, self.config, self._depths)
            return score_frame(*arguments) if wanted else {}
        snapshot = getattr(self.pipeline, "last", None)
        if snapshot is None:  # recorded outputs: nobody knows what the network saw
            return {}
        frames = snapshot.sets[-1]
        self._earlier = Earlier(frames, sdf, output.grid)
        return {} if earlier is None or not wanted else earlier.score(frames, render_depth)


def _sdf(pipeline: Predictor, output: OccFlow) -> Float[np.ndarray, "X Y Z"]:
    """Signed distance (m) behind an output that a pipeline has just given."""
    fields = getattr(pipeline, "fields", None)
    return sdf_of(output) if fields is None else fields.sdf[0, 0].detach().cpu().numpy()


def sdf_of(output: OccFlow, scale: float = 0.1) -> Float[np.ndarray, "X Y Z"]:
    """Signed distance (m) whose zero is where the probability crosses 0.5: the inverse of `Fields.probability`."""
    p = np.clip(output.probability.astype(np.float64), 1 / 510, 1 - 1 / 510)
    return (-scale * np.log(p / (1 - p))).astype(np.float32)


def score_frame(
    sample: Sample,
    track: Float[np.ndarray, "n 3"],
    output: OccFlow,
    sdf: Float[np.ndarray, "X Y Z"],
    mean_occupancy: Float[np.ndarray, "X Y Z"] | None = None,
    config: EvaluationConfig = EvaluationConfig(),
    depths: MutableMapping[str, tuple[bytes, np.ndarray]] | None = None,
) -> dict[str, frame_score.Score]:
    """Scores of the model (`letocc`) and of all baselines on one frame.

    Args:
        track: where the LiDAR is during the drive, m in the fixed frame: RayIoU's rays start there.
        sdf: signed distance (m) behind the output, from which depth is rendered.
        mean_occupancy: as in `evaluate`.
        depths: keeps the depth of the baselines, which is the same for every frame with the same pixels and cameras.
    """
    grid, depths = output.grid, {} if depths is None else depths
    pixels = depth_truth(sample, config.depth_stride)
    rays = _ray_truth(sample, track, output, pixels)

    def score(prediction: Prediction) -> frame_score.Score:
        found = frame_score.score_rays(rays, prediction)
        if sample.truth is not None:
            found = frame_score.add(found, frame_score.score_voxels(sample.truth, prediction))
        if sample.lidar is not None and sample.lidar_later is not None:
            found = frame_score.add(found, _score_sweeps(sample, prediction, output))
        return frame_score.add(found, frame_score.score_depth(pixels, prediction, grid, config.depth_limits))

    still = np.zeros_like(output.velocity)
    predicted = Prediction(output.occupied, output.velocity, render_depth(sdf, grid, pixels, config))
    scores = {"letocc": score(predicted)}
    sceneries = {"flat_road": baselines.flat_road(grid)}
    if mean_occupancy is not None:
        sceneries["mean_occupancy"] = baselines.mean_occupancy(mean_occupancy, grid)
    for name, scenery in sceneries.items():
        view = b"".join(values.tobytes() for values in (pixels.pixels, pixels.K, pixels.T_ego_cam))
        if depths.get(name, (b"",))[0] != view:
            depths[name] = view, render_depth(scenery.sdf, grid, pixels, config)
        scores[name] = score(Prediction(scenery.occupied & output.observed, still, depths[name][1]))
    standing = score(replace(predicted, velocity=still))
    scores["zero_velocity"] = {k: standing[k] for k in MOTION_GROUPS if k in standing}
    return scores


def _score_sweeps(sample: Sample, prediction: Prediction, output: OccFlow) -> frame_score.Score:
    """`sweep_motion`: whether the velocities take the LiDAR's returns to where the later sweep has them."""
    score = SweepMotionScore.of_answer(
        sample.lidar,
        sample.lidar_later,
        sample.lidar_seconds,
        prediction.occupied,
        prediction.velocity,
        output.observed,
        output.grid,
    )
    return {"sweep_motion": score}


def _ray_truth(sample: Sample, track: np.ndarray, output: OccFlow, cues: DepthTruth) -> RayTruth:
    grid = output.grid
    if sample.truth is None:
        return RayTruth.from_sweep(sample.lidar, sample.lidar_origin, grid, output.observed)
    if sample.truth.occupancy.shape != grid.shape:
        raise DataError(
            f"the truth's grid is {sample.truth.occupancy.shape}, the model's {grid.shape}; record it on the model's"
        )
    T_ego_world = np.linalg.inv(sample.frame_set.T_world_ego)
    origins = track @ T_ego_world[:3, :3].T + T_ego_world[:3, 3]
    return RayTruth.from_grid(sample.truth, select_origins(origins, grid), grid, cues)


def depth_truth(sample: Sample, stride: int, most: int = MAX_SWEEP_PIXELS) -> DepthTruth:
    """Every `stride`-th pixel of the true depth, or `most` of the pixels a camera that LiDAR returns fall on, at most."""
    frame_set = sample.frame_set
    present = [i for i, image in enumerate(frame_set.images) if image is not None]
    K = np.stack([frame_set.calibrations[i].K for i in present]).astype(np.float64)
    T_ego_cam = frame_set.T_ego_cam[present].astype(np.float64)
    if sample.truth is None:
        return _sweep_depth(sample.lidar, frame_set, present, K, T_ego_cam, most)
    truth = sample.truth
    lattice = (present, slice(stride // 2, None, stride), slice(stride // 2, None, stride))
    rows, columns = (np.arange(n)[lattice[1]] for n in truth.depth.shape[1:])
    pixels = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(1, -1, 2).repeat(len(present), axis=0)
    flow = None if truth.flow_forward is None else truth.flow_forward[lattice].reshape(*pixels.shape)
    T_next_ego = None
    if sample.T_world_ego_next is not None:
        T_next_ego = np.linalg.inv(sample.T_world_ego_next) @ frame_set.T_world_ego
    depth = truth.depth[lattice].reshape(pixels.shape[:2]).astype(np.float64)
    return DepthTruth(
        K,
        T_ego_cam,
        pixels.astype(np.float64),
        np.where(np.isfinite(depth), depth, np.nan),
        flow if T_next_ego is not None else None,
        truth.movable[lattice].reshape(pixels.shape[:2]),
        T_next_ego,
        sample.flow_interval,
    )


def _sweep_depth(
    lidar: np.ndarray, frame_set: FrameSet, present: list[int], K: np.ndarray, T_ego_cam: np.ndarray, most: int
) -> DepthTruth:
    """The nearest return on each pixel of each camera; cameras are padded with NaN to the largest number of pixels."""
    from letocc_core.geometry.camera import project_lidar

    maps = [
        project_lidar(lidar, K[row], T_ego_cam[row], frame_set.calibrations[i].height, frame_set.calibrations[i].width)
        for row, i in enumerate(present)
    ]
    places = [p[:: len(p) // most + 1] for p in (np.argwhere(m > 0) for m in maps)]
    size = max(map(len, places))
    pixels, depth = np.zeros((len(maps), size, 2)), np.full((len(maps), size), np.nan)
    for row, (image, place) in enumerate(zip(maps, places, strict=True)):
        pixels[row, : len(place)] = place[:, ::-1]
        depth[row, : len(place)] = image[tuple(place.T)]
    return DepthTruth(K, T_ego_cam, pixels, depth)


@dataclass(frozen=True, eq=False)
class _Surface:
    """A signed distance field alone, for the renderer."""

    sdf: Float[torch.Tensor, "1 1 X Y Z"]  # m
    flow: None = None
    semantics: None = None


@torch.no_grad()
def render_depth(
    sdf: Float[np.ndarray, "X Y Z"], grid: GridSpec, target: DepthTruth, config: EvaluationConfig = EvaluationConfig()
) -> Float[np.ndarray, "N M"]:
    """Depth (m) of a signed distance field at the pixels of `target`, by the renderer that training uses."""
    from letocc_core.rendering.rays import rays_through
    from letocc_core.rendering.render import render

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]

    rays = rays_through(tensor(target.pixels), tensor(target.K), tensor(target.T_ego_cam), grid)
    surface = _Surface(tensor(sdf)[None])
    return render(surface, grid, rays, samples=config.samples, beta=config.beta).depth[0].numpy()


def depth_images(
    sdf: Float[np.ndarray, "X Y Z"], grid: GridSpec, frame_set: FrameSet, columns: int = 240
) -> list[Float[np.ndarray, "h w"] | None]:
    """Rendered depth (m) of each camera for pictures; NaN where the ray leaves the box.

    At every second pixel, of large images at fewer: at most `columns` a row.
    """
    out: list[np.ndarray | None] = []
    for image, calibration, T in zip(frame_set.images, frame_set.calibrations, frame_set.T_ego_cam, strict=True):
        if image is None:
            out.append(None)
            continue
        stride = max(2, -(-calibration.width // columns))
        v, u = np.mgrid[stride // 2 : calibration.height : stride, stride // 2 : calibration.width : stride]
        pixels = np.stack([u, v], axis=-1).reshape(1, -1, 2).astype(np.float64)
        target = DepthTruth(calibration.K[None], T[None], pixels, np.zeros(pixels.shape[:2]))
        depth = render_depth(sdf, grid, target)
        points = target.points(depth * 1.001)
        inside = ((points >= grid.lower) & (points < grid.upper)).all(-1)
        out.append(np.where(inside, depth, np.nan).reshape(u.shape))
    return out


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
        drive = sequences.RecordedDrive(Path(data), **bag_frames(metadata["config"]))
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
    street = sequences.simulated_street(
        seed, rig, pipeline.model.config.grid, pipeline.input.image_size, config.times()
    )
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
    moments = sequences.simulated_street(seed, rig, grid, (32, 56), (0.0, seconds / 2, seconds))
    return baselines.mean_of(sample.truth.occupancy for sample in moments)


def moment_of(sample: Sample, output: OccFlow, cameras: Sequence[str], depth: bool = True):
    """A sample and its output as a `viz.overview.Moment`, ready for a picture.

    Args:
        cameras: names, in the order of the sample's images.
        depth: render depth from the output; without it the picture has no depth rows (faster).
    """
    from letocc_core.viz.overview import Moment, left_to_right

    truth, frame_set, grid = sample.truth, sample.frame_set, output.grid
    known: dict[str, Any] = {}
    if truth is not None:
        known = {
            "true_occupied": truth.occupancy != FREE,
            "true_velocity": truth.velocity,
            "true_seen": truth.visible,
        }
    elif sample.lidar is not None:
        known["true_occupied"] = _holding_returns(sample.lidar, grid)
    if depth:
        known["depth"] = depth_images(sdf_of(output), grid, frame_set)
        if truth is not None:
            known["true_depth"] = _true_depth_images(truth, frame_set, grid)
    return Moment(output, frame_set.images, cameras, order=left_to_right(frame_set.T_ego_cam), **known)


def _true_depth_images(truth: Truth, frame_set: FrameSet, grid: GridSpec) -> list[Float[np.ndarray, "h w"] | None]:
    """True depth (m) of each camera where the point seen lies in the box; NaN elsewhere."""
    out: list[np.ndarray | None] = []
    for i, image in enumerate(frame_set.images):
        if image is None:
            out.append(None)
            continue
        v, u = np.indices(truth.depth[i].shape)
        pixels = np.stack([u, v], axis=-1).reshape(1, -1, 2).astype(np.float64)
        depth = np.where(np.isfinite(truth.depth[i]), truth.depth[i], np.nan).reshape(1, -1)
        target = DepthTruth(frame_set.calibrations[i].K[None], frame_set.T_ego_cam[i][None], pixels, depth)
        out.append(np.where(target.inside(grid), depth, np.nan).reshape(truth.depth[i].shape))
    return out


def _holding_returns(points: Float[np.ndarray, "P 3"], grid: GridSpec) -> np.ndarray:
    """Voxels that hold a LiDAR return (m, ego axes)."""
    voxel, inside = grid.to_voxel(torch.from_numpy(np.nan_to_num(points, nan=np.inf)))
    occupied = np.zeros(grid.shape, bool)
    occupied[tuple(voxel[inside].numpy().T)] = True
    return occupied
