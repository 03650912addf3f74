"""Training: one YAML file in, a run folder with checkpoints, losses and pictures out.

    letocc train config/street.yaml                       a new run below runs/
    letocc train config/street.yaml --resume              go on with the newest run, same losses as without the break
    letocc train config/street.yaml data.simulator.scenes=20 stages.0.steps=100

Every step draws its batch and its random numbers from (seed, step) alone, so a run that was killed and resumed repeats
the uninterrupted run exactly (same machine, same number of threads).
"""

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Literal

import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from letocc_core import checkpoint
from letocc_core import config as configuration
from letocc_core.data import clips
from letocc_core.errors import ConfigError, LetOccError
from letocc_core.frame import Clip, InputConfig, collate
from letocc_core.losses.objective import MotionConfig, StaticStageConfig, stage_losses
from letocc_core.model.let_occ_flow import Fields, LetOccFlow, ModelConfig
from letocc_core.rendering.draws import Draws
from letocc_core.versions import versions


class TrainingError(LetOccError):
    """Training cannot go on: a loss is not finite."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up (Let Occ Flow B.3)."""

    learning_rate: float = 1e-3  # of the modules trained from scratch
    backbone_factor: float = 1.0  # learning rate of the image backbone relative to that (0.1 with pre-trained weights)
    geometry_factor: float = 1.0  # of all but the flow field, where an earlier stage trained it; 0: it stays as it is
    weight_decay: float = 0.01
    warmup_steps: int = 50  # steps of linear warm-up
    schedule: Literal["cosine", "multistep"] = "cosine"
    milestones: tuple[float, ...] = (0.6, 0.8)  # multistep: fractions of the stage at which the rate drops
    decay: float = 0.2  # multistep: factor of each drop
    clip_norm: float = 10.0  # largest norm of the whole gradient


@dataclass(frozen=True)
class StageConfig:
    """One stage of the schedule: an objective, for a number of steps."""

    name: str = "static"  # each stage has its own
    steps: int = 3000
    batch_size: int = 2
    objective: StaticStageConfig = field(default_factory=StaticStageConfig)
    motion: MotionConfig | None = None  # also learn how the world moves (the papers' second stage)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(frozen=True)
class TrainConfig:
    """The whole of a YAML file in config/ that can be trained."""

    model: ModelConfig
    input: InputConfig
    data: clips.DataConfig
    stages: tuple[StageConfig, ...] = (StageConfig(),)
    seed: int = 0
    history_gradient: bool = False  # also back-propagate into the past frames' encoding (papers: yes; costs 2 x more)
    history_dropout: float = 0.1  # share of samples trained without a past, so that the first frames work too
    checkpoint_every: int = 250  # steps between checkpoints
    picture_every: int = 250  # steps between pictures in TensorBoard

    def __post_init__(self):
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ConfigError(f"stages: names {', '.join(names)}, expected a name of its own for each")

    def only_stage(self, name: str) -> "TrainConfig":
        """The same configuration with one of its stages; raises `ConfigError` if it has none of that name."""
        stages = tuple(stage for stage in self.stages if stage.name == name)
        if not stages:
            raise ConfigError(f"no stage '{name}'; stages: {', '.join(stage.name for stage in self.stages)}")
        return replace(self, stages=stages)


def train(
    config: TrainConfig,
    name: str,
    out: Path = Path("runs"),
    resume: Path | None = None,
    init: Path | None = None,
    device: str = "cpu",
    loader_workers: int = 1,
    command: str = "",
) -> Path:
    """Run all stages of `config`; returns the folder of the run.

    Args:
        name: of the configuration; runs go to `out/name/<time>` with a link `out/name/latest`.
        resume: folder of an earlier run of the same configuration to go on with.
        init: checkpoint whose weights to start from, as far as this model has them.
        loader_workers: processes that load clips; 0 loads them between the steps.

    Raises:
        ConfigError: `resume` belongs to another configuration (says which fields differ).
        TrainingError: a loss term turned NaN or infinite; names term and step, and saves the batch.
    """
    plain = configuration.to_dict(config)
    init = None if init is None else init.resolve()  # `latest` is about to become this run
    folder = _open_run(plain, name, out, resume, command)
    dataset = clips.build(config.data, config.input, config.model.temporal.frames)
    torch.manual_seed(config.seed)
    model = LetOccFlow(config.model).to(device)
    if init is not None:
        fresh = checkpoint.load_matching(init, model)
        print(f"starting from {init}" + (f"; new: {', '.join(fresh)}" if fresh else ""), file=sys.stderr)
    run = _Run(folder, model, plain, config, device, command)
    run.cameras = dataset.cameras
    if init is not None:
        run.before = Counter(checkpoint.read_metadata(init).get("trained", {}))
    run.restore()
    for index, stage in enumerate(config.stages):
        if index >= run.stage:
            run.train_stage(index, stage, dataset, loader_workers)
    run.export(folder / "model.safetensors")
    return folder


