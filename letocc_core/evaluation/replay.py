"""A bag through the online path, offline and without ROS: what it gives is what the live node would publish.

    letocc replay BAG --checkpoint models/street.safetensors --out out/replay
    letocc replay BAG --compare OLD.safetensors NEW.safetensors --out out/replay
    letocc replay BAG --checkpoint models/street.safetensors --save out/run.rrd

Every set is answered, and scored against whatever truth the bag has, by the code of `letocc eval`. The folder then holds,
for each checkpoint, metrics.json (docs/results-format.md), frames.csv (the same figures set by set) and the bag `answers`;
and report.html, which shows all of it.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from letocc_core.checkpoint import read_metadata
from letocc_core.data.bags.reader import open_bag
from letocc_core.errors import ConfigError
from letocc_core.evaluation.candidate import Candidate, Gallery
from letocc_core.evaluation.checkpoint import bag_frames, with_masks
from letocc_core.evaluation.moment import scene_of
from letocc_core.evaluation.samples import RecordedDrive
from letocc_core.metrics import results
from letocc_core.viz.viewers.logs import ViewOptions, open_logs


def replay_to_folder(
    bag: str | Path,
    checkpoints: Sequence[str | Path],
    out: str | Path,
    device: str = "cpu",
    command: str = "",
    reading: Mapping[str, Any] | None = None,
    view: ViewOptions = ViewOptions(),
    backend: str = "torch",
) -> list[dict[str, Any]]:
    """Replay a bag with one or more checkpoints into `out`; returns a summary of each, which is also printed.

    One checkpoint writes into `out` itself, several into a folder each; `out/report.html` shows them side by side.

    Args:
        reading: arguments of `RecordedDrive` over those of the recordings that the first checkpoint was trained on.
        backend: what computes the network (`OccFlowPipeline.from_checkpoint`).
        view: where the sets go besides, as they are answered; for one checkpoint.

    Raises:
        CheckpointError, DataError: a checkpoint or the bag cannot be used, or `out` holds answers already.
        ConfigError: a viewer is asked for, and several checkpoints. What `open_logs` raises.
    """
    from tqdm import tqdm

    from letocc_core.evaluation.report import figures_of, report

    if view != ViewOptions() and len(checkpoints) > 1:
        raise ConfigError(
            "a viewer shows one checkpoint; replay them one after the other, or leave --save, --view and --web out"
        )
    bag, out = Path(bag), Path(out)
    metadata = read_metadata(checkpoints[0])
    drive = RecordedDrive(bag, **bag_frames(metadata["config"], with_masks(metadata, checkpoints[0], reading)))
    candidates = _candidates([Path(c) for c in checkpoints], out, drive, device, backend)
    gallery = Gallery(_count_sets(bag, drive))
    recording = drive.recording
    with open_logs(view, recording.config.base_frame, recording.config.fixed_frame) as logs:
        begin = time.perf_counter()
        with ExitStack() as stack:
            for candidate in candidates:
                candidate.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(candidate.bag)
            bar = tqdm(drive, total=gallery.total, unit="set", desc="replay", dynamic_ncols=True)
            for position, sample in enumerate(bar):
                answers = [candidate.take(sample) for candidate in candidates]
                figures = [c.instants[-1].figures for c in candidates]
                gallery.consider(position, sample, answers, figures)
                logs.add(scene_of(sample, answers[0], recording.cameras, figures_of(figures[0]), recording.dropped))
        wall = time.perf_counter() - begin
        print(recording.report(), file=sys.stderr)
        summaries = [_summary(candidate, bag, drive, wall) for candidate in candidates]
        for candidate, summary in zip(candidates, summaries, strict=True):
            results.write_results(candidate.folder / "metrics.json", candidate.results(command))
            candidate.write_frames()
            print(json.dumps(summary, indent=2))
        report(bag, candidates, summaries, gallery, recording.cameras, command).write(out / "report.html")
        print(out / "report.html")
    return summaries


def _candidates(checkpoints: list[Path], out: Path, drive: RecordedDrive, device: str, backend: str) -> list[Candidate]:
    if len(checkpoints) == 1:
        return [Candidate(checkpoints[0].stem, checkpoints[0], out, drive, device, backend)]
    stems = [c.stem for c in checkpoints]
    names = stems if len(set(stems)) == len(stems) else [f"{chr(65 + i)}_{stem}" for i, stem in enumerate(stems)]
    return [Candidate(name, c, out / name, drive, device, backend) for name, c in zip(names, checkpoints, strict=True)]


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
