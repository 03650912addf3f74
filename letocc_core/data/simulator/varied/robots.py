"""What differs between robots: cameras, where and how they look, when they fire, their images, and the own vehicle in them.

Everything is drawn from a street's seed, within a range around a rig.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numba import njit

from letocc_core.data.simulator.rig import CameraMount, LidarMount, Rig
from letocc_core.data.simulator.solids import Solid, loft, ring

SPREAD = 0.1  # s within which the cameras of a set fire
EXTRA = "camera_extra"  # name of a camera that the rig does not have
OWN_STYLE = (99.0, 99.0, 99.0, 99.0, 0.1, -9.0)  # of the paint of vehicles: no lamps, arches and plates
LARGEST_OWN = 0.3  # share of an image that may show the own vehicle


@dataclass(frozen=True)
class Look:
    """How a camera turns radiance into an image."""

    gains: tuple[float, float, float]  # of red, green and blue
    exposure: float  # mean radiance that it brings to `MEAN`
    adapts: float  # 0 to 1: how far it makes up for the scene's brightness
    contrast: float  # exponent of the tone curve
    saturation: float
    vignetting: float  # light lost in the corners, as a share
    blur: float  # px, sigma
    noise: float  # sigma at full brightness, as a share of it
    quality: int | None  # of JPEG


@dataclass(frozen=True)
class Variety:
    """One robot."""

    rig: Rig
    offsets: tuple[float, ...]  # s after the set's stamp at which each camera fires; the first one's is 0
    looks: tuple[Look, ...]
    dropping: float  # share of images that get lost
    own: tuple[Solid | None, ...]  # for each camera the part of the vehicle that it sees, m, ego axes

    @classmethod
    def draw(cls, rig: Rig, seed: int, dark: bool) -> "Variety":
        """The robot of a street.

        Args:
            rig: what it is like; the number of a single camera and the size of images stay as they are.
            dark: images are noisier.
        """
        rng = np.random.default_rng([seed, 12])
        cameras = _varied_cameras(rig.cameras, rng)
        highest = max(c.position[2] for c in cameras.values())
        varied = Rig(cameras, _varied_lidar(rig.lidar, highest, rng))
        offsets = _offsets(cameras, rng)
        shared = rng.normal(1, 0.04, 3)
        looks = tuple(_look(rng, shared, dark) for _ in cameras)
        dropping = rng.uniform(0.03, 0.12) if len(cameras) > 1 and rng.random() < 0.15 else 0.0
        sees_itself = rng.random() < 0.4
        own = tuple(_own_vehicle(c, rng) if sees_itself and rng.random() < 0.45 else None for c in cameras.values())
        return cls(varied, offsets, looks, dropping, own)


def _varied_cameras(cameras: dict[str, CameraMount], rng: np.random.Generator) -> dict[str, CameraMount]:
    height = rng.uniform(1.2, 2.1) - float(np.mean([c.position[2] for c in cameras.values()]))
    shift, pitch = rng.uniform(-0.6, 0.4), rng.normal(0, 1.0)
    turns: dict[int, float] = {}  # by how much cameras that look to either side alike look more to the front
    out = {}
    for name, mount in cameras.items():
        turn = turns.setdefault(round(abs(mount.yaw)), 0.0 if mount.yaw % 180 == 0 else rng.uniform(-9, 20))
        fov = rng.uniform(70, 120) if mount.fov > 90 else rng.uniform(50, 90)
        if mount.lens != "pinhole":
            fov = mount.fov * rng.uniform(0.95, 1.05)
        x, y, z = mount.position
        out[name] = replace(
            mount,
            position=(
                x + shift + rng.uniform(-0.2, 0.2),
                y * rng.uniform(0.7, 1.6),
                z + height + rng.uniform(-0.1, 0.1),
            ),
            yaw=mount.yaw - np.sign(mount.yaw) * turn + rng.normal(0, 1.5),
            pitch=mount.pitch + pitch + rng.uniform(-2.5, 4.0),
            roll=rng.normal(0, 1.0),
            fov=fov,
            off_centre=tuple(rng.normal(0, 0.02, 2)),
        )
    if len(out) < 4:
        return out
    number = rng.choice([-1, 0, 1], p=[0.2, 0.6, 0.2])
    if number < 0:
        del out[rng.choice([n for n in list(out)[1:]])]
    if number > 0:
        first = next(iter(out.values()))
        yaw, fov = (
            (rng.normal(0, 2), rng.uniform(30, 50))
            if rng.random() < 0.5
            else (rng.choice([-90, 90]), rng.uniform(60, 90))
        )
        out[EXTRA] = replace(first, position=(*first.position[:2], first.position[2] + 0.05), yaw=float(yaw), fov=fov)
    return out


def _varied_lidar(lidar: LidarMount | None, highest: float, rng: np.random.Generator) -> LidarMount | None:
    if lidar is None:
        return None
    x, y, _ = lidar.position
    z = highest + rng.uniform(0.05, 0.3)
    return replace(lidar, position=(x + rng.uniform(-0.3, 0.3), y, z))


def _offsets(cameras: dict[str, CameraMount], rng: np.random.Generator) -> tuple[float, ...]:
    """Together, one after the other around the vehicle, or each as it likes."""
    kind = rng.choice(["together", "around", "free"], p=[0.4, 0.4, 0.2])
    if kind == "together":
        return (0.0,) * len(cameras)
    share = np.array([c.yaw / 360 for c in cameras.values()]) * rng.choice([-1, 1])
    share = share - np.floor(share + 0.5) if kind == "around" else rng.uniform(-0.5, 0.5, len(cameras))
    offsets = share * rng.uniform(0.4, 1.0) * SPREAD
    return tuple(round(float(o), 4) for o in np.clip(offsets - offsets[0], -SPREAD / 2, SPREAD / 2))


def _look(rng: np.random.Generator, shared: np.ndarray, dark: bool) -> Look:
    return Look(
        gains=tuple(np.clip(shared * rng.normal(1, 0.03, 3), 0.85, 1.18)),
        exposure=rng.uniform(0.75, 1.35),
        adapts=rng.uniform(0.55, 0.95),
        contrast=rng.uniform(0.85, 1.25),
        saturation=rng.uniform(0.7, 1.25),
        vignetting=rng.uniform(0, 0.4) if rng.random() < 0.6 else 0.0,
        blur=rng.uniform(0.3, 0.9) if rng.random() < 0.8 else 0.0,
        noise=rng.uniform(0.002, 0.014) * (1.2 if dark else 1),
        quality=int(rng.uniform(35, 96)) if rng.random() < 0.7 else None,
    )


def _own_vehicle(mount: CameraMount, rng: np.random.Generator) -> Solid:
    """A bonnet or a roof before and below a camera."""
    drop, reach, half = rng.uniform(0.12, 0.45), rng.uniform(0.5, 1.7), rng.uniform(0.55, 0.9)
    fall = rng.uniform(0.02, 0.15)
    rings = [
        ring(-0.6, reach, half, -drop - 0.5, 0.3),
        ring(-0.6, reach, half, -drop - fall, 0.3),
        ring(-0.5, reach - 0.25, half - 0.12, -drop - 0.4 * fall, 0.3),
        ring(-0.4, 0.6 * reach, half - 0.3, -drop, 0.3),
    ]
    yaw = np.radians(mount.yaw)
    R = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    rings = [r @ R.T + mount.position for r in rings]
    return loft(rings, "body", style=OWN_STYLE)


MEAN = 0.2  # mean radiance that an exposure of 1 gives


def develop(
    radiance: Float[np.ndarray, "H W 3"],
    look: Look,
    counted: Bool[np.ndarray, "H W"],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "H W 3"]:
    """The image that a camera makes of radiances.

    Args:
        counted: pixels that its exposure goes by.
    """
    image = cv2.GaussianBlur(radiance, (0, 0), look.blur) if look.blur else radiance
    mean = float(np.minimum(image[counted], 1.0).mean()) if counted.any() else MEAN
    gain = look.exposure * (MEAN / max(mean, 1e-3)) ** look.adapts
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(look.noise * (1 + 2 * gain) ** 0.5)
    out = np.empty(image.shape, np.uint8)
    gains = np.array(look.gains) * gain
    _expose(image, gains, look.vignetting, look.saturation, _curve(look.contrast), noise, out)
    if look.quality is None:
        return out
    packed = cv2.imencode(".jpg", out[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, look.quality])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))[..., ::-1])


@lru_cache(maxsize=256)
def _curve(contrast: float) -> Float[np.ndarray, "1025"]:
    """Tone curve from 0 to 1 in steps of 1 / 1024, which leaves 0.45 as it is."""
    x = np.linspace(0, 1, 1025)
    return (x * (x / 0.45 + 1e-3) ** (contrast - 1)).astype(np.float32)


@njit(cache=True, nogil=True, error_model="numpy")
def _expose(radiance, gains, vignetting, saturation, curve, noise, out):
    """8 bit values of square roots of radiances, after gains, vignetting, saturation, a tone curve and noise."""
    height, width = radiance.shape[:2]
    for i in range(height):
        v = 2 * i / (height - 1) - 1
        for j in range(width):
            u = 2 * j / (width - 1) - 1
            kept = 1 - 0.5 * vignetting * (u * u + v * v)
            r = math.sqrt(max(radiance[i, j, 0] * kept * gains[0], 0.0))
            g = math.sqrt(max(radiance[i, j, 1] * kept * gains[1], 0.0))
            b = math.sqrt(max(radiance[i, j, 2] * kept * gains[2], 0.0))
            grey = 0.3 * r + 0.59 * g + 0.11 * b
            for c, value in enumerate((r, g, b)):
                value = min(max(grey + saturation * (value - grey), 0.0), 1.0) * 1024
                low = min(int(value), 1023)
                value = curve[low] + (value - low) * (curve[low + 1] - curve[low]) + noise[i, j, c]
                out[i, j, c] = np.uint8(min(max(value, 0.0), 1.0) * 255 + 0.5)
