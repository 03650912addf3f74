"""`letocc bench`: one run, one table a subject, and everything that the figures depend on beside them.

letocc bench --checkpoint models/street.safetensors --threads 1 --json out/bench.json
letocc bench training --config config/street.yaml
letocc bench inference --compare eager,onnxruntime,openvino,depth-anything,attention
"""

import json
import resource
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from letocc_core import checkpoint
from letocc_core import config as configuration
from letocc_core.bench import compare, inference, loading, training
from letocc_core.bench.machine import Peak, describe, measure_peak
from letocc_core.bench.parts import REST, Parts, Row, clock_of
from letocc_core.engines.backends import BACKENDS, FORMATS, run_by
from letocc_core.errors import ConfigError
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.processes import keep_freed_memory
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.training.config import TrainConfig
from letocc_core.versions import versions

SUBJECTS = ("inference", "node", "messages", "training", "rendering", "loading", "metrics")
OF_ROS = ("node", "messages")  # by the ROS package, where it is installed (entry points of the group `letocc.bench`)
COMPARED = ("eager", *BACKENDS[1:], "single-frame", "depth-anything", "attention")
NODE_SETS = 5 + 20  # to warm up, and counted


@dataclass(frozen=True)
class Request:
    """What to measure."""

    subjects: tuple[str, ...] = SUBJECTS
    compare: tuple[str, ...] = ()
    checkpoint: Path | None = None  # whose network is measured; None: the configuration's, with random weights
    config: Path = Path("config/street.yaml")
    backend: str = "torch"
    eager: bool = False
    threads: int = 1
    cameras: int = 6
    steps: int = 8
    device: str = "cpu"

    def __post_init__(self):
        for name, given, known in (("subject", self.subjects, SUBJECTS), ("--compare", self.compare, COMPARED)):
            if unknown := [item for item in given if item not in known]:
                raise ConfigError(f"{name} '{unknown[0]}', expected some of: {', '.join(known)}")


