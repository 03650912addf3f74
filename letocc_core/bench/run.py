"""`letocc bench`: one run, one table a subject, and everything that the figures depend on beside them.

letocc bench --checkpoint models/street.safetensors --threads 1 --json out/bench.json
letocc bench training --config config/street.yaml
letocc bench inference --compare eager,onnxruntime,openvino,depth-anything,attention
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from letocc_core import config as configuration
from letocc_core.bench import inference, loading, training
from letocc_core.bench.machine import Peak, describe, measure_peak
from letocc_core.bench.parts import REST, Parts, Row, clock_of
from letocc_core.engines.backends import BACKENDS
from letocc_core.errors import ConfigError
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.processes import keep_freed_memory
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.training.config import TrainConfig
from letocc_core.versions import versions

SUBJECTS = ("inference", "training", "loading", "metrics")
COMPARED = ("eager", *BACKENDS[1:], "depth-anything", "attention")


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


def bench(request: Request, json_file: Path | None = None) -> dict[str, Any]:
    """Measure, print tables, and write them as JSON as well; returns what was written."""
    torch.set_num_threads(request.threads)
    keep_freed_memory()
    device = torch.device(request.device)
    parts = Parts(clock_of(request.threads, device))
    peak = measure_peak(parts.clock, device)
    train = configuration.load(TrainConfig, request.config)
    network = _pipeline(request, train)
    height, width = network.input.image_size
    about = {
        "machine": describe(device),
        "network": f"{request.checkpoint or request.config}",
        "backend": request.backend + (" without compiled loops" if request.eager else ""),
        "precision": "float32",
        "images": f"{request.cameras} of {height} x {width}",
        "threads": request.threads,
        "seconds are": "CPU time" if request.threads == 1 and device.type == "cpu" else "wall time",
        "peak": f"{peak.flops / 1e9:.0f} GFLOP/s of a matrix product, {peak.bytes / 1e9:.1f} GB/s of a copy, in this run",
    }
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    found: dict[str, list[Row]] = {}
    for subject in request.subjects:
        found[subject] = _rows(subject, request, train, network, parts)
        print(f"\n{subject}\n{table(found[subject], peak)}")
    compared = _compare(request, train, parts)
    values = {
        "about": about,
        "peak": asdict(peak),
        "versions": versions(),
        "rows": {subject: [asdict(row) for row in rows] for subject, rows in found.items()},
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


def _rows(subject: str, request: Request, train: TrainConfig, network: OccFlowPipeline, parts: Parts) -> list[Row]:
    if subject == "inference":
        return inference.measure(network, request.cameras, request.steps, parts, request.eager)
    if subject == "training":
        stage = training.Subject.of(train, -1, torch.device(request.device))
        return training.measure(stage, request.cameras, max(request.steps // 2, 1), parts)
    if subject == "loading":
        return loading.measure_images(network.input, request.cameras, request.steps, parts)
    return loading.measure_scores(request.steps, parts)


def _compare(request: Request, train: TrainConfig, parts: Parts) -> dict[str, float]:
    """Seconds of a set by each of what is compared, ours first; of the attention, by formulation."""
    if not request.compare:
        return {}
    network = _pipeline(request, train)
    found = {"ours": inference.step_seconds(network, request.cameras, request.steps, parts, request.eager)}
    for other in request.compare:
        if other == "eager":
            found[other] = inference.step_seconds(network, request.cameras, request.steps, parts, True)
        elif other == "depth-anything":
            size = network.input.image_size
            found[other] = inference.depth_anything_seconds(request.cameras, size, max(request.steps // 4, 1), parts)
        elif other == "attention":
            for way, seconds in inference.attention_seconds(request.steps, parts).items():
                found[f"attention: {way}"] = seconds
        else:
            if request.checkpoint is None:
                raise ConfigError(f"--compare {other} needs --checkpoint, with the graphs of `letocc export` beside it")
            engine = OccFlowPipeline.from_checkpoint(request.checkpoint, backend=other)
            found[other] = inference.step_seconds(engine, request.cameras, request.steps, parts)
    print("\n| compared | ms | times ours |\n| --- | ---: | ---: |")
    for name, seconds in found.items():
        base = found["attention: compiled loops"] if name.startswith("attention") else found["ours"]
        print(f"| {name} | {1e3 * seconds:.1f} | {seconds / base:.2f} |")
    return found


def _pipeline(request: Request, train: TrainConfig) -> OccFlowPipeline:
    if request.checkpoint is not None:
        return OccFlowPipeline.from_checkpoint(request.checkpoint, device=request.device, backend=request.backend)
    torch.manual_seed(0)
    return OccFlowPipeline(LetOccFlow(train.model), train.input, device=request.device)
