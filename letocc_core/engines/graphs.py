"""What is exported: the learned parts of the network as functions of plain tensors, a batch of one.

`encode` makes the volume of a set, `decode` fields of it and of the volumes kept from the past, `motion` velocities of what
was compared. What holds no weights stays with the library and comes as input: which queries a camera sees, relative
poses, and the evidence of both sweeps.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from letocc_core.model.fields import Evidence
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.model.tpv import Looked

OF_LOOKED = ("query", "reference", "seen", "share")


@dataclass(frozen=True)
class Graph:
    """A function to export, with a sample of its inputs by name."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    varying: tuple[str, ...] = ()  # inputs whose third axis may have any length


def encode_inputs(images: Float[Tensor, "1 N 3 H W"], looked: Mapping[str, Looked]) -> dict[str, Tensor]:
    """Inputs of `encode` by name."""
    return {"images": images} | {f"{plane}_{n}": getattr(v, n) for plane, v in looked.items() for n in OF_LOOKED}


def decode_inputs(
    volume: Float[Tensor, "1 D x y z"],
    past: Sequence[Float[Tensor, "1 D x y z"]],
    T_past_now: Sequence[Float[Tensor, "1 4 4"]],
    fine: Float[Tensor, "1 C X Y Z"] | None,
) -> dict[str, Tensor]:
    """Inputs of `decode` by name; the past newest first."""
    found = {"volume": volume}
    found |= {f"past_{i}": v for i, v in enumerate(past, 1)} | {f"T_past_{i}": T for i, T in enumerate(T_past_now, 1)}
    return found if fine is None else {**found, "evidence": fine}


def motion_inputs(evidence: Evidence, sdf: Float[Tensor, "1 1 X Y Z"]) -> dict[str, Tensor]:
    """Inputs of `motion` by name."""
    return {"similarity": evidence.similarity, "known": evidence.known, "columns": evidence.columns, "sdf": sdf}


class Encode(nn.Module):
    """Images to the volume."""

    def __init__(self, model: LetOccFlow):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, *looked: Tensor) -> Tensor:
        planes, n = self.model.encoder.planes, len(OF_LOOKED)
        parts = {plane: Looked(*looked[i * n : (i + 1) * n]) for i, plane in enumerate(planes)}
        return self.model.volume(images, parts)


class _FirstOfTwo(nn.Module):
    """A linear layer of one output as the first of two: OpenVINO (2026.4) forgets the bias of a lone one."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear

    def forward(self, x: Float[Tensor, "*n C"]) -> Float[Tensor, "*n 1"]:
        weight, bias = self.linear.weight, self.linear.bias
        return nn.functional.linear(x, weight.repeat(2, 1), bias.repeat(2))[..., :1]


class Decode(nn.Module):
    """Volumes to fields, and to the columns that `motion` reads."""

    def __init__(self, model: LetOccFlow):
        super().__init__()
        self.model = copy.copy(model)  # only the last layer of the SDF is another
        self.model._modules = model._modules | {"fields": copy.deepcopy(model.fields)}
        sdf = self.model.fields.sdf
        last = sdf[-1]
        assert isinstance(last, nn.Linear)
        sdf[-1] = _FirstOfTwo(last)

    def forward(self, volume: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        frames = self.model.config.temporal.frames
        past, poses, rest = others[:frames], others[frames : 2 * frames], others[2 * frames :]
        fields, columns = self.model.fields_of(volume, past, poses, rest[0] if rest else None)
        return tuple(t for t in (fields.sdf, fields.flow, fields.semantics, columns) if t is not None)


class Motion(nn.Module):
    """What was compared to velocities."""

    def __init__(self, model: LetOccFlow):
        super().__init__()
        assert model.motion is not None
        self.motion = model.motion

    def forward(self, similarity: Tensor, known: Tensor, columns: Tensor, sdf: Tensor) -> Tensor:
        return self.motion(Evidence(similarity, known, columns), sdf)


def decode_outputs(model: LetOccFlow) -> tuple[str, ...]:
    """Names of what `Decode` returns."""
    has = {"sdf": True, "flow": model.motion is None, "semantics": model.fields.semantics is not None}
    return (*(name for name, there in has.items() if there), *(("columns",) if model.motion is not None else ()))


@torch.inference_mode(False)
@torch.no_grad()
def graphs_of(model: LetOccFlow, cameras: int, image_size: tuple[int, int]) -> dict[str, Graph]:
    """The graphs by name, in the order in which they run, for images of this size (px, height and width)."""
    config = model.config
    coarse, fine = config.grid.coarser(2).shape, config.grid.shape
    K = torch.tensor([[image_size[1], 0, image_size[1] / 2], [0, image_size[1], image_size[0] / 2], [0, 0, 1.0]])
    ahead = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    valid = torch.ones(1, cameras, dtype=torch.bool)
    looked = model.encoder.look(K.expand(1, cameras, 3, 3), ahead.expand(1, cameras, 4, 4), valid, image_size)
    given = encode_inputs(torch.rand(1, cameras, 3, *image_size), looked)
    varying = tuple(f"{plane}_{n}" for plane in looked for n in ("query", "reference", "seen"))
    found = {"encode": Graph(Encode(model), given, ("volume",), varying)}
    volume, pose = torch.rand(1, config.dim, *coarse), torch.eye(4)[None]
    frames, sdf = config.temporal.frames, torch.rand(1, 1, *fine)
    evidence = torch.rand(1, 4, *fine) if config.sweep else None
    given = decode_inputs(
        volume, [volume.clone() for _ in range(frames)], [pose.clone() for _ in range(frames)], evidence
    )
    found["decode"] = Graph(Decode(model), given, decode_outputs(model))
    if model.motion is not None:
        columns = model.motion.columns(torch.rand(1, config.dim // 2, *fine), sdf)
        lists, tried = frames * 2, len(model.motion.config.velocities())
        seen = Evidence(torch.rand(1, lists, tried, *coarse[:2]), torch.ones(1, frames, *coarse[:2]), columns)
        found["motion"] = Graph(Motion(model), motion_inputs(seen, sdf), ("flow",))
    return found