class Bench:
    """A request, and what all of its subjects take."""

    def __init__(self, request: Request):
        torch.set_num_threads(request.threads)
        keep_freed_memory()
        self.request, self.device = request, torch.device(request.device)
        self.train = configuration.load(TrainConfig, request.config)
        self.parts = Parts(clock_of(request.threads, self.device))

    def pipeline(self, backend: str = "torch") -> OccFlowPipeline:
        """The network to measure, anew."""
        file = self.request.checkpoint
        if file is not None:
            return OccFlowPipeline.from_checkpoint(file, device=self.device, backend=backend)
        if backend in FORMATS:
            raise ConfigError(f"backend {backend} needs --checkpoint, with the graphs of `letocc export` beside it")
        torch.manual_seed(0)
        pipeline = OccFlowPipeline(LetOccFlow(self.train.model), self.train.input, device=self.device)
        run_by(backend, pipeline.model, "")
        return pipeline

    def tables(self) -> dict[str, list[Row]]:
        """Rows of each subject; training has a table a stage. One that cannot run here says why and is left out."""
        found: dict[str, list[Row]] = {}
        for subject in self.request.subjects:
            if subject in ("training", "rendering"):
                for number, stage in enumerate(self.train.stages):
                    found[f"{subject}, stage {stage.name}"] = self._of_stage(subject, number)
            elif subject not in OF_ROS:
                found[subject] = self._rows(subject)
            elif (rows := self._of_ros(subject)) is not None:
                found[subject] = rows
        return found

    def _rows(self, subject: str) -> list[Row]:
        r = self.request
        if subject == "inference":
            return inference.measure(self.pipeline(r.backend), r.cameras, r.steps, self.parts, r.eager)
        if subject == "loading":
            return loading.measure_images(self.train.input, r.cameras, r.steps, self.parts)
        return loading.measure_scores(r.steps, self.parts)

    def _of_stage(self, subject: str, number: int) -> list[Row]:
        measure = {"training": training.measure, "rendering": training.measure_rendering}[subject]
        stage = training.Subject.of(self.train, number, self.device)
        return measure(stage, self.request.cameras, max(self.request.steps // 2, 1), self.parts)

    def _of_ros(self, subject: str) -> list[Row] | None:
        try:
            measure = next(iter(entry_points(group="letocc.bench", name=subject))).load()
        except (StopIteration, ImportError) as error:
            print(f"\n{subject}: left out, without ROS 2 ({error or 'letocc_ros is not installed'})")
            return None
        if subject == "messages":
            return measure(self.request.steps, self.parts)
        pipeline = self.pipeline()
        sets = list(islice(inference.frame_sets(*pipeline.input.image_size, self.request.cameras), NODE_SETS))
        with tempfile.TemporaryDirectory() as folder:
            file = self.request.checkpoint
            if file is None:
                file, parts = Path(folder) / "random.safetensors", (pipeline.model.config, pipeline.input)
                about = {n: configuration.to_dict(p) for n, p in zip(("model", "input"), parts, strict=True)}
                checkpoint.save(file, pipeline.model, about)
            return measure(file, sets, self.request.threads, self.request.device)

    def compared(self) -> dict[str, dict[str, float]]:
        """Least seconds of a set by each of what is compared, ours first; of the attention, by formulation and size."""
        found: dict[str, dict[str, float]] = {}
        names = [name for name in self.request.compare if name != "attention"]
        if names:
            found["a set"] = compare.alternate(self._turns(names), self.request.steps)
        if "attention" in self.request.compare:
            for size, shape in compare.PLANE.items():
                turns = compare.attention(*shape, self.parts)
                found[f"deformable attention at {size}"] = compare.alternate(turns, self.request.steps)
        return found

    def _turns(self, names: list[str]) -> Mapping[str, compare.Turn]:
        r = self.request
        turns: dict[str, Callable[[], float]] = {"ours": self._drive(self.pipeline(r.backend), r.eager)}
        for name in names:
            if name == "depth-anything":
                for size in compare.DEPTH_SIZES:
                    turn = compare.depth_anything(r.cameras, size, self.parts, self.device)
                    turns[f"Depth Anything V2 Small, {size[0]} x {size[1]}"] = turn
            elif name == "single-frame":
                pipeline = self.pipeline()
                single = configuration.load(TrainConfig, r.config, ["model.temporal.kind=none"]).model
                turns["without the past, but for sweeps"] = self._drive(
                    OccFlowPipeline(LetOccFlow(single), pipeline.input, device=self.device)
                )
            else:
                eager = name == "eager"
                turns[name] = self._drive(self.pipeline("torch" if eager else name), eager)
        return turns

    def _drive(self, pipeline: OccFlowPipeline, eager: bool = False) -> compare.Turn:
        return inference.Drive(pipeline, self.request.cameras, self.parts, eager).step


def bench(request: Request, json_file: Path | None = None) -> dict[str, Any]:
    """Measure, print tables, and write them as JSON as well; returns what was written."""
    run = Bench(request)
    peak = measure_peak(run.parts.clock, run.device)
    height, width = run.pipeline().input.image_size
    about = {
        "machine": describe(run.device),
        "network": f"{request.checkpoint or request.config}",
        "backend": request.backend + (" without compiled loops" if request.eager else ""),
        "precision": f"{'bfloat16' if request.backend == 'torch_bfloat16' else 'float32'}, training {run.train.precision}",
        "images": f"{request.cameras} of {height} x {width}",
        "threads": request.threads,
        "seconds are": "CPU time" if request.threads == 1 and run.device.type == "cpu" else "wall time",
        "peak": f"{peak.flops / 1e9:.0f} GFLOP/s of a matrix product, {peak.bytes / 1e9:.1f} GB/s of a copy, in this run",
    }
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    tables = run.tables()
    for subject, rows in tables.items():
        print(f"\n{subject}\n{table(rows, peak)}")
    compared = run.compared()
    for title, seconds in compared.items():
        print(f"\n{versus(title, seconds)}")
    about["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"\npeak memory: {about['peak memory, MB']} MB")
    values = {
        "about": about,
        "peak": asdict(peak),
        "versions": versions(),
        "rows": {subject: [asdict(row) for row in rows] for subject, rows in tables.items()},
        "compared": compared,
    }
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return values


def table(rows: list[Row], peak: Peak) -> str:
    """Markdown: time, share, work, and the ratio to what the machine does at most of whichever bounds the part."""
    whole = sum(row.seconds for row in rows)
    lines = ["| part | ms | share | GFLOP | MB | of peak |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    total = Row("all", whole, sum(r.flops for r in rows), sum(r.bytes for r in rows))
    for row in [total, *rows]:
        least = max(row.flops / peak.flops, row.bytes / peak.bytes)
        ratio = f"{least / row.seconds:.0%}" if least and row.seconds else ""
        work = f"{row.flops / 1e9:.2f} | {row.bytes / 1e6:.1f}" if row.bytes else " | "
        name = "in no part" if row.name == REST else row.name
        lines.append(f"| {name} | {1e3 * row.seconds:.1f} | {row.seconds / whole:.1%} | {work} | {ratio} |")
    return "\n".join(lines)


def versus(title: str, seconds: Mapping[str, float]) -> str:
    """Markdown: least times in turns, and how often the first's they are."""
    base = next(iter(seconds.values()))
    lines = [f"| {title}, least of the turns | ms | times the first |", "| --- | ---: | ---: |"]
    return "\n".join([*lines, *(f"| {n} | {1e3 * s:.1f} | {s / base:.2f} |" for n, s in seconds.items())])
