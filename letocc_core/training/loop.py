"""Training: one YAML file in, a run folder with checkpoints, losses and pictures out.

    letocc train config/street.yaml                       a new run below runs/
    letocc train config/street.yaml --resume              go on with the newest run, same losses as without the break
    letocc train config/street.yaml data.simulator.scenes=20 stages.0.steps=100
    torchrun --nproc-per-node 8 -m letocc_core.cli train config/nuscenes.yaml --device cuda --micro-batch 1

Every step draws its batch and its random numbers from (seed, step) alone, so a run that was killed and resumed repeats
the uninterrupted run exactly (same machine, same number of threads), and any number of processes trains the same model.
"""

import json
import math
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader

from letocc_core import checkpoint
from letocc_core import config as configuration
from letocc_core.data.build import build
from letocc_core.data.clips import Clips
from letocc_core.errors import CheckpointError, ConfigError, LetOccError
from letocc_core.frame import Clip, collate
from letocc_core.geometry import body_masks
from letocc_core.losses.grounded_motion import motion_targets
from letocc_core.losses.objective import GridScene, stage_losses
from letocc_core.model.let_occ_flow import Fields, LetOccFlow
from letocc_core.processes import keep_freed_memory
from letocc_core.rendering.draws import Draws
from letocc_core.training import run_files
from letocc_core.training.augmentation import augmented
from letocc_core.training.config import OptimizerConfig, StageConfig, TrainConfig
from letocc_core.training.distributed import World, joined
from letocc_core.training.frozen import FrozenGeometry, Known
from letocc_core.training.log import Clock, StageLog
from letocc_core.training.sampler import StepSampler, mix, shares
from letocc_core.versions import versions

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TrainingError(LetOccError):
    """Training cannot go on: a loss or its gradient is not finite."""


def train(
    config: TrainConfig,
    name: str,
    out: Path = Path("runs"),
    resume: Path | None = None,
    init: Path | None = None,
    device: str = "cpu",
    loader_workers: int = 1,
    micro_batch: int | None = None,
    command: str = "",
) -> Path:
    """Run all stages of `config`; returns the folder of the run.

    One process, or all those that `torchrun` or `accelerate launch` started with the same arguments.

    Args:
        name: of the configuration; runs go to `out/name/<time>` with a link `out/name/latest`.
        resume: folder of an earlier run of the same configuration to go on with.
        init: checkpoint whose weights to start from, as far as this model has them.
        device: `cpu`, or `cuda`: of several processes each takes the GPU with its number.
        loader_workers: processes that load clips; 0 loads them between the steps.
        micro_batch: clips that a process has in memory; the rest of its share of a batch follows, gradients are added
            up. None: its whole share.

    Raises:
        ConfigError: `resume` belongs to another configuration (says which fields differ), or a stage's batch cannot be
            shared out evenly among the processes.
        TrainingError: a loss term or the gradient turned NaN or infinite; names term and step, and saves the batch.
    """
    keep_freed_memory()
    with joined(device) as world:
        plain = configuration.to_dict(config)
        init = world.from_leader(lambda: init and init.resolve())  # `latest` is about to become this run
        folder = world.from_leader(lambda: _open_run(plain, name, out, resume, command))
        with run_files.begun(folder if world.leads and resume is None else None):
            with world.one_first():
                dataset = build(config.needed_data(), config.input, config.model.temporal.frames, config.model.grid)
            if config.needs_sweeps():
                dataset.require_sweeps()
            model = build_model(config, world.device)
            run = _Run(folder, model, plain, config, world, micro_batch, command)
            run.cameras, run.body_masks = dataset.cameras, dataset.body_masks
            if init is not None:
                run.start_from(init)
            run.restore()
            for index, stage in enumerate(config.stages):
                if index >= run.stage:
                    run.train_stage(index, stage, dataset, loader_workers)
            if world.leads:
                run.export(folder / "model.safetensors")
        return folder


