"""Looking at answers afterwards: a snapshot of the node, or a bag of answers.

letocc view node_1700000000.npz      # the picture, and the same answer again, computed offline
letocc view out/replay/answers       # a bag of answers, in the viewer
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from letocc_core.data.bags.answers import read_placed_answers
from letocc_core.errors import DataError
from letocc_core.evaluation.depth import depth_images
from letocc_core.evaluation.moment import scene_of
from letocc_core.evaluation.samples import RecordedDrive
from letocc_core.stream.pipeline import reproduce
from letocc_core.stream.snapshot import Snapshot
from letocc_core.stream.types import OccFlow
from letocc_core.viz.overview import Moment, left_to_right, overview, save_png
from letocc_core.viz.viewers.logs import ViewOptions, open_logs
from letocc_core.viz.viewers.scene import Scene

TOLERANCE = 1e-4  # of probabilities, and m/s: other machines and numbers of threads round otherwise


@dataclass(frozen=True)
class Difference:
    """How far an answer is from another to the same sets."""

    probability: float  # largest difference of a voxel's
    velocity: float  # m/s, largest difference of a component
    occupied: int  # voxels occupied in one of them only

    @classmethod
    def between(cls, first: OccFlow, second: OccFlow) -> "Difference":
        """Raises `DataError` for answers on different grids."""
        if first.grid != second.grid:
            raise DataError(f"answers on different grids: {first.grid} and {second.grid}; use the node's checkpoint")
        return cls(
            float(np.abs(first.probability - second.probability).max()),
            float(np.abs(first.velocity - second.velocity).max()),
            int((first.occupied != second.occupied).sum()),
        )

    @property
    def equal(self) -> bool:
        """Within rounding."""
        return max(self.probability, self.velocity) <= TOLERANCE

    def __str__(self) -> str:
        if self.probability == self.velocity == self.occupied == 0:
            return "the same answer, bit by bit"
        return (
            f"{'the same answer' if self.equal else 'ANOTHER ANSWER'}: largest difference {self.probability:.2g} in "
            f"probability, {self.velocity:.2g} m/s in velocity; {self.occupied} voxels occupied in one of them only"
        )


def view_snapshot(path: Path, out: Path, checkpoint: Path | None = None, device: str = "cpu") -> Difference:
    """Write a picture of a snapshot to `out`, and compute its answer again from its images and poses.

    Args:
        checkpoint: by default the one that the snapshot names.

    Returns:
        How far the new answer is from the saved one.

    Raises:
        DataError: not a snapshot, or it names no checkpoint and none is given. CheckpointError: it cannot be used.
    """
    snapshot = Snapshot.load(path)
    checkpoint = checkpoint or snapshot.about.get("checkpoint")
    if not checkpoint:
        raise DataError(f"{path}: does not say which checkpoint answered; give it with --checkpoint")
    save_png(out, overview(moment_of(snapshot), f"Snapshot {path.name}", caption(snapshot)))
    return Difference.between(snapshot.answer, reproduce(snapshot, checkpoint, device))


def show_snapshot(path: Path, options: ViewOptions) -> None:
    """The answered set of a snapshot in viewers. Raises `DataError` for a file that is none."""
    snapshot = Snapshot.load(path)
    last, answer = snapshot.sets[-1], snapshot.answer
    with open_logs(options) as logs:
        logs.add(Scene(answer, last.T_world_ego, last, _camera_names(snapshot)))


def show_answers(path: Path, options: ViewOptions, recording: Path | None = None) -> int:
    """A bag of answers in viewers, with the images, the LiDAR and the truth of the recording that they came from.

    Returns how many answers there are. Raises `DataError` for a bag without any, or a recording whose sets have none of
    their stamps.
    """
    count = matched = 0
    drive = RecordedDrive(recording) if recording else None
    samples = iter(drive) if drive else iter(())
    sample = next(samples, None)
    with open_logs(options) as logs:
        for answer, pose in read_placed_answers(path):
            while sample is not None and sample.frame_set.stamp_ns < answer.stamp_ns:
                sample = next(samples, None)
            if drive and sample is not None and sample.frame_set.stamp_ns == answer.stamp_ns:
                logs.add(scene_of(sample, answer, drive.recording.cameras, dropped=drive.recording.dropped))
                matched += 1
            else:
                logs.add(Scene(answer, pose))
            count += 1
        if drive and not matched:
            raise DataError(
                f"{recording}: no image set has the stamp of an answer in {path}; give the bag they came from"
            )
    return count


def moment_of(snapshot: Snapshot) -> Moment:
    """The answer and its images, ready for a picture."""
    last, answer = snapshot.sets[-1], snapshot.answer
    names = _camera_names(snapshot)
    depth = depth_images(answer.probability, answer.grid, last)
    return Moment(answer, last.images, names, depth, order=left_to_right(last.T_ego_cam))


def _camera_names(snapshot: Snapshot) -> list[str]:
    names, images = list(snapshot.about.get("cameras", ())), snapshot.sets[-1].images
    if len(names) != len(images):  # a fisheye camera has become several views
        names = [f"view_{i}" for i in range(len(images))]
    return names


def caption(snapshot: Snapshot) -> str:
    """What the file says about itself, in a line."""
    made = snapshot.about.get("versions", {})
    words = [f"{snapshot.answer.stamp_ns} ns", f"{len(snapshot.sets)} image sets"]
    words += [f"{name} {made[name]}" for name in ("letocc", "git", "torch") if name in made]
    return ", ".join(words)
