"""Time of one `OccFlowPipeline.step`, by stage and by module of the network.

    python benchmarks/bench_pipeline.py                                      config/street.yaml, random weights
    python benchmarks/bench_pipeline.py --checkpoint models/street.safetensors --threads 2

Image sets of noise at 10 Hz, the vehicle driving; the first steps, until the history is full, are not counted. The time
of a module is that of its forward calls within a step; `rest` is what a stage does outside of them.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from letocc_core import checkpoint
from letocc_core import config as configuration
from letocc_core.frame import InputConfig
from letocc_core.model import plane_sweep
from letocc_core.model.let_occ_flow import LetOccFlow, ModelConfig
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.stream.types import Calibration, FrameSet

PERIOD = 0.1  # s between sets
SPEED = 8.0  # m/s
CAMERA_HEIGHT = 1.5  # m


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/street.yaml"))
    parser.add_argument("--checkpoint", type=Path, help="instead of a configuration with random weights")
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20, help="counted steps (default: 20)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures (ms) to this file as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, input_config = load_model(options)
    pipeline = OccFlowPipeline(model, input_config, device=options.device)
    times = measure(pipeline, options.cameras, options.steps)
    rows = {name: _figures(values) for name, values in times.items()}
    where = torch.cuda.get_device_name() if pipeline.device.type == "cuda" else f"CPU, {options.threads} threads"
    height, width = input_config.image_size
    print(f"{options.checkpoint or options.config}: {options.cameras} cameras of {height} x {width}, {where}\n")
    print(_table(rows))
    if options.json:
        options.json.write_text(json.dumps({"device": where, "ms": rows}, indent=2) + "\n")


def measure(pipeline: OccFlowPipeline, cameras: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each counted step: the whole, each stage, and the modules called in it."""
    warm_up = 1 + round(pipeline.model.config.temporal.frames * pipeline.input.history_interval / PERIOD)
    clock = ModuleClock(pipeline)
    out: dict[str, list[float]] = defaultdict(list)
    for i, item in enumerate(frame_sets(*pipeline.input.image_size, cameras, warm_up + steps)):
        clock.seconds.clear()
        start = time.perf_counter()
        answer = pipeline.step(item)
        total = time.perf_counter() - start
        if i < warm_up:
            continue
        out["step"].append(total)
        for stage, seconds in answer.seconds.items():
            out[stage].append(seconds)
            inside = {name: value for (name, within), value in clock.seconds.items() if within == stage}
            for name, value in inside.items():
                out[f"{stage}: {name}"].append(value)
            if inside:
                out[f"{stage}: rest"].append(seconds - sum(inside.values()))
    return out


class ModuleClock:
    """Seconds spent in the model's direct parts and in the plane sweep since the last `clear`, by part and stage."""

    def __init__(self, pipeline: OccFlowPipeline):
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self._device = pipeline.device
        self._started: dict[str, float] = {}
        self._stage = "encode"
        model = pipeline.model
        for name, module in model.named_children():
            module.register_forward_pre_hook(lambda module, inputs, name=name: self._start(name))
            module.register_forward_hook(lambda module, inputs, output, name=name: self._stop(name))
        for name in ("sweep_depth", "lift"):
            setattr(plane_sweep, name, self._around(f"plane_sweep.{name}", getattr(plane_sweep, name)))
        for stage in ("encode", "decode"):
            setattr(model, stage, self._within(stage, getattr(model, stage)))

    def _within(self, stage: str, function):
        def call(*arguments, **named):
            self._stage = stage
            return function(*arguments, **named)

        return call

    def _around(self, name: str, function):
        def call(*arguments, **named):
            self._start(name)
            result = function(*arguments, **named)
            self._stop(name)
            return result

        return call

    def _start(self, name: str) -> None:
        self._started[name] = self._now()

    def _stop(self, name: str) -> None:
        self.seconds[name, self._stage] += self._now() - self._started[name]

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def frame_sets(height: int, width: int, cameras: int, count: int) -> Iterator[FrameSet]:
    """Noise of 8 pixels a grain seen by cameras of 70 degrees all around a vehicle that drives straight on."""
    focal = width / 2 / np.tan(np.radians(35))
    calibration = Calibration(width, height, np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]))
    mounts = np.stack([_mount(2 * np.pi * i / cameras) for i in range(cameras)])
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8) for _ in range(cameras)]
    images = tuple(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) for noise in coarse)
    for i in range(count):
        T_world_ego = np.eye(4)
        T_world_ego[0, 3] = SPEED * PERIOD * i
        shifted = tuple(np.roll(image, i, axis=1) for image in images)
        yield FrameSet(round(PERIOD * i * 1e9), shifted, (calibration,) * cameras, mounts, T_world_ego)


def _mount(yaw: float) -> np.ndarray:
    """`T_ego_cam` [4, 4] of a camera that looks along `yaw` (rad, from x to y)."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[s, 0, c, 0], [-c, 0, s, 0], [0, -1, 0, CAMERA_HEIGHT], [0, 0, 0, 1]])


def load_model(options: argparse.Namespace) -> tuple[LetOccFlow, InputConfig]:
    if options.checkpoint:
        return checkpoint.load_model(options.checkpoint, options.device)[:2]
    text = yaml.safe_load(options.config.read_text())
    model_config = configuration.from_dict(ModelConfig, text["model"], str(options.config), "model.")
    torch.manual_seed(0)
    return LetOccFlow(model_config), configuration.from_dict(InputConfig, text["input"], str(options.config), "input.")


def _figures(seconds: list[float]) -> dict[str, float]:
    median, p95 = np.percentile(np.array(seconds) * 1e3, [50, 95])
    return {"median": round(float(median), 2), "p95": round(float(p95), 2)}


def _table(rows: dict[str, dict[str, float]]) -> str:
    whole = rows["step"]["median"]
    lines = [f"{'part':<32}{'median ms':>10}{'p95 ms':>10}{'share':>8}"]
    for name, row in rows.items():
        label = "    " + name.split(": ")[1] if ": " in name else ("" if name == "step" else "  ") + name
        lines.append(f"{label:<32}{row['median']:>10.1f}{row['p95']:>10.1f}{row['median'] / whole:>8.0%}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
