"""A bag through the online path, offline and without ROS: what it gives is what the live node would publish.

    letocc replay BAG --checkpoint models/street.safetensors --out out/replay
    letocc replay BAG --compare OLD.safetensors NEW.safetensors --out out/replay

Every set is answered, and scored against whatever truth the bag has, by the code of `letocc eval`. The folder then holds,
for each checkpoint, metrics.json (docs/results-format.md), frames.csv (the same figures set by set) and the bag `answers`;
and report.html, which shows all of it.
"""

import csv
import heapq
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from letocc_core import evaluate
from letocc_core.checkpoint import read_metadata
from letocc_core.data.answer_bag import AnswerBag
from letocc_core.data.bag import open_bag
from letocc_core.data.recording import Recording
from letocc_core.data.sequences import RecordedDrive, Sample
from letocc_core.evaluate import Scorer, Tally
from letocc_core.metrics import frame_score, results
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.stream.types import OccFlow
from letocc_core.versions import versions

WORST = (
    ("ray_iou_objects", "mean", -1),
    ("depth", "abs_rel", 1),
    ("novel_view", "l1", 1),
)  # first that is known; sign: 1 = more is worse
UNKNOWN = float("-inf")  # badness of a set without truth
SHOWN = 4  # sets with pictures


class Replay:
    """The answers for all sets of a bag, in order; each iteration starts from the beginning.

    Args:
        bag: folder or file.
        checkpoint: of the model.
        cameras: names, the first is the anchor; empty for all.
        base_frame: ego frame.
        fixed_frame: frame in which the world stands still.
        threshold: a voxel is occupied above this probability (default: the model's own).

    After an iteration `recording.dropped` and `pipeline.resets` say what was lost. Raises `CheckpointError` and
    `DataError` as `checkpoint.load_model` and `Recording` do.
    """

    def __init__(
        self,
        bag: str | Path,
        checkpoint: str | Path,
        cameras: Sequence[str] = (),
        base_frame: str = "base_link",
        fixed_frame: str = "odom",
        threshold: float | None = None,
        device: str = "cpu",
    ):
        self.pipeline = OccFlowPipeline.from_checkpoint(checkpoint, threshold, device)
        self.recording = Recording(bag, cameras, base_frame, fixed_frame, lidar=False)

    def __iter__(self) -> Iterator[OccFlow]:
        if self.pipeline.steps:
            self.pipeline.reset("a new replay begins")
        for item in self.recording:
            yield self.pipeline.step(item.frame_set)


@dataclass(frozen=True)
class Instant:
    """What is kept of one answered set."""

    stamp_ns: int
    figures: dict[str, dict[str, float]]  # groups of the results format, of this set alone
    seconds: dict[str, float]  # s, by stage
    reset_reason: str | None


