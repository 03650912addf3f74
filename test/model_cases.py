"""Small models and frames for the tests of the network."""

import math
from pathlib import Path

import torch
import yaml
from torch import Tensor

from letocc_core import config as configuration
from letocc_core.frame import Frame, InputConfig
from letocc_core.geometry.grid import GridSpec
from letocc_core.model.let_occ_flow import ModelConfig
from letocc_core.rendering.rays import CameraRays

CONFIG = Path(__file__).resolve().parents[1] / "config"
SMALL = {
    "grid": {"lower": [-4.0, -4.8, -1.0], "upper": [4.0, 4.8, 2.2], "voxel_size": 0.4},
    "dim": 8,
    "backbone": {"widths": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "encoder": {
        "layers": 1,
        "heads": 2,
        "cross_view_points": 4,
        "cross_view_anchors": 2,
        "image_points": [2, 4, 4],
        "anchors": [2, 4, 4],
    },
    "temporal": {"frames": 2, "points": 2, "heads": 2},
    "refinement": {"blocks": [1, 1], "groups": 2},
    "fields": {"hidden": 8},
}


def model_config(**changes) -> ModelConfig:
    """The small model, with some sections replaced (a mapping is merged into its section)."""
    data = dict(SMALL)
    for key, value in changes.items():
        data[key] = {**data.get(key, {}), **value} if isinstance(value, dict) else value
    return configuration.from_dict(ModelConfig, data, "test")


def shipped(name: str) -> tuple[ModelConfig, InputConfig]:
    """The sections `model` and `input` of config/<name>.yaml."""
    data = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
    return (
        configuration.from_dict(ModelConfig, data["model"], name, "model."),
        configuration.from_dict(InputConfig, data["input"], name, "input."),
    )


def frames(
    batch: int = 2, cameras: int = 3, count: int = 3, size: tuple[int, int] = (64, 96), speed: float = 5.0
) -> list[Frame]:
    """Random images of a rig that looks around, newest first, 0.2 s apart, driving along x at `speed` m/s."""
    generator = torch.Generator().manual_seed(7)
    height, width = size
    T_ego_cam = torch.eye(4).repeat(batch, cameras, 1, 1)
    for camera in range(cameras):
        yaw = 2 * math.pi * camera / cameras
        c, s = math.cos(yaw), math.sin(yaw)
        T_ego_cam[:, camera, :3, :3] = torch.tensor([[s, 0, c], [-c, 0, s], [0, -1, 0]])
        T_ego_cam[:, camera, :3, 3] = torch.tensor([0.5 * c, 0.5 * s, 1.5])
    focal = width / 2 / math.tan(math.radians(45))
    K = torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    out = []
    for k in range(count):
        T_world_ego = torch.eye(4, dtype=torch.float64).repeat(batch, 1, 1)
        T_world_ego[:, 0, 3] = 1000 - 0.2 * k * speed
        out.append(
            Frame(
                stamp=torch.full((batch,), 10**9 - k * 200_000_000),
                images=torch.rand(batch, cameras, 3, height, width, generator=generator),
                camera_valid=torch.ones(batch, cameras, dtype=torch.bool),
                K=K.expand(batch, cameras, 3, 3).clone(),
                T_ego_cam=T_ego_cam.clone(),
                T_world_ego=T_world_ego,
            )
        )
    return out


def box() -> GridSpec:
    """A grid with a different length along each axis."""
    return GridSpec((-4.0, -4.8, -1.0), (4.0, 4.8, 2.2), 0.8)


def line_through(points: Tensor, pixels: Tensor | None = None) -> tuple[CameraRays, Tensor]:
    """Rays [B, N, *p] through points [B, N, *p, s, 3] (m) that lie on a line each, and `t` of the points on them."""
    origins = points[..., 0, :]
    directions = points[..., 1, :] - origins if points.shape[-2] > 1 else torch.ones_like(origins)
    t = ((points - origins[..., None, :]) @ directions[..., None])[..., 0] / directions.square().sum(-1, keepdim=True)
    pixels = torch.zeros_like(origins[..., :2]) if pixels is None else pixels
    rays = CameraRays(origins, directions, t[..., 0], t[..., -1], torch.ones_like(t[..., 0], dtype=torch.bool), pixels)
    torch.testing.assert_close(rays.at(t), points)
    return rays, t
