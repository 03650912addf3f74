"""Volume rendering of the fields along rays (Let Occ Flow 3.3 and B.5)."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from letocc_core.geometry.grid import GridSpec, sample_volume
from letocc_core.rendering.draws import Draws
from letocc_core.rendering.neus import neus_weights, selfocc_weights
from letocc_core.rendering.rays import Rays, sample_edges


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


@dataclass(frozen=True)
class Rendered:
    """What rays see. S samples a ray: the middles of the intervals that carry the weights."""

    depth: Float[Tensor, "*r"]  # m, sum w t; camera rays: depth along the optical axis, LiDAR rays: range
    opacity: Float[Tensor, "*r"]  # share of the ray that ends inside the box, in [0, 1]
    weights: Float[Tensor, "*r s"]
    t: Float[Tensor, "*r s"]  # m
    points: Float[Tensor, "*r s 3"]  # m, ego axes
    sdf: Float[Tensor, "*r edges"]  # m, at the ends of the intervals
    velocity: Float[Tensor, "*r s 2"] | None = None  # m/s, of each sample
    flow: Float[Tensor, "*r 2"] | None = None  # m/s, sum w v
    semantics: Float[Tensor, "*r k"] | None = None  # sum w softmax(logits): class probabilities, summing to opacity


def render(
    fields: SceneFields,
    grid: GridSpec,
    rays: Rays,
    samples: int = 256,
    beta: float | Tensor = 0.1,
    draws: Draws | None = None,
    weighting: Literal["neus", "selfocc"] = "neus",
    background: Literal["far", "none"] = "far",
    motion: bool = False,
    semantics: bool = False,
) -> Rendered:
    """Render `fields` along `rays` with `samples` uniform intervals inside the box.

    Args:
        beta: m, width of a surface: S(x) = sigmoid(x / beta).
        draws: places the interval ends at random within their strata; None: uniformly.
        weighting: NeuS as the paper writes it, or SelfOcc's variant.
        background: where the part of a ray that leaves the box counts as: at `rays.far`, or nowhere (the paper's sum).
        motion, semantics: also read these fields.
    """
    edges = sample_edges(rays, samples, draws)
    sdf = sample_volume(fields.sdf, grid, rays.at(edges), padding="border")[..., 0]
    t = (edges[..., 1:] + edges[..., :-1]) / 2
    weights = _weights(sdf, edges, rays, beta, weighting)
    opacity = weights.sum(-1)
    depth = (weights * t).sum(-1)
    if background == "far":
        depth = depth + (1 - opacity).clamp(min=0) * rays.far
    points = rays.at(t)
    velocity = sample_volume(fields.flow, grid, points, padding="border") if motion else None
    classes = None
    if semantics:
        classes = sample_volume(fields.semantics, grid, points, padding="border").softmax(-1)
    return Rendered(
        depth,
        opacity,
        weights,
        t,
        points,
        sdf,
        velocity,
        None if velocity is None else torch.einsum("...s,...sc->...c", weights, velocity),
        None if classes is None else torch.einsum("...s,...sc->...c", weights, classes),
    )


def _weights(sdf: Tensor, edges: Tensor, rays: Rays, beta: float | Tensor, weighting: str) -> Tensor:
    if weighting == "neus":
        return neus_weights(sdf, beta)[0]
    steps = (edges[..., 1:] - edges[..., :-1]) * rays.directions.norm(dim=-1)[..., None]  # m
    slope = (sdf[..., 1:] - sdf[..., :-1]) / steps.clamp(min=1e-6)
    return selfocc_weights((sdf[..., 1:] + sdf[..., :-1]) / 2, slope, steps, beta)[0]
