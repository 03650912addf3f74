"""Time and memory of a training step, part by part, and of rendering and losses beside a version camera by camera.

    python benchmarks/bench_train.py                                          a step of config/street.yaml
    python benchmarks/bench_train.py --config config/nuscenes.yaml --losses   rendering and losses at that ray count
    python benchmarks/bench_train.py --config config/nuscenes.yaml --clips 1 --steps 1 --memory

Images, flow and LiDAR returns are noise; with `--data` clips are those of the configuration, and reading them counts too.
Seconds are CPU time of all threads, or on a GPU wall time; memory is what torch allocates, weights and all.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as training does

import numpy as np
import torch
from per_camera import stage_terms
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from letocc_core import config as configuration
from letocc_core.data.build import build
from letocc_core.frame import Clip, FlowCue, Frame, collate
from letocc_core.geometry.grid import GridSpec
from letocc_core.losses.objective import GridScene, MotionConfig, stage_losses
from letocc_core.processes import keep_freed_memory
from letocc_core.rendering.draws import Draws
from letocc_core.training import loop as training
from letocc_core.training.config import TrainConfig
from letocc_core.training.loop import build_model

SPEED = 5.0  # m/s of the vehicle
CAMERA_HEIGHT = 1.5  # m
RETURNS = 34_000  # of a LiDAR sweep


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
    parser.add_argument("--data", action="store_true", help="the configuration's own clips instead of noise")
    parser.add_argument("--losses", action="store_true", help="rendering and losses alone, beside a version by cameras")
    parser.add_argument(
        "--motion", action="store_true", help="with the terms of a motion stage, whatever the stage says"
    )
    parser.add_argument("--memory", action="store_true", help="peak memory of one step instead of times")
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
    elif options.memory:
        step_memory(bench, noise_clip(bench, options.cameras, options.clips))
    else:
        step_times(bench, batches(bench, options), options.steps)


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


# What is trained on


def noise_clip(bench: Bench, cameras: int, batch: int) -> Clip:
    """Images of noise around a vehicle that drives straight on, with every supervision that the stage takes."""
    past = bench.config.model.temporal.frames
    after, now, *before = (_noise_frame(bench, cameras, batch, k - 1) for k in range(max(past, 1) + 2))
    generator = torch.Generator().manual_seed(1)
    now = replace(now, movable=torch.rand(now.images[:, :, 0].shape, generator=generator) < 0.5)
    if bench.stage.objective.lidar > 0 and bench.config.data.bag is not None:
        points = torch.randn(batch, RETURNS, 3, generator=generator) * torch.tensor([20.0, 20.0, 1.0])
        now = replace(now, lidar=points, lidar_origin=torch.tensor([[0.0, 0.0, CAMERA_HEIGHT]]).expand(batch, -1))
    cues = ()
    if bench.stage.motion is not None:
        flow = torch.randn(now.images[:, :, :2].shape, generator=generator) * 20
        known = torch.rand(now.movable.shape, generator=generator) < 0.7
        cues = tuple(FlowCue(f.stamp, f.K, f.T_ego_cam, f.T_world_ego, flow, known) for f in (before[0], after))
    return Clip(now, tuple(before[:past]), (before[0], after), cues).to(bench.device)


def _noise_frame(bench: Bench, cameras: int, batch: int, back: int) -> Frame:
    """`back` intervals before the current one; cameras of 70 degrees all around."""
    height, width = bench.config.input.image_size
    yaw = torch.arange(cameras) * (2 * torch.pi / cameras)
    c, s, zero = yaw.cos(), yaw.sin(), torch.zeros(cameras)
    T_ego_cam = torch.eye(4).repeat(cameras, 1, 1)
    T_ego_cam[:, :3, :3] = torch.stack([s, zero, c, -c, zero, s, zero, zero - 1, zero], 1).view(-1, 3, 3)
    T_ego_cam[:, :3, 3] = torch.stack([c, s, zero + CAMERA_HEIGHT], 1)
    focal = width / 2 / np.tan(np.radians(35))
    K = torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], dtype=torch.float32)
    T_world_ego = torch.eye(4, dtype=torch.float64)
    T_world_ego[0, 3] = -back * bench.config.input.history_interval * SPEED
    return Frame(
        stamp=torch.full((batch,), -round(back * bench.config.input.history_interval * 1e9)),
        images=torch.rand(batch, cameras, 3, height, width, generator=torch.Generator().manual_seed(back + 7)),
        camera_valid=torch.ones(batch, cameras, dtype=torch.bool),
        K=K.repeat(batch, cameras, 1, 1),
        T_ego_cam=T_ego_cam.repeat(batch, 1, 1, 1),
        T_world_ego=T_world_ego.repeat(batch, 1, 1),
    )


def batches(bench: Bench, options: argparse.Namespace) -> Iterator[Clip]:
    """One batch after the other, read as a loader without processes of its own does."""
    if not options.data:
        clip = noise_clip(bench, options.cameras, options.clips)
        while True:
            yield clip
    model = bench.config.model
    dataset = build(bench.config.data, bench.config.input, model.temporal.frames, model.grid)
    for i in range(sys.maxsize):
        yield collate([dataset[(i * options.clips + k) % len(dataset)] for k in range(options.clips)])


# A step, part by part


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


PARTS = ("temporal", "refinement", "fields", "motion")  # modules called in `decode`


def step_times(bench: Bench, clips: Iterator[Clip], steps: int) -> None:
    """Print the seconds of each part of a step."""
    model = build_model(bench.config, bench.device).train()
    objective = training.StageObjective(model, bench.stage, bench.config.history_gradient)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    clock = Clock(bench.device)
    for name in PARTS:
        if (part := getattr(model, name)) is not None:
            part.forward = clock.around(f"decode: {name}", part.forward)
    model._sweep = clock.around("decode: plane sweep", model._sweep)
    model.encode = clock.around("encode", model.encode)
    training.stage_losses = clock.around("rendering and losses", training.stage_losses)
    for step in range(steps + 1):
        if step == 1:
            clock.seconds.clear()
        with clock("step"):
            with clock("data"):
                clip = next(clips).to(bench.device)
            total = objective(clip, step, bench.draws(clip))["total"]
            with clock("backward"):
                total.backward()
            with clock("optimiser"):
                nn.utils.clip_grad_norm_(model.parameters(), bench.stage.optimizer.clip_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
    whole = clock.seconds.pop("step")
    print(f"\n| part | s | share |\n| --- | ---: | ---: |\n| step | {whole / steps:.3f} | |")
    for name, seconds in [*clock.seconds.items(), ("rest", whole - sum(clock.seconds.values()))]:
        print(f"| {name} | {seconds / steps:.3f} | {seconds / whole:.0%} |")


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


@dataclass(frozen=True)
class Volumes:
    """Fields that are parameters."""

    sdf: Tensor
    flow: Tensor
    semantics: None = None


def rough_ground(bench: Bench, batch: int) -> Volumes:
    """Ground with things on it, that move."""
    generator = torch.Generator().manual_seed(2)
    height = bench.grid.centres()[..., 2].expand(batch, 1, *bench.grid.shape)
    noise = (
        torch.rand(batch, 1, *bench.grid.coarser(4).shape, generator=generator)
        if all(n % 4 == 0 for n in bench.grid.shape)
        else 0
    )
    noise = nn.functional.interpolate(noise, bench.grid.shape, mode="trilinear") * 3
    flow = torch.randn(batch, 2, *bench.grid.shape, generator=generator)
    return Volumes((height + 0.5 - noise).to(bench.device).requires_grad_(), flow.to(bench.device).requires_grad_())


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
