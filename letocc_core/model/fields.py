"""SDF, flow and semantic fields on the output grid (Let Occ Flow 3.3, eq. 7)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from letocc_core.compiled.threads import serves
from letocc_core.errors import ConfigError

FLOW_SCALE = 10.0  # m/s, velocity of a unit of the last layer's output
MOST_VOXELS = 2**19  # at which an MLP is evaluated at once, to bound the memory of its hidden layer
IN_CACHE = 2**13  # voxels whose hidden layer a CPU's second cache holds


@dataclass(frozen=True)
class FieldsConfig:
    """Two-layer MLPs evaluated at every voxel."""

    hidden: int = 64  # width of the hidden layer
    classes: int = 0  # semantic classes; 0: no semantic field
    class_names: tuple[str, ...] = ()  # of these classes, in the order of their numbers; empty: numbers alone
    sdf_scale: float = 1.0  # m, SDF of a unit of the last layer's output
    sdf_start: float = 0.5  # m, SDF everywhere before training: free

    REMOVED: ClassVar = {"dynamic": False, "flow_scale": 10.0}

    def __post_init__(self):
        if self.class_names and len(self.class_names) != self.classes:
            raise ConfigError(
                f"model.fields: {len(self.class_names)} class_names for {self.classes} classes; name each or none"
            )


@dataclass(frozen=True)
class Evidence:
    """What the motion branch makes velocities of, for each column of twice the output's voxel size."""

    similarity: Float[Tensor, "B k M x y"]  # of the M velocities tried, by past frame and patch size; the middle one: 0
    known: Float[Tensor, "B p x y"]  # 1 where something was compared with this past frame, else 0
    columns: Float[Tensor, "B c x y"]  # refined volume and matter

    def turned(self, which: Bool[Tensor, "B"]) -> "Evidence":
        """What the same scene gives after half a turn about the box's centre, for the clips `which`.

        As far as the volume's channels know no heading. The opposite of each velocity tried is at the list's other end.
        """
        plain = (self.similarity, self.known, self.columns)
        turned = (self.similarity.flip(2, 3, 4), self.known.flip(2, 3), self.columns.flip(2, 3))
        masks = (which.view(-1, *[1] * (x.dim() - 1)) for x in plain)
        return Evidence(*(torch.where(*choice) for choice in zip(masks, turned, plain, strict=True)))


@dataclass(frozen=True)
class Fields:
    """Dense fields on the output grid, in ego axes."""

    sdf: Float[Tensor, "B 1 X Y Z"]  # m, positive = free
    flow: Float[Tensor, "B 2 X Y Z"] | None  # m/s, (vx, vy) of the matter relative to the world; None: not asked for
    semantics: Float[Tensor, "B K X Y Z"] | None = None  # logits
    evidence: Evidence | None = None  # what the motion branch made the flow of

    def probability(self, scale: float) -> Float[Tensor, "B X Y Z"]:
        """Occupancy probability sigmoid(-sdf / scale); `scale` in metres."""
        return torch.sigmoid(-self.sdf[:, 0] / scale)


class FieldHeads(nn.Module):
    """One MLP a field; their last layers start at zero, so that the world starts free and still.

    Args:
        dim: channels of the volume.
        motion: also a flow field.
    """

    def __init__(self, config: FieldsConfig, dim: int, motion: bool = True):
        super().__init__()
        self.config = config
        self.sdf = self._mlp(dim, 1)
        self.flow = self._mlp(dim, 2) if motion else None
        self.semantics = self._mlp(dim, config.classes) if config.classes else None

    def _mlp(self, inputs: int, outputs: int) -> nn.Sequential:
        last = nn.Linear(self.config.hidden, outputs)
        nn.init.normal_(last.weight, std=1e-3)
        nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(inputs, self.config.hidden), nn.ReLU(inplace=True), last)

    def forward(self, volume: Float[Tensor, "B C X Y Z"], motion: bool = True) -> Fields:
        """Fields of a refined volume, the flow field only if `motion` is wanted."""
        sdf = self._evaluate(self.sdf, volume) * self.config.sdf_scale + self.config.sdf_start
        semantics = None if self.semantics is None else self._evaluate(self.semantics, volume)
        flow = self._evaluate(self.flow, volume) * FLOW_SCALE if motion and self.flow else None
        return Fields(sdf, flow, semantics)

    @staticmethod
    def _evaluate(mlp: nn.Module, volume: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B K X Y Z"]:
        """The MLP at every voxel, slab by slab along x where there are many."""
        most = IN_CACHE if serves(volume) and not torch.is_grad_enabled() else MOST_VOXELS
        slabs = min(volume.shape[2], math.ceil(volume[:, 0].numel() / most))
        return torch.cat([mlp(slab.movedim(1, -1)) for slab in volume.chunk(slabs, dim=2)], dim=1).movedim(-1, 1)
