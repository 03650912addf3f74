"""A bag through the online path, offline and without ROS: what it gives is what the live node would publish.

letocc replay BAG --checkpoint models/street.safetensors --out out/replay
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from letocc_core.data.recording import Recording
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.stream.types import OccFlow


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


def replay_to_folder(bag: str | Path, checkpoint: str | Path, out: str | Path) -> dict:
    """Replay a bag into `out`: NNNNNN.npz for each set, and summary.json, which is also printed and returned.

    Each .npz holds stamp_ns, probability (float16 [X, Y, Z]), observed (bool [X, Y, Z]), occupied (int32 [n, 3]: their
    indices) and velocity (float32 [n, 2] m/s, of the occupied voxels). Raises what `Replay` does.
    """
    from tqdm import tqdm

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    replay = Replay(bag, checkpoint)
    seconds: dict[str, list[float]] = {}
    steps = 0
    for answer in tqdm(replay, unit="set", desc="replay", dynamic_ncols=True):
        _write(out / f"{steps:06d}.npz", answer)
        steps += 1
        for stage, value in answer.seconds.items():
            seconds.setdefault(stage, []).append(value)
    summary = {
        "bag": str(bag),
        "checkpoint": str(checkpoint),
        "sets": steps,
        "dropped": dict(replay.recording.dropped),
        "resets": dict(replay.pipeline.resets),
        "median_ms": {stage: round(1e3 * float(np.median(values)), 2) for stage, values in seconds.items()},
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))
    return summary


def _write(path: Path, answer: OccFlow) -> None:
    occupied = answer.occupied
    np.savez_compressed(
        path,
        stamp_ns=answer.stamp_ns,
        probability=answer.probability.astype(np.float16),
        observed=answer.observed,
        occupied=np.argwhere(occupied).astype(np.int32),
        velocity=answer.velocity[occupied],
    )
