"""Memory of a training step, and rendering and losses beside a version camera by camera; `letocc bench training` has the time.

    python benchmarks/bench_train.py --config config/nuscenes.yaml --losses   rendering and losses at that ray count
    python benchmarks/bench_train.py --config config/nuscenes.yaml --clips 1 --steps 1 --memory

Images, flow and LiDAR returns are noise.
Seconds are CPU time of all threads, or on a GPU wall time; memory is what torch allocates, weights and all.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as training does

import numpy as np
import torch
from per_camera import stage_terms
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from letocc_core import config as configuration
from letocc_core.bench.training import noise_clip, rough_ground
from letocc_core.frame import Clip
from letocc_core.geometry.grid import GridSpec
from letocc_core.losses.objective import GridScene, MotionConfig, stage_losses
from letocc_core.processes import keep_freed_memory
from letocc_core.rendering.draws import Draws
from letocc_core.training import loop as training
from letocc_core.training.config import TrainConfig
from letocc_core.training.loop import build_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/street.yaml"))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--stage", type=int, default=-1, help="number of the stage (default: -1, the last)")
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--clips", type=int, default=1, help="clips at once (default: 1)")
    parser.add_argument("--steps", type=int, default=5, help="counted steps, after one that is not (default: 5)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--losses", action="store_true", help="rendering and losses alone, beside a version by cameras")
    parser.add_argument(
        "--motion", action="store_true", help="with the terms of a motion stage, whatever the stage says"
    )
    parser.add_argument("--memory", action="store_true", help="peak memory of one step (default)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as training does
    config = configuration.load(TrainConfig, options.config, options.overrides)
    bench = Bench(config, options.stage, options.motion, torch.device(options.device))
    height, width = config.input.image_size
    print(
        f"{options.config}, stage {bench.stage.name}: {options.clips} clips of {options.cameras} x {height} x {width}"
    )
    if options.losses:
        compare_losses(bench, noise_clip(bench, options.cameras, options.clips), options.steps)
    else:
        step_memory(bench, noise_clip(bench, options.cameras, options.clips))


class Bench:
    """A stage of a configuration."""

    def __init__(self, config: TrainConfig, stage: int, motion: bool, device: torch.device):
        self.config, self.stage, self.device = config, config.stages[stage], device
        if motion and self.stage.motion is None:
            self.stage = replace(self.stage, motion=MotionConfig())

    @property
    def grid(self) -> GridSpec:
        return self.config.model.grid

    def losses(self, fields, clip: Clip) -> Tensor:
        return stage_losses(GridScene(fields, self.grid), clip, self.stage.objective, 1.0, None, self.stage.motion)[
            "total"
        ]

    def draws(self, clip: Clip) -> Draws:
        return Draws(0, torch.arange(len(clip.current.images), device=self.device))


# Time, by part


class Clock:
    """Seconds since it was made, by part; parts may lie within others."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = self.now()
        yield
        self.seconds[name] += self.now() - start

    def around(self, name: str, function: Callable) -> Callable:
        def timed(*arguments, **named):
            with self(name):
                return function(*arguments, **named)

        return timed

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()


# Memory


def peak_allocated(function: Callable[[], object], device: torch.device) -> float:
    """GiB that torch allocates while `function` runs, at most, above what there was before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**30
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        function()
    events = sorted(
        (e.start_ns(), e.nbytes()) for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"
    )
    return float(np.cumsum([0] + [size for _, size in events]).max()) / 2**30


def step_memory(bench: Bench, clip: Clip) -> None:
    """Print the peak of a step, with the optimiser's state as it is from the second step on."""
    model = build_model(bench.config, bench.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30

    objective = training.StageObjective(model, bench.stage, bench.config.history_gradient)

    def step() -> None:
        objective(clip, 0, bench.draws(clip))["total"].backward()

    peak = peak_allocated(step, bench.device)
    optimizer.step()
    state = sum(t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values()) / 2**30
    print(f"weights {weights:.2f} GiB, AdamW's state {state:.2f} GiB, activations and gradients {peak:.2f} GiB")
    print(f"peak memory of a step: {weights + state + peak:.2f} GiB")


# Rendering and losses beside the version camera by camera


NOT_OF_CAMERAS = {"lidar": 0.0, "eikonal": 0.0, "hessian": 0.0, "sparsity": 0.0, "semantics": 0.0}


def compare_losses(bench: Bench, clip: Clip, rounds: int) -> None:
    """Print time and memory, forward and backward, of the terms of the cameras' rays, in turns; and that they agree."""
    bench.stage = replace(bench.stage, objective=replace(bench.stage.objective, **NOT_OF_CAMERAS))
    objective, motion = bench.stage.objective, bench.stage.motion
    fields = rough_ground(bench, len(clip.current.images))
    versions = {
        "here": lambda: bench.losses(fields, clip),
        "by cameras": lambda: sum(
            stage_terms(fields, bench.grid, clip, objective, objective.beta(1.0), motion).values()
        ),
    }
    least, totals, slopes = defaultdict(lambda: float("inf")), {}, {}
    for _ in range(rounds + 1):
        for name, version in versions.items():
            fields.sdf.grad = fields.flow.grad = None
            clock = Clock(bench.device)
            with clock("forward"):
                total = version()
            with clock("backward"):
                total.backward()
            for way, seconds in clock.seconds.items():
                least[name, way] = min(least[name, way], seconds)
            totals[name], slopes[name] = total.item(), fields.sdf.grad.clone()
    rays = clip.current.images.shape[1] * objective.rows * objective.columns
    print(
        f"{rays} rays of {objective.samples} samples, {len(clip.sources)} sources, {len(clip.cues)} cues; least of {rounds + 1} rounds\n"
    )
    print("| version | forward s | backward s | both s | peak GiB |\n| --- | ---: | ---: | ---: | ---: |")
    both = {}
    for name, version in versions.items():
        forward, backward = (least[name, way] for way in ("forward", "backward"))
        both[name] = forward + backward
        peak = peak_allocated(lambda version=version: version().backward(), bench.device)
        print(f"| {name} | {forward:.2f} | {backward:.2f} | {both[name]:.2f} | {peak:.2f} |")
    difference = (slopes["here"] - slopes["by cameras"]).norm() / slopes["by cameras"].norm()
    print(
        f"\n{both['by cameras'] / both['here']:.2f} times faster; loss {totals['here']:.6f} and {totals['by cameras']:.6f}, "
        f"relative difference of the gradients {difference:.1e}"
    )


if __name__ == "__main__":
    main()