def build_model(config: TrainConfig, device: torch.device) -> LetOccFlow:
    """The untrained network, the same one for the same seed."""
    torch.manual_seed(config.seed)
    model = LetOccFlow(config.model).to(device)
    if config.precision == "bfloat16":
        model.multiply_in_bfloat16(device.type)
    return model


def learning_rate_factor(config: OptimizerConfig, step: int, steps: int) -> float:
    """Factor of the learning rate at `step` (from 0) of a stage of `steps`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = step / max(steps, 1)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))) * 0.99 + 0.01
    return config.decay ** sum(progress >= m for m in config.milestones)


class StageObjective(nn.Module):
    """From clips to losses: the network and a stage's objective, in one forward pass."""

    def __init__(
        self, model: LetOccFlow, stage: StageConfig, history_gradient: bool, frozen: FrozenGeometry | None = None
    ):
        super().__init__()
        self.model, self.stage, self.history_gradient, self.frozen = model, stage, history_gradient, frozen

    def forward(self, clip: Clip, step: int, draws: Draws) -> dict[str, Tensor]:
        """Weighted terms and their `total` of a batch of clips at a step of the stage."""
        stage = self.stage
        share = stage.half_turn_augmentation
        turned = draws.uniform() < share if share else None
        if self.frozen is None:
            seen = clip if stage.augmentation is None else augmented(clip, stage.augmentation, draws)
            fields, motion = self._fields(seen, turned), None
        else:
            fields, motion = self._frozen(self.frozen, clip, turned)
        scene = GridScene(fields, self.model.config.grid, self.model.config.occupancy_scale, motion)
        return stage_losses(scene, clip, stage.objective, step / stage.steps, draws, stage.motion)

    def _fields(self, clip: Clip, turned: Tensor | None = None) -> Fields:
        return self.model(clip.current, clip.history, self.stage.motion is not None, turned, self.history_gradient)

    def _frozen(self, frozen: FrozenGeometry, clip: Clip, turned: Tensor | None) -> Known:
        """The same, of which only motion is computed anew, and the motion to learn."""

        def compute(clip: Clip) -> Known:
            fields = self._fields(clip)
            if self.stage.motion is None or self.stage.motion.cue != "grounded":
                return fields, None
            return fields, motion_targets(fields.sdf, self.model.config.grid, clip.current, clip.cues)

        fields, motion = frozen.known(clip, compute)
        assert self.model.motion is not None  # `keep_geometry` wants a model with a motion branch
        return replace(fields, flow=self.model.motion(fields.evidence, fields.sdf, turned)), motion