class Candidate:
    """One checkpoint on the way through the bag."""

    def __init__(self, name: str, checkpoint: Path, folder: Path, drive: RecordedDrive, device: str = "cpu"):
        self.name, self.checkpoint, self.folder = name, checkpoint, folder
        self.metadata = read_metadata(checkpoint)
        self.pipeline = OccFlowPipeline.from_checkpoint(checkpoint, device=device)
        self.scorer = Scorer(self.pipeline, drive.track if drive.truth else np.zeros((0, 3)))
        self.tally = Tally(scenes=1)
        self.instants: list[Instant] = []
        self.bag = AnswerBag(folder / "answers", drive.recording.config.base_frame, drive.recording.config.fixed_frame)

    def take(self, sample: Sample) -> OccFlow:
        """Answer a set, write the answer, and score it if the network has its whole past."""
        answer = self.pipeline.step(sample.frame_set)
        self.bag.write(answer, sample.frame_set.T_world_ego)
        figures = {}
        warm = self.pipeline.steps > self.pipeline.model.config.temporal.frames
        if scores := self.scorer.score(sample, answer, wanted=warm):
            self.tally += Tally(scores, frames=1)
            figures = frame_score.summary(scores["letocc"])
        self.instants.append(Instant(answer.stamp_ns, figures, answer.seconds, answer.reset_reason))
        return answer

    def results(self, command: str) -> dict[str, Any]:
        """The results format."""
        return {
            **self.tally.results(),
            "checkpoint": str(self.checkpoint),
            "config": self.metadata["config"],
            "versions": versions(),
            "command": command,
        }

    def write_frames(self) -> None:
        """frames.csv: a line a set, a column a figure; empty where it has none."""
        columns = [(g, k) for g, keys in results.GROUPS.items() for k in keys]
        known = [c for c in columns if any(c[1] in i.figures.get(c[0], {}) for i in self.instants)]
        with (self.folder / "frames.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["stamp_ns", *(f"{group}.{key}" for group, key in known)])
            for instant in self.instants:
                writer.writerow([instant.stamp_ns, *(instant.figures.get(g, {}).get(k, "") for g, k in known)])

    def median_ms(self) -> dict[str, float]:
        """Median time of each stage, ms."""
        stages = self.instants[0].seconds
        return {s: round(1e3 * float(np.median([i.seconds[s] for i in self.instants])), 2) for s in stages}


@dataclass
class Gallery:
    """The sets to show: the worst ones, or, where nothing is known, some spread over the bag."""

    total: int  # sets to expect
    kept: list[tuple[float, int, Sample, list[OccFlow]]] = field(default_factory=list)

    def consider(self, position: int, sample: Sample, answers: list[OccFlow], figures: list[dict]) -> None:
        """Keep a set if it is among the worst so far, by the checkpoint that does worst on it."""
        badness = max(_badness(f) for f in figures)
        if badness > UNKNOWN or position in np.linspace(0, self.total - 1, SHOWN + 2).astype(int)[1:-1]:
            entry = (badness, position, sample, answers)
            (heapq.heappush if len(self.kept) < SHOWN else heapq.heappushpop)(self.kept, entry)

    def worst_first(self) -> list[tuple[float, int, Sample, list[OccFlow]]]:
        """The sets kept; those of which nothing is known only if that is so of all."""
        known = [entry for entry in self.kept if entry[0] > UNKNOWN]
        return sorted(known or self.kept, reverse=True)


def _badness(figures: dict[str, dict[str, float]]) -> float:
    for group, key, sign in WORST:
        if key in figures.get(group, {}):
            return sign * figures[group][key]
    return UNKNOWN


def replay_to_folder(
    bag: str | Path, checkpoints: Sequence[str | Path], out: str | Path, device: str = "cpu", command: str = ""
) -> list[dict[str, Any]]:
    """Replay a bag with one or more checkpoints into `out`; returns a summary of each, which is also printed.

    One checkpoint writes into `out` itself, several into a folder each; `out/report.html` shows them side by side.

    Raises:
        CheckpointError, DataError: a checkpoint or the bag cannot be used, or `out` holds answers already.
    """
    from tqdm import tqdm

    from letocc_core.replay_report import report

    bag, out = Path(bag), Path(out)
    drive = RecordedDrive(bag, **evaluate.bag_frames(read_metadata(checkpoints[0])["config"]))
    candidates = _candidates([Path(c) for c in checkpoints], out, drive, device)
    gallery = Gallery(_count_sets(bag, drive))
    begin = time.perf_counter()
    with ExitStack() as stack:
        for candidate in candidates:
            candidate.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(candidate.bag)
        bar = tqdm(drive, total=gallery.total, unit="set", desc="replay", dynamic_ncols=True)
        for position, sample in enumerate(bar):
            answers = [candidate.take(sample) for candidate in candidates]
            gallery.consider(position, sample, answers, [c.instants[-1].figures for c in candidates])
    wall = time.perf_counter() - begin
    summaries = [_summary(candidate, bag, drive, wall) for candidate in candidates]
    for candidate, summary in zip(candidates, summaries, strict=True):
        results.write_results(candidate.folder / "metrics.json", candidate.results(command))
        candidate.write_frames()
        print(json.dumps(summary, indent=2))
    report(bag, candidates, summaries, gallery, drive.recording.cameras, command).write(out / "report.html")
    print(out / "report.html")
    return summaries


def _candidates(checkpoints: list[Path], out: Path, drive: RecordedDrive, device: str) -> list[Candidate]:
    if len(checkpoints) == 1:
        return [Candidate(checkpoints[0].stem, checkpoints[0], out, drive, device)]
    stems = [c.stem for c in checkpoints]
    names = stems if len(set(stems)) == len(stems) else [f"{chr(65 + i)}_{stem}" for i, stem in enumerate(stems)]
    return [Candidate(name, c, out / name, drive, device) for name, c in zip(names, checkpoints, strict=True)]


def _count_sets(bag: Path, drive: RecordedDrive) -> int:
    """Images of the anchor camera: as many sets at most."""
    with open_bag(bag) as opened:
        anchor = opened.choose_cameras(drive.recording.cameras)[0]
        return sum(c.msgcount for c in opened.connections if c.topic == anchor.image_topic)


def _summary(candidate: Candidate, bag: Path, drive: RecordedDrive, wall: float) -> dict[str, Any]:
    """What happened, and how fast: times differ from run to run, so they stand apart from metrics.json."""
    stamps = [i.stamp_ns for i in candidate.instants]
    inference = sum(sum(i.seconds.values()) for i in candidate.instants)
    recorded = (stamps[-1] - stamps[0]) * 1e-9
    return {
        "bag": str(bag),
        "checkpoint": str(candidate.checkpoint),
        "sets": len(stamps),
        "scored": candidate.tally.frames,
        "dropped": dict(drive.recording.dropped),
        "resets": dict(candidate.pipeline.resets),
        "median_ms": candidate.median_ms(),
        "recorded_s": round(recorded, 2),
        "inference_s": round(inference, 2),
        "wall_s": round(wall, 2),
    }
