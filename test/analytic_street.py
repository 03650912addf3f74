"""A street of boxes on a plane, rendered exactly without Open3D: textured, of known depth, seen from a moving rig."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from letocc_core.frame import Clip, Frame, stack
from letocc_core.geometry.grid import GridSpec

OCTAVES = (6.0, 2.0, 0.7, 0.25, 0.1)  # m, cells of the texture
INTERVAL = 0.2  # s between frames
ROAD = -1


@dataclass(frozen=True)
class AnalyticStreet:
    """Boxes [M, 2, 3] (lower and upper corner, m, world) on the plane z = 0, under a plain sky."""

    boxes: np.ndarray
    texture: np.ndarray  # [n, n, n] tiled noise with mean 0
    colours: np.ndarray  # [M + 1, 3]; the last one is the road's

    @classmethod
    def random(cls, seed: int) -> "AnalyticStreet":
        """House fronts on both sides of a road along x, with parked boxes before them."""
        rng = np.random.default_rng(seed)
        fronts = [
            _box(-45 + 10 * i, side * rng.uniform(8, 15), 9, 4, rng.uniform(3, 9))
            for i in range(12)
            for side in (-1, 1)
        ]
        parked = [_box(rng.uniform(-30, 35), rng.choice([-1, 1]) * rng.uniform(3.5, 5), 4, 1.8, 1.6) for _ in range(16)]
        boxes = np.stack(fronts + parked)
        noise = rng.normal(size=(48, 48, 48)).astype(np.float32)
        return cls(boxes, noise, rng.uniform(0.2, 0.7, (len(boxes) + 1, 3)))

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """t of the first hit (inf = sky) of rays [R, 3] and what was hit: index of the box, or ROAD."""
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = ((self.boxes[:, side, None] - origin) / directions for side in (0, 1))
            near, far = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
            t = np.where((near < far) & (near > 0), near, np.inf)
            road = np.where(directions[:, 2] < 0, -origin[2] / directions[:, 2], np.inf)
        first = t.argmin(0)
        box = t[first, np.arange(len(directions))]
        return np.minimum(box, road), np.where(box < road, first, ROAD)

    def colour(self, points: np.ndarray, hit: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """RGB [R, 3] of surface points; octaves finer than the pixel's footprint (m) fade out."""
        value = np.zeros(len(points))
        for octave in OCTAVES:
            noise = map_coordinates(self.texture, (points / octave).T, order=1, mode="grid-wrap")
            value += 0.1 * noise * np.clip(octave / footprint - 1, 0, 1)
        return np.clip(self.colours[hit] + value[:, None] * [1.0, 0.9, 0.8], 0, 1)

    def frame(self, rig: "Rig", x: float, stamp: int) -> tuple[Frame, torch.Tensor]:
        """A single frame with the ego vehicle at (x, 0, 0), and its true depth [N, H, W] (m, inf = sky)."""
        images, depths = [], []
        for T in rig.T_ego_cam.numpy():
            directions = rig.directions() @ T[:3, :3].T
            origin = T[:3, 3] + [x, 0, 0]
            t, hit = self.cast(origin, directions)
            seen = np.isfinite(t)
            image = np.tile(np.array([0.6, 0.7, 0.85]), (len(t), 1))
            points = origin + t[seen, None] * directions[seen]
            image[seen] = self.colour(points, hit[seen], t[seen] / rig.K[0, 0, 0].item())
            images.append(image.reshape(rig.height, rig.width, 3).transpose(2, 0, 1))
            depths.append(t.reshape(rig.height, rig.width))
        pose = torch.eye(4, dtype=torch.float64)
        pose[0, 3] = x
        frame = Frame(
            stamp=torch.tensor(stamp),
            images=torch.tensor(np.stack(images), dtype=torch.float32),
            camera_valid=torch.ones(len(images), dtype=torch.bool),
            K=rig.K.float(),
            T_ego_cam=rig.T_ego_cam.float(),
            T_world_ego=pose,
        )
        return frame, torch.tensor(np.stack(depths), dtype=torch.float32)

    def clip(self, rig: "Rig", speed: float = 8.0) -> tuple[Clip, torch.Tensor]:
        """A batch of one clip with the frames before and after as sources, and the true depth [1, N, H, W]."""
        step = speed * INTERVAL
        frames = [self.frame(rig, x, round(i * INTERVAL * 1e9)) for i, x in ((-1, -step), (0, 0.0), (1, step))]
        before, now, after = (stack([frame]) for frame, _ in frames)
        return Clip(now, (before,), (before, after)), frames[1][1][None]

    def distance(self, grid: GridSpec) -> torch.Tensor:
        """True signed distance to road and boxes [1, 1, X, Y, Z] (m, positive = free)."""
        points = grid.centres().numpy().astype(np.float64)
        sdf = points[..., 2]
        for lower, upper in self.boxes:
            outside = np.maximum(lower - points, points - upper)
            box = np.linalg.norm(np.maximum(outside, 0), axis=-1) + np.minimum(outside.max(-1), 0)
            sdf = np.minimum(sdf, box)
        return torch.tensor(sdf, dtype=torch.float32)[None, None]


@dataclass(frozen=True)
class Rig:
    """Cameras of one size around the ego vehicle, 1.5 m above the road."""

    headings: tuple[float, ...] = (0, 60, 120, 180, 240, 300)  # degrees, left positive
    height: int = 128
    width: int = 224
    field_of_view: float = 70.0  # degrees, horizontal

    @property
    def K(self) -> torch.Tensor:
        focal = self.width / 2 / np.tan(np.radians(self.field_of_view) / 2)
        K = torch.tensor([[focal, 0, (self.width - 1) / 2], [0, focal, (self.height - 1) / 2], [0, 0, 1]])
        return K.expand(len(self.headings), 3, 3)

    @property
    def T_ego_cam(self) -> torch.Tensor:
        T = torch.eye(4, dtype=torch.float64).repeat(len(self.headings), 1, 1)
        for i, heading in enumerate(np.radians(self.headings)):
            c, s = np.cos(heading), np.sin(heading)
            T[i, :3, :3] = torch.tensor([[s, 0, c], [-c, 0, s], [0, -1, 0]])
            T[i, :3, 3] = torch.tensor([c, s, 1.5])
        return T

    def directions(self) -> np.ndarray:
        """Optical-frame directions [H * W, 3] with z = 1."""
        v, u = np.mgrid[: self.height, : self.width]
        K = self.K[0].numpy()
        x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
        return np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)


def _box(x: float, y: float, length: float, width: float, height: float) -> np.ndarray:
    return np.array([[x, y - width / 2, 0], [x + length, y + width / 2, height]])
