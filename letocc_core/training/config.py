"""The whole of a YAML file that can be trained."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from letocc_core.data.config import DataConfig
from letocc_core.errors import ConfigError
from letocc_core.frame import InputConfig
from letocc_core.losses.objective import MotionConfig, StaticStageConfig
from letocc_core.model.let_occ_flow import ModelConfig
from letocc_core.training.augmentation import AugmentationConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up (Let Occ Flow B.3)."""

    learning_rate: float = 1e-3  # of the modules trained from scratch
    backbone_lr_multiplier: float = 1.0  # of the image backbone's learning rate (0.1 with pre-trained weights)
    geometry_lr_multiplier: float = 1.0  # of all but the flow field, where an earlier stage trained it; 0: it stays
    weight_decay: float = 0.01
    warmup_steps: int = 50  # steps of linear warm-up
    schedule: Literal["cosine", "multistep"] = "cosine"
    milestones: tuple[float, ...] = (0.6, 0.8)  # multistep: fractions of the stage at which the rate drops
    decay: float = 0.2  # multistep: factor of each drop
    clip_norm: float = 10.0  # largest norm of the whole gradient

    RENAMED: ClassVar = {
        "backbone_factor": "backbone_lr_multiplier",
        "geometry_factor": "geometry_lr_multiplier",
    }


@dataclass(frozen=True)
class StageConfig:
    """One stage of the schedule: an objective, for a number of steps."""

    name: str = "static"  # each stage has its own
    steps: int = 3000
    batch_size: int = 2  # clips a step, of all processes together
    keep_geometry: bool = (
        False  # on disk, a few MiB a clip, while motion_branch alone learns: each clip once, not a step
    )
    objective: StaticStageConfig = field(default_factory=StaticStageConfig)
    motion: MotionConfig | None = None  # also learn how the world moves (the papers' second stage)
    augmentation: AugmentationConfig | None = None  # of what the network sees; the losses see the clips as they are
    half_turn_augmentation: float = 0.0  # share of clips that motion_branch sees turned by 180 degrees
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    RENAMED: ClassVar = {"half_turns": "half_turn_augmentation"}

    def __post_init__(self):
        share = self.half_turn_augmentation
        if not 0 <= share <= 1:
            raise ConfigError(f"stage {self.name}: half_turn_augmentation is {share:g}, expected a share from 0 to 1")
        if share and self.motion is None:
            raise ConfigError(
                f"stage {self.name}: half_turn_augmentation is for motion, which this stage does not learn"
            )
        if self.augmentation and self.keep_geometry:
            raise ConfigError(
                f"stage {self.name}: augmentation, but keep_geometry sees each clip once; leave one of them out"
            )
        frozen = self.optimizer.geometry_lr_multiplier == 0 and not self.objective.shapes_geometry()
        if self.keep_geometry and not (frozen and self.motion):
            raise ConfigError(
                f"stage {self.name}: keep_geometry, but geometry learns here; expected motion, "
                "optimizer.geometry_lr_multiplier 0, and no weight of a geometry term"
            )


@dataclass(frozen=True)
class TrainConfig:
    """The whole of a YAML file in config/ that can be trained."""

    model: ModelConfig
    input: InputConfig
    data: DataConfig
    stages: tuple[StageConfig, ...] = (StageConfig(),)
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"  # of the network's matrix products; geometry stays in float32
    history_gradient: bool = False  # also back-propagate into the past frames' encoding (papers: yes; costs 2 x more)
    history_dropout: float = 0.1  # share of samples trained without a past, so that the first frames work too
    checkpoint_every: int = 250  # steps between checkpoints
    picture_every: int = 250  # steps between pictures in TensorBoard

    def __post_init__(self):
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ConfigError(f"stages: names {', '.join(names)}, expected a name of its own for each")
        for stage in self.stages:
            if stage.objective.queries > 0 and self.data.votes is None:
                raise ConfigError(f"stage {stage.name}: objective.queries needs votes of rays; set data.votes: {{}}")
        for stage in self.stages if self.model.motion_branch is None else ():
            for name in ("keep_geometry", "half_turn_augmentation"):
                if getattr(stage, name):
                    raise ConfigError(f"stage {stage.name}: {name} is for model.motion_branch, but the model has none")

    def only_stage(self, name: str) -> "TrainConfig":
        """The same configuration with one of its stages; raises `ConfigError` if it has none of that name."""
        stages = tuple(stage for stage in self.stages if stage.name == name)
        if not stages:
            raise ConfigError(f"no stage '{name}'; stages: {', '.join(stage.name for stage in self.stages)}")
        return replace(self, stages=stages)

    def needs_sweeps(self) -> bool:
        """Whether the LiDAR of recordings is asked for, and a stage learns from it."""
        recorded = self.data.recorded
        return bool(recorded and recorded.lidar and any(stage.objective.lidar > 0 for stage in self.stages))

    def needed_data(self) -> DataConfig:
        """`data`, without what no stage learns from, as it takes longer than the rest: votes of rays, optical flow."""
        data = self.data
        if not any(stage.objective.queries > 0 for stage in self.stages):
            data = replace(data, votes=None)
        if any(stage.motion for stage in self.stages) or getattr(data.recorded, "masks", None) is not None:
            return data
        return replace(data, **{data.source: replace(getattr(data, data.source), cue="none")})
