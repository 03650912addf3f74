"""A checkpoint on its way through a bag: its answers, their scores, and the image sets worth showing."""

import csv
import heapq
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from letocc_core.checkpoint import read_metadata
from letocc_core.data.bags.answers import AnswerBag
from letocc_core.evaluation.samples import RecordedDrive, Sample
from letocc_core.evaluation.score import Scorer, Tally
from letocc_core.metrics import frame_score, results
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.stream.types import OccFlow
from letocc_core.versions import versions
from letocc_core.viz.viewers.scene import guessed, surface

WORST = (
    ("ray_iou_objects", "mean", -1),
    ("depth", "abs_rel", 1),
    ("novel_view", "l1", 1),
)  # first that is known; sign: 1 = more is worse
UNKNOWN = float("-inf")  # badness of a set without truth
SHOWN = 4  # sets with pictures


@dataclass(frozen=True)
class Instant:
    """What is kept of one answered set."""

    stamp_ns: int
    figures: dict[str, dict[str, float]]  # groups of the results format, of this set alone
    seconds: dict[str, float]  # s, by stage
    reset_reason: str | None
    seen: int  # occupied voxels that a camera sees
    guessed: int  # above the threshold behind surfaces, and where none looks


class Candidate:
    """One checkpoint on the way through the bag."""

    def __init__(
        self,
        name: str,
        checkpoint: Path,
        folder: Path,
        drive: RecordedDrive,
        device: str = "cpu",
        backend: str = "torch",
    ):
        self.name, self.checkpoint, self.folder = name, checkpoint, folder
        self.metadata = read_metadata(checkpoint)
        self.pipeline = OccFlowPipeline.from_checkpoint(checkpoint, device=device, backend=backend)
        self.scorer = Scorer(drive.track)
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
        counts = int(surface(answer).sum()), int(guessed(answer).sum())
        self.instants.append(Instant(answer.stamp_ns, figures, answer.seconds, answer.reset_reason, *counts))
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
        with (self.folder / "frames.csv").open("w", newline="", encoding="utf-8") as file:
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