class _Run:
    """State of one run: model, optimiser, where it stands, and its files."""

    def __init__(
        self,
        folder: Path,
        model: LetOccFlow,
        plain: dict,
        config: TrainConfig,
        world: World,
        micro_batch: int | None,
        command: str,
    ):
        self.folder, self.model, self.plain, self.config = folder, model, plain, config
        self.world, self.device, self.command = world, world.device, command
        self.parts = [shares(stage.batch_size, world.rank, world.size, micro_batch) for stage in config.stages]
        self.stage, self.step = 0, 0
        self.cameras: tuple[str, ...] = ()  # whose images it learns from
        self.body_masks: body_masks.Masks = {}  # what is masked in them
        self.before: Counter[str] = Counter()  # steps of each stage that the weights had when the run began
        self.optimizer_state: dict | None = None

    def start_from(self, init: Path) -> None:
        """Take over the weights of a checkpoint, as far as this model has them."""
        fresh = checkpoint.load_matching(init, self.model)
        self.before = Counter(checkpoint.read_metadata(init).get("trained", {}))
        if self.world.leads:
            print(f"starting from {init}" + (f"; new: {', '.join(fresh)}" if fresh else ""), file=sys.stderr)

    def train_stage(self, index: int, stage: StageConfig, dataset: Clips, workers: int) -> None:
        self.stage, seed = index, self.config.seed + index
        optimizer = self._optimizer(stage.optimizer)
        frozen = FrozenGeometry(self.folder / "frozen" / stage.name) if stage.keep_geometry else None
        objective = self.world.parallel(StageObjective(self.model, stage, self.config.history_gradient, frozen))
        sampler = StepSampler(len(dataset), stage.batch_size, seed, self.step, stage.steps, self.parts[index])
        loader = DataLoader(
            dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
        )
        log = StageLog(self.folder, stage, self.step) if self.world.leads else None
        clock = Clock()
        batches = clock.timed(loader)
        self.model.train()
        while self.step < stage.steps:
            losses, clip = self._train_step(stage, objective, optimizer, batches)
            clock.step_done()
            if log is not None:
                log.write(self.step, losses, clock.waiting_share)
                if self.step % self.config.picture_every == 0:
                    self._pictures(log.writer, stage, clip)
            self.step += 1
            if log is not None and (self.step % self.config.checkpoint_every == 0 or self.step == stage.steps):
                self.save(optimizer)
        if log is not None:
            log.close(clock, self.world)
            if frozen is not None:
                shutil.rmtree(frozen.folder)
        self.step, self.optimizer_state = 0, None
        self.stage = index + 1

    def _train_step(
        self, stage: StageConfig, objective: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterator[Clip]
    ) -> tuple[dict[str, float], Clip]:
        """One update; returns the weighted terms, their total and the learning rate, and the last clips seen."""
        seed = mix(self.config.seed, self.stage, self.step)
        forget = Random(seed).random() < self.config.history_dropout
        factor = learning_rate_factor(stage.optimizer, self.step, stage.steps)
        for group in optimizer.param_groups:
            group["lr"] = group["base_rate"] * factor
        optimizer.zero_grad(set_to_none=True)
        parts = self.parts[self.stage]
        losses: dict[str, float] = defaultdict(float)
        for part in parts:
            clip = next(batches).to(self.device)
            clip = replace(clip, history=()) if forget else clip
            batch = {"stage": self.stage, "step": self.step, "seed": seed, "positions": list(part), "clip": clip}
            with nullcontext() if part is parts[-1] else self.world.apart(objective):
                terms = objective(clip, self.step, Draws(seed, torch.tensor(part, device=self.device)))
                self._check_finite({name: float(term.detach()) for name, term in terms.items()}, batch)
                (terms["total"] / len(parts)).backward()
            for name, term in terms.items():
                losses[name] += float(term.detach()) / len(parts)
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), stage.optimizer.clip_norm))
        self._check_finite({"gradient": norm}, batch)
        optimizer.step()
        rate = stage.optimizer.learning_rate * factor
        return {**self.world.mean(losses), "gradient_norm": norm, "learning_rate": rate}, clip

    def _check_finite(self, values: dict[str, float], batch: dict) -> None:
        """Stop with all that it takes to compute these values again (`letocc_core.training.reproduce`)."""
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            stage = self.config.stages[self.stage].name
            path = self.folder / f"batch_{stage}_{self.step}_{self.world.rank}.pt"
            torch.save({"config": self.plain, "model": self.model.state_dict(), **batch}, path)
            raise TrainingError(
                f"stage {stage}: {bad[0]} is {values[bad[0]]} at step {self.step}; the batch and the weights are saved, "
                f"to see it again: letocc reproduce {path}"
            )

    def _optimizer(self, config: OptimizerConfig) -> torch.optim.Optimizer:
        """AdamW; the backbone, and in a later stage all but the flow field, at their own rates."""
        geometry = config.geometry_lr_multiplier
        multipliers = {"backbone": config.backbone_lr_multiplier * geometry, "geometry": geometry, "motion": 1.0}
        group_of = {id(p): name for name, group in self.model.parameter_groups().items() for p in group}
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter in self.model.parameters():
            multiplier = multipliers[group_of[id(parameter)]]
            parameter.requires_grad_(multiplier > 0)
            parameter.grad = None  # of an earlier stage: it would count in the norm of one that keeps this frozen
            groups.setdefault(multiplier, []).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": p, "base_rate": config.learning_rate * m} for m, p in groups.items() if m > 0],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
        return optimizer

    @torch.no_grad()
    def _pictures(self, writer: "SummaryWriter", stage: StageConfig, clip: Clip) -> None:
        """Images of the first sample above the depth rendered from its fields."""
        from letocc_core.viz.depth import depth_strip

        self.model.eval()
        fields = self.model(clip.current, clip.history, motion=False)
        picture = depth_strip(fields, self.model.config.grid, clip.current, stage.objective, self.step / stage.steps)
        writer.add_image(f"{stage.name}/depth", picture, self.step, dataformats="HWC")
        self.model.train()

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """Weights and optimiser state; the pair before stays, in case that this one is damaged later."""
        saved = run_files.Saved(self.folder / "checkpoints", self.stage, self.step)
        saved.folder.mkdir(exist_ok=True)
        saved.write_optimizer(optimizer.state_dict())
        self.export(saved.weights)  # last: what has weights is whole
        marker = {"stage": self.stage, "step": self.step, "tag": saved.weights.stem}
        run_files.write_atomically(self.folder / "resume.json", json.dumps(marker))
        run_files.forget_older(self.folder)

    def restore(self) -> None:
        """Go back to the last saved step of this folder that is whole, if one was saved; forget losses logged after it."""
        candidates = run_files.saved_steps(self.folder)
        for saved in candidates:
            try:
                self._restore(saved)
                break
            except CheckpointError as error:
                if saved is candidates[-1]:
                    raise CheckpointError(
                        f"{self.folder}: no saved step can be read, the last one tried: {error}; start anew, from weights "
                        "that are whole with --init"
                    ) from error
                if self.world.leads:
                    print(f"{error}; going on from the step saved before", file=sys.stderr)

    def _restore(self, saved: run_files.Saved) -> None:
        self.optimizer_state = saved.read_optimizer(self.device)
        checkpoint.load_weights(saved.weights, self.model, self.plain)
        self.stage, self.step = saved.stage, saved.step
        self.before = Counter(checkpoint.read_metadata(saved.weights).get("trained", {})) - self._done()
        if self.world.leads:
            print(f"going on from {saved.weights.name}", file=sys.stderr)
            self._forget_losses()

    def _forget_losses(self) -> None:
        order = [stage.name for stage in self.config.stages]
        log = self.folder / "losses.jsonl"
        kept = [
            entry
            for entry in run_files.losses(log)
            if (order.index(entry["stage"]), entry["step"]) < (self.stage, self.step)
        ]
        run_files.write_atomically(log, "".join(f"{json.dumps(entry)}\n" for entry in kept))

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
            **({"body_masks": body_masks.to_text(self.body_masks)} if self.body_masks else {}),
            seed=self.config.seed,
            trained=dict(self.before + self._done()),
            command=self.command,
            versions=versions(),
        )


def _open_run(plain: dict, name: str, out: Path, resume: Path | None, command: str) -> Path:
    """A new run folder, or the one to resume after comparing its configuration."""
    if resume is not None:
        resume = run_files.followed(resume)
        path = resume / "config.yaml"
        if not path.is_file():
            raise ConfigError(f"{resume}: no run to resume here (no config.yaml); give the folder of a run")
        stored = configuration.to_dict(configuration.load(TrainConfig, path))  # of an earlier version, perhaps
        differing = configuration.differences(stored, plain)
        if differing:
            raise ConfigError(f"{resume}: belongs to another configuration; fields that differ: {'; '.join(differing)}")
        return resume.resolve()
    folder = out / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder.mkdir(parents=True)
    about = {"command": command, "versions": versions(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    try:
        (folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False), "utf-8")
        (folder / "about.json").write_text(json.dumps(about, indent=2), "utf-8")
    except OSError:
        shutil.rmtree(folder)
        raise
    print(f"training into {folder}", file=sys.stderr)
    return folder.resolve()
