"""Runs a checkpoint over a data set and fills in our row of the papers' tables.

letocc eval CHECKPOINT --dataset nuscenes --table letoccflow-3 data.root=/data/nuscenes
letocc eval CHECKPOINT --dataset simulator --table all data.scenes=2
"""

import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from letocc_core import config as configuration
from letocc_core.data.config import DataConfig
from letocc_core.errors import ConfigError, DataError
from letocc_core.evaluation.config import EvaluationConfig
from letocc_core.evaluation.samples import LabelledDrive, RecordedDrive, Sample, lidar_track, simulated_street
from letocc_core.evaluation.tables.measure import Measurement
from letocc_core.evaluation.tables.published import Ours, Table, find_table, load_tables, report
from letocc_core.frame import InputConfig
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics import results
from letocc_core.versions import versions

if TYPE_CHECKING:
    from letocc_core.stream.pipeline import OccFlowPipeline

OF_BAGS = (
    "cameras",
    "base_frame",
    "fixed_frame",
    "slop",
    "odometry_topic",
    "lidar_topic",
    "body_masks",
)  # of `data.bag`
EVALUATION_STREETS = {"first_seed": 9000, "scenes": 8}  # simulated streets that no training sees


@dataclass(frozen=True)
class Judged:
    """A drive, and which of its samples are judged; the others only lead up to them."""

    name: str
    samples: Iterable[Sample]
    track: Float[np.ndarray, "n 3"]  # m, fixed frame, where the LiDAR is
    positions: Container[int]


@dataclass(frozen=True)
class TableRequest:
    """What `letocc eval --table` is asked."""

    checkpoint: Path
    tables: tuple[str, ...]  # names, or all
    dataset: str | None = None  # a section of `data:`; None: what the tables are of
    overrides: tuple[str, ...] = ()  # data.KEY=VALUE of that section, protocol.KEY=VALUE of the tables
    frames: range | None = None  # positions in each drive to judge; None: all
    json: Path | None = None
    command: str = ""
    device: str = "cpu"
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def evaluate_tables(request: TableRequest) -> dict[str, Ours]:
    """Measure, print the tables with our row, write the figures; returns our rows by table.

    Raises:
        ConfigError: no such table or data set, or a key that it does not have.
        CheckpointError: the checkpoint cannot be used.
        DataError: the data cannot be used, or no frame of it gave a figure.
    """
    from letocc_core.checkpoint import load_model
    from letocc_core.stream.pipeline import OccFlowPipeline

    names = tuple(load_tables()) if request.tables == ("all",) else request.tables
    protocol = [item for item in request.overrides if item.startswith("protocol.")]
    of_data = [item for item in request.overrides if item.startswith("data.")]
    stray = [item for item in request.overrides if item not in (*protocol, *of_data)]
    if stray:
        raise ConfigError(f"'{stray[0]}': expected protocol.KEY=VALUE or data.KEY=VALUE")
    tables = {name: find_table(name).with_overrides(protocol) for name in names}
    model, input, metadata = load_model(request.checkpoint, request.device)
    pipeline = OccFlowPipeline(model, input, device=request.device)
    trained = metadata.get("config", {}).get("data") or {}
    found: dict[str, Ours] = {}
    count: dict[str, int] = {}
    for dataset, labels, group in _together(tables, request.dataset):
        data = data_config(dataset, labels, trained, of_data)
        measurements = {
            name: Measurement(
                table.protocol, model.config.grid, input, request.evaluation, model.config.fields.class_names
            )
            for name, table in group.items()
        }
        drives = list(run(pipeline, open_drives(data, model.config.grid, input), measurements.values(), request.frames))
        count[dataset] = len(drives)
        for name, table in group.items():
            found[name] = _our_row(request, table, measurements[name], dataset, drives, bool(protocol))
    if not any(ours.frames for ours in found.values()):
        reasons = sorted({why for ours in found.values() for why in ours.missing.values()})
        raise DataError(f"no frame gave a figure for {', '.join(names)}: {'; '.join(reasons) or 'the data is empty'}")
    for name, table in tables.items():
        print(report(table, found.get(name)))
    if request.json is not None:
        results.write_results(request.json, _whole(request, found, metadata, count))
    return found


def data_config(dataset: str, labels: str, trained: Mapping[str, Any], overrides: Sequence[str] = ()) -> DataConfig:
    """The data set to evaluate on: as the checkpoint was trained on it, but its validation split, then `overrides`."""
    section = dict(trained.get(dataset) or {})
    if dataset == "simulator":
        section |= EVALUATION_STREETS
    elif dataset != "bag":
        section |= {"split": "val"}
        section |= {"labels": labels} if labels else {}
    data: dict[str, Any] = {dataset: section}
    for item in overrides:
        key = item.removeprefix("data.")
        configuration.override(data, key if key.startswith(("cache=", "workers=")) else f"{dataset}.{key}")
    return configuration.from_dict(DataConfig, data, f"data of {dataset}")


