"""Volume rendering of the fields along rays (Let Occ Flow 3.3 and B.5)."""

from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from letocc_core.errors import ConfigError
from letocc_core.geometry.grid import GridSpec, sample_unit
from letocc_core.rendering.draws import Draws
from letocc_core.rendering.neus import neus_weights, selfocc_weights
from letocc_core.rendering.rays import Rays, channels, sample_edges


@runtime_checkable
class SceneFields(Protocol):
    """What rendering reads of the model's output."""

    @property
    def sdf(self) -> Float[Tensor, "B 1 X Y Z"]:
        """Signed distance (m), positive = free."""

    @property
    def flow(self) -> Float[Tensor, "B 2 X Y Z"] | None:
        """Velocity (m/s) of the matter relative to the world, in ego axes."""

    @property
    def semantics(self) -> Float[Tensor, "B K X Y Z"] | None:
        """Class logits."""


SomeRays = TypeVar("SomeRays", bound=Rays)


@dataclass(frozen=True)
class Rendered(Generic[SomeRays]):
    """What rays see. S samples a ray: the middles of the intervals that carry the weights."""

    rays: SomeRays
    depth: Float[Tensor, "*r"]  # m, sum w t; camera rays: depth along the optical axis, LiDAR rays: range
    opacity: Float[Tensor, "*r"]  # share of the ray that ends inside the box, in [0, 1]
    weights: Float[Tensor, "*r s"]
    t: Float[Tensor, "*r s"]  # m
    sdf: Float[Tensor, "*r edges"]  # m, at the ends of the intervals
    velocity: Float[Tensor, "*r s 2"] | None = None  # m/s, of each sample
    flow: Float[Tensor, "*r 2"] | None = None  # m/s, sum w v
    semantics: Float[Tensor, "*r k"] | None = None  # sum w softmax(logits): class probabilities, summing to opacity

    @property
    def hits(self) -> Bool[Tensor, "*r"]:
        """Rays that meet a surface inside the box, more likely than not."""
        return self.rays.valid & (self.opacity.detach() > 0.5)

    @property
    def points(self) -> Float[Tensor, "*r s 3"]:
        """The samples (m, ego axes)."""
        return self.rays.at(self.t)


def _field(values: Tensor | None, name: str) -> Tensor:
    if values is None:
        raise ConfigError(f"{name} cannot be rendered, because these fields have none; use a model that has it")
    return values


def render(
    fields: SceneFields,
    grid: GridSpec,
    rays: SomeRays,
    samples: int = 256,
    beta: float | Tensor = 0.1,
    draws: Draws | None = None,
    weighting: Literal["neus", "selfocc"] = "neus",
    background: Literal["far", "none"] = "far",
    motion: bool = False,
    semantics: bool = False,
    seconds: Float[Tensor, "B"] | None = None,
) -> Rendered[SomeRays]:
    """Render `fields` along `rays` with `samples` uniform intervals inside the box.

    Args:
        beta: m, width of a surface: S(x) = sigmoid(x / beta).
        draws: places the interval ends at random within their strata; None: uniformly.
        weighting: NeuS as the paper writes it, or SelfOcc's variant.
        background: where the part of a ray that leaves the box counts as: at `rays.far`, or nowhere (the paper's sum).
        motion, semantics: also read these fields.
        seconds: s from the fields' instant to that of the rays, by which matter has moved on; None: it stands, or the two
            are one.
    """
    edges = sample_edges(rays, samples, draws)
    unit = rays.in_units(grid)
    points = unit.at(edges)
    if seconds is not None:
        points = _where_it_was(_field(fields.flow, "flow"), grid, points, seconds)
    sdf = sample_unit(fields.sdf, points, "border")[..., 0]
    t = torch.lerp(edges[..., :-1], edges[..., 1:], 0.5)
    weights = _weights(sdf, edges, rays, beta, weighting)
    opacity = weights.sum(-1)
    depth = torch.linalg.vecdot(weights, t)
    if background == "far":
        depth = depth + (1 - opacity).clamp(min=0) * rays.far
    velocity = sample_unit(_field(fields.flow, "flow"), unit.at(t), "border") if motion else None
    classes = None
    if semantics:
        classes = sample_unit(_field(fields.semantics, "semantics"), unit.at(t), "border").softmax(-1)
    return Rendered(
        rays,
        depth,
        opacity,
        weights,
        t,
        sdf,
        velocity,
        None if velocity is None else composite(weights, velocity),
        None if classes is None else composite(weights, classes),
    )


def _where_it_was(
    flow: Float[Tensor, "B 2 X Y Z"], grid: GridSpec, points: Float[Tensor, "B *n 3"], seconds: Float[Tensor, "B"]
) -> Float[Tensor, "B *n 3"]:
    """Where the matter at `points` (unit coordinates) was so many seconds ago, had it the velocity that is there now."""
    velocity = sample_unit(flow, points, "border")
    metres = F.pad(velocity, (0, 1)) * seconds.view(-1, *[1] * (points.dim() - 1))
    return points - (grid.to_unit(metres) - grid.to_unit(torch.zeros_like(metres[..., :1, :])))


def composite(weights: Float[Tensor, "*r s"], values: Float[Tensor, "*r s c"]) -> Float[Tensor, "*r c"]:
    """sum w v of each ray; channel by channel, as they lie apart in memory."""
    return torch.stack([torch.linalg.vecdot(weights, channel) for channel in channels(values)], dim=-1)


def _weights(sdf: Tensor, edges: Tensor, rays: Rays, beta: float | Tensor, weighting: str) -> Tensor:
    if weighting == "neus":
        return neus_weights(sdf, beta)
    steps = (edges[..., 1:] - edges[..., :-1]) * rays.directions.norm(dim=-1)[..., None]  # m
    slope = (sdf[..., 1:] - sdf[..., :-1]) / steps.clamp(min=1e-6)
    return selfocc_weights((sdf[..., 1:] + sdf[..., :-1]) / 2, slope, steps, beta)[0]
