"""Rays that stop at the first matter, for the CPU: `letocc_core.geometry.surfaces` says what is computed."""

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor

from letocc_core.compiled.threads import FAST, flat, shared

ZERO, HALF, ONE, U = np.float32(0), np.float32(0.5), np.float32(1), np.uintp
HALVED = np.float32(np.log(2))  # -log of a probability of a half
TINY = np.float32(1e-6)


def first_zero(
    sdf: Float[Tensor, "B 1 X Y Z"],
    origins: Float[Tensor, "B r 3"],
    directions: Float[Tensor, "B r 3"],
    near: Float[Tensor, "B r"],
    far: Float[Tensor, "B r"],
    start: float,
    step: float,
) -> Float[Tensor, "B r"]:
    """t at which rays (voxel indices) first meet a negative SDF, in steps from `start` on between near and far; or inf."""
    out = torch.empty(near.shape)
    given = map(flat, (sdf, origins, directions, near, far))
    shape, steps = (*sdf.shape[2:], near.shape[1]), (np.float32(start), np.float32(step))
    shared(_first_zero, near.numel(), shape, steps, *given, flat(out))
    return out


@njit(cache=True, inline="always", error_model="numpy", fastmath=FAST)
def interpolated(sdf, box, shape, x, y, z):
    """Trilinear interpolation between the voxels' centres, at indices (x, y, z); beyond the border, as at it.

    Args:
        sdf: the voxels of all boxes in C order, and `box` where those of this one begin.
        shape: voxels along x, y and z, and a further number.
    """
    X, Y, Z, _ = shape
    x = min(max(x, ZERO), np.float32(X - 1))
    y = min(max(y, ZERO), np.float32(Y - 1))
    z = min(max(z, ZERO), np.float32(Z - 1))
    x0, y0, z0 = np.int64(x), np.int64(y), np.int64(z)
    right, left, up = x - np.float32(x0), y - np.float32(y0), z - np.float32(z0)
    next_x = Y * Z if x0 < X - 1 else 0
    next_y = Z if y0 < Y - 1 else 0
    next_z = 1 if z0 < Z - 1 else 0
    at = box + (x0 * Y + y0) * Z + z0
    a = sdf[U(at)] + up * (sdf[U(at + next_z)] - sdf[U(at)])
    b = sdf[U(at + next_y)] + up * (sdf[U(at + next_y + next_z)] - sdf[U(at + next_y)])
    at += next_x
    c = sdf[U(at)] + up * (sdf[U(at + next_z)] - sdf[U(at)])
    e = sdf[U(at + next_y)] + up * (sdf[U(at + next_y + next_z)] - sdf[U(at + next_y)])
    a += left * (b - a)
    c += left * (e - c)
    return a + right * (c - a)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _first_zero(first, last, shape, steps, sdf, origins, directions, near, far, out):
    start, step = steps
    size = shape[0] * shape[1] * shape[2]
    for ray in range(first, last):
        box, i = ray // shape[3] * size, 3 * ray
        ox, oy, oz = origins[U(i)], origins[U(i + 1)], origins[U(i + 2)]
        dx, dy, dz = directions[U(i)], directions[U(i + 1)], directions[U(i + 2)]
        out[U(ray)] = np.inf
        number = max(np.int64((near[U(ray)] - start) / step), 0)
        while start + step * np.float32(number) <= near[U(ray)]:
            number += 1
        while True:
            t = start + step * np.float32(number)
            if not t < far[U(ray)]:
                break
            here = interpolated(sdf, box, shape, ox + t * dx, oy + t * dy, oz + t * dz)
            if here < ZERO:
                last_step = max(number, 1)
                before_t, t = start + step * np.float32(last_step - 1), start + step * np.float32(last_step)
                before = max(
                    interpolated(sdf, box, shape, ox + before_t * dx, oy + before_t * dy, oz + before_t * dz), ZERO
                )
                behind = min(interpolated(sdf, box, shape, ox + t * dx, oy + t * dy, oz + t * dz), -TINY)
                out[U(ray)] = t + step * behind / (before - behind)
                break
            number += 1


def half_free(
    odds: Float[Tensor, "1 1 X Y Z"],
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    near: Float[Tensor, "r"],
    far: Float[Tensor, "r"],
    samples: int,
) -> Float[Tensor, "r"]:
    """t at which rays (voxel indices) between near and far are free with the probability of a half; far, if never.

    Args:
        odds: logarithms of those of matter, at the voxels' centres.
        samples: equal intervals of a ray; the odds count at their middles.
    """
    out = torch.empty(near.shape)
    given = map(flat, (odds, origins, directions, near, far))
    shared(_half_free, near.numel(), (*odds.shape[2:], near.numel()), samples, *given, flat(out))
    return out


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _half_free(first, last, shape, samples, odds, origins, directions, near, far, out):
    for ray in range(first, last):
        i = 3 * ray
        ox, oy, oz = origins[U(i)], origins[U(i + 1)], origins[U(i + 2)]
        dx, dy, dz = directions[U(i)], directions[U(i + 1)], directions[U(i + 2)]
        step = (far[U(ray)] - near[U(ray)]) / np.float32(samples)
        voxels, passed = step * np.sqrt(dx * dx + dy * dy + dz * dz), ZERO
        out[U(ray)] = far[U(ray)]
        for number in range(samples):
            t = near[U(ray)] + step * (np.float32(number) + HALF)
            here = interpolated(odds, 0, shape, ox + t * dx, oy + t * dy, oz + t * dz)
            met = (max(here, ZERO) + np.log(ONE + np.exp(-abs(here)))) * voxels
            if passed + met >= HALVED:
                out[U(ray)] = near[U(ray)] + step * (np.float32(number) + (HALVED - passed) / met)
                break
            passed += met