def open_drives(data: DataConfig, grid: GridSpec, input: InputConfig) -> Iterator[Judged]:
    """The drives of a data set, one after the other, with whatever is known about their frames.

    Args:
        grid: on which simulated streets are known.
        input: size and pace of their images.
    """
    if data.simulator is not None:
        streets = data.simulator
        times = np.arange(streets.frames) * input.history_interval
        for seed in range(streets.first_seed, streets.first_seed + streets.scenes):
            samples = simulated_street(seed, streets.rig, grid, input.image_size, times)
            yield Judged(f"street {seed}", samples, lidar_track(samples), frozenset(range(len(samples))))
    elif data.bag is not None:
        for bag in data.bag.bags:
            recorded = RecordedDrive(bag, input=input, **{name: getattr(data.bag, name) for name in OF_BAGS})
            yield Judged(str(bag), recorded, recorded.track, range(sys.maxsize))
    elif data.recorded is not None:
        from letocc_core.data.build import open_drives

        for drive in open_drives(data.recorded, data.cache):
            labelled = LabelledDrive(drive)
            yield Judged(drive.name, labelled, labelled.track, frozenset(np.flatnonzero(drive.current).tolist()))


def run(
    pipeline: "OccFlowPipeline",
    drives: Iterable[Judged],
    measurements: Iterable[Measurement],
    frames: range | None = None,
) -> Iterator[str]:
    """Answer every sample of every drive, let all measurements see it, and name the drives that are done."""
    from tqdm import tqdm

    measurements = list(measurements)
    for drive in drives:
        pipeline.reset("a new sequence begins")
        for measurement in measurements:
            measurement.begin(drive.track)
        bar = tqdm(drive.samples, desc=drive.name, unit="set", file=sys.stderr, dynamic_ncols=True)
        for position, sample in enumerate(bar):
            if frames is not None and position >= frames.stop and not any(m.waits for m in measurements):
                break
            pipeline.step(sample.frame_set)
            judged = position in drive.positions and (frames is None or position in frames)
            for measurement in measurements:
                measurement.add(sample, pipeline.fields if judged else None)
        yield drive.name


def _together(tables: Mapping[str, Table], dataset: str | None) -> Iterator[tuple[str, str, dict[str, Table]]]:
    """Tables that one pass over a data set can measure: (data set, labels, tables). Others are left out."""
    groups: dict[tuple[str, str], dict[str, Table]] = {}
    for name, table in tables.items():
        on = dataset or table.dataset
        if on in ("simulator", "bag") or on == table.dataset or len(tables) == 1:
            groups.setdefault((on, table.labels if on == table.dataset else ""), {})[name] = table
    if not groups:
        raise ConfigError(f"none of the tables asked for is of data set '{dataset}'")
    for (on, labels), group in groups.items():
        yield on, labels, group


def _our_row(
    request: TableRequest, table: Table, measured: Measurement, dataset: str, drives: list[str], changed: bool
) -> Ours:
    """Our figures, and why they cannot be compared with those printed."""
    unlike = []
    if dataset != table.dataset:
        unlike.append(f"measured on {dataset}, the others on {table.dataset}")
    elif table.frames is None or measured.frames != table.frames:
        unlike.append(f"{measured.frames} frames, the others {table.frames or 'the whole split'}")
    if table.protocol.scene_flow is not None:
        unlike.append(f"flow of {table.protocol.scene_flow.estimator} counts as truth, in the paper that of UniMatch")
    if changed:
        unlike.append("the protocol was changed")
    data = (
        f"{dataset}, {len(drives)} drives ({drives[0]} to {drives[-1]})"
        if len(drives) > 1
        else ", ".join([dataset, *drives])
    )
    return Ours(
        f"ours ({request.checkpoint.stem})", data, measured.frames, measured.figures(), measured.missing, tuple(unlike)
    )


def _whole(
    request: TableRequest, found: Mapping[str, Ours], metadata: Mapping[str, Any], drives: Mapping[str, int]
) -> dict[str, Any]:
    """A result file with our rows by table. Of its own groups only scene flow is what a table measures."""
    scene_flow = [ours.figures["scene_flow"] for ours in found.values() if "scene_flow" in ours.figures]
    return {
        **({"scene_flow": scene_flow[0]} if scene_flow else {}),
        "tables": {name: asdict(ours) for name, ours in found.items()},
        "scenes": max(drives.values()),
        "frames": max(ours.frames for ours in found.values()),
        "checkpoint": str(request.checkpoint),
        "config": metadata.get("config", {}),
        **({"trained": metadata["trained"]} if "trained" in metadata else {}),
        "versions": versions(),
        "command": request.command,
    }