def learning_rate_factor(config: OptimizerConfig, step: int, steps: int) -> float:
    """Factor of the learning rate at `step` (from 0) of a stage of `steps`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = step / max(steps, 1)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))) * 0.99 + 0.01
    return config.decay ** sum(progress >= m for m in config.milestones)


def forward_clip(model: LetOccFlow, clip: Clip, history_gradient: bool, motion: bool = True) -> Fields:
    """Fields of a clip's current frame; the past is encoded without gradient unless asked for."""
    current = model.encode(clip.current)
    with torch.set_grad_enabled(history_gradient and torch.is_grad_enabled()):
        history = [model.encode(frame) for frame in clip.history]
    return model.decode(current, history, motion)


class _Run:
    """State of one run: model, optimiser, where it stands, and its files."""

    def __init__(self, folder: Path, model: LetOccFlow, plain: dict, config: TrainConfig, device: str, command: str):
        self.folder, self.model, self.plain, self.config = folder, model, plain, config
        self.device, self.command = torch.device(device), command
        self.stage, self.step = 0, 0
        self.cameras: tuple[str, ...] = ()  # whose images it learns from
        self.before: Counter[str] = Counter()  # steps of each stage that the weights had when the run began
        self.optimizer_state: dict | None = None

    def train_stage(self, index: int, stage: StageConfig, dataset, workers: int) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        self.stage = index
        optimizer = self._optimizer(stage.optimizer)
        sampler = StepSampler(len(dataset), stage.batch_size, self.config.seed + index, self.step, stage.steps)
        loader = DataLoader(
            dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
        )
        writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step)
        bar = tqdm(total=stage.steps, initial=self.step, unit="step", desc=stage.name, dynamic_ncols=True)
        with (self.folder / "losses.jsonl").open("a") as log, bar:
            self.model.train()
            for clip in loader:
                clip = clip.to(self.device)
                losses = self._train_step(stage, optimizer, clip)
                log.write(json.dumps({"stage": stage.name, "step": self.step, **losses}) + "\n")
                log.flush()
                for term, value in losses.items():
                    writer.add_scalar(f"{stage.name}/{term}", value, self.step)
                if self.step % self.config.picture_every == 0:
                    self._pictures(writer, stage, clip)
                self.step += 1
                bar.update()
                bar.set_postfix({k: f"{v:.3f}" for k, v in losses.items() if k != "learning_rate"}, refresh=False)
                if self.step % self.config.checkpoint_every == 0 or self.step == stage.steps:
                    self.save(optimizer)
        writer.close()
        self.step, self.optimizer_state = 0, None
        self.stage = index + 1

    def _train_step(self, stage: StageConfig, optimizer: torch.optim.Optimizer, clip: Clip) -> dict[str, float]:
        """One update; returns the weighted terms, their total and the learning rate."""
        seed = _mix(self.config.seed, self.stage, self.step)
        factor = learning_rate_factor(stage.optimizer, self.step, stage.steps)
        for group in optimizer.param_groups:
            group["lr"] = group["base_rate"] * factor
        if Random(seed).random() < self.config.history_dropout:
            clip = replace(clip, history=())
        fields = forward_clip(self.model, clip, self.config.history_gradient, motion=stage.motion is not None)
        progress, draws = self.step / stage.steps, Draws(seed, torch.arange(stage.batch_size, device=self.device))
        losses = stage_losses(fields, self.model.config.grid, clip, stage.objective, progress, draws, stage.motion)
        self._check_finite(losses, clip)
        optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), stage.optimizer.clip_norm)
        optimizer.step()
        return {
            **{k: float(v.detach()) for k, v in losses.items()},
            "gradient_norm": float(norm),
            "learning_rate": stage.optimizer.learning_rate * factor,
        }

    def _check_finite(self, losses: dict[str, Tensor], clip: Clip) -> None:
        bad = [name for name, value in losses.items() if not torch.isfinite(value)]
        if bad:
            path = self.folder / f"batch_{self.stage}_{self.step}.pt"
            torch.save({"clip": clip, "model": self.model.state_dict()}, path)
            raise TrainingError(f"loss term {bad[0]} is not finite at step {self.step}; the batch and weights: {path}")

    def _optimizer(self, config: OptimizerConfig) -> torch.optim.Optimizer:
        """AdamW; the backbone, and in a later stage all but the flow field, at their own rates."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            factor = config.backbone_factor if name.startswith("pyramid.backbone.") else 1.0
            factor *= 1.0 if name.startswith("fields.flow.") else config.geometry_factor
            parameter.requires_grad_(factor > 0)
            parameter.grad = None  # of an earlier stage: it would count in the norm of one that keeps this frozen
            groups.setdefault(factor, []).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": p, "base_rate": config.learning_rate * f} for f, p in groups.items() if f > 0],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
        return optimizer

    @torch.no_grad()
    def _pictures(self, writer, stage: StageConfig, clip: Clip) -> None:
        """Images of the first sample above the depth rendered from its fields."""
        from letocc_core.viz.depth import depth_strip

        self.model.eval()
        fields = forward_clip(self.model, clip, False, motion=False)
        picture = depth_strip(fields, self.model.config.grid, clip.current, stage.objective, self.step / stage.steps)
        writer.add_image(f"{stage.name}/depth", picture, self.step, dataformats="HWC")
        self.model.train()

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """Weights and optimiser state; the marker file is replaced last, so a kill leaves the previous pair valid."""
        tag = f"stage{self.stage}_step{self.step:06d}"
        folder = self.folder / "checkpoints"
        folder.mkdir(exist_ok=True)
        self.export(folder / f"{tag}.safetensors")
        torch.save(optimizer.state_dict(), folder / f"{tag}.optimizer.pt")
        _write_atomically(self.folder / "resume.json", json.dumps({"stage": self.stage, "step": self.step, "tag": tag}))
        for old in folder.iterdir():
            if not old.name.startswith(tag):
                old.unlink()

    def restore(self) -> None:
        """Go back to the last saved step of this folder, if there is one, and forget the losses logged after it."""
        marker = self.folder / "resume.json"
        if not marker.exists():
            return
        state = json.loads(marker.read_text())
        stem = self.folder / "checkpoints" / state["tag"]
        checkpoint.load_weights(Path(f"{stem}.safetensors"), self.model, self.plain)
        self.stage, self.step = state["stage"], state["step"]
        self.before = Counter(checkpoint.read_metadata(f"{stem}.safetensors").get("trained", {})) - self._done()
        self.optimizer_state = torch.load(f"{stem}.optimizer.pt", weights_only=True, map_location=self.device)
        order = [stage.name for stage in self.config.stages]
        log = self.folder / "losses.jsonl"
        kept = [
            line
            for line in log.read_text().splitlines()
            if (entry := json.loads(line)) and (order.index(entry["stage"]), entry["step"]) < (self.stage, self.step)
        ]
        _write_atomically(log, "".join(f"{line}\n" for line in kept))

    def _done(self) -> Counter[str]:
        """Steps done of each stage that this run began."""
        done = [*(stage.steps for stage in self.config.stages[: self.stage]), self.step]
        return Counter({stage.name: steps for stage, steps in zip(self.config.stages, done, strict=False)})

    def export(self, path: Path) -> None:
        """The model alone, as safetensors with everything needed to run it."""
        checkpoint.save(
            path,
            self.model,
            self.plain,
            cameras=list(self.cameras),
            seed=self.config.seed,
            trained=dict(self.before + self._done()),
            command=self.command,
            versions=versions(),
        )


class StepSampler(Sampler[list[int]]):
    """Batches of indices as a function of (seed, step): shuffled epoch by epoch, starting at any step."""

    def __init__(self, size: int, batch_size: int, seed: int, start: int, stop: int):
        if size < 1:
            raise ConfigError("data: the data set holds no clip; see the counts that its loader reported")
        self.size, self.batch_size, self.seed, self.start, self.stop = size, batch_size, seed, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, []
        for step in range(self.start, self.stop):
            batch = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.size != epoch:
                    epoch = position // self.size
                    generator = torch.Generator().manual_seed(_mix(self.seed, 7, epoch))
                    order = torch.randperm(self.size, generator=generator).tolist()
                batch.append(order[position % self.size])
            yield batch


def _open_run(plain: dict, name: str, out: Path, resume: Path | None, command: str) -> Path:
    """A new run folder, or the one to resume after comparing its configuration."""
    if resume is not None:
        path = resume / "config.yaml"
        if not path.is_file():
            raise ConfigError(f"{resume}: no run to resume here (no config.yaml); give the folder of a run")
        differing = configuration.differences(yaml.safe_load(path.read_text()), plain)
        if differing:
            raise ConfigError(f"{resume}: belongs to another configuration; fields that differ: {'; '.join(differing)}")
        return resume.resolve()
    folder = out / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    about = {"command": command, "versions": versions(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    (folder / "about.json").write_text(json.dumps(about, indent=2))
    latest = out / name / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(folder.name)
    print(f"training into {folder}", file=sys.stderr)
    return folder.resolve()


def _mix(*numbers: int) -> int:
    """One 63-bit seed from several small numbers."""
    value = 0
    for number in numbers:
        value = (value * 6364136223846793005 + number * 1442695040888963407 + 1) % 2**63
    return value


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)
