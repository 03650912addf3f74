"""The velocity sweep for the CPU: `letocc_core.model.motion_branch.sweep_velocity` says what is computed."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numba import njit
from torch import Tensor

from letocc_core.compiled.sampling import exponentials
from letocc_core.compiled.threads import FAST, flags, flat, shared

ZERO, HALF, ONE, U = np.float32(0), np.float32(0.5), np.float32(1), np.uintp
PATCH = 9  # numbers of a descriptor


def alike_by_column(
    points: Float[Tensor, "M p 3"],
    column: Int[Tensor, "M p"],
    P: Float[Tensor, "M 3 4"],
    moves: Float[Tensor, "M k 3"],
    size: tuple[int, int],
    nearest: float,
    here: Sequence[Float[Tensor, "M PATCH p"]],
    there: Sequence[Float[Tensor, "M PATCH _ _"]],
    patches: Sequence[int],
    columns: int,
    masked: Bool[Tensor, "M height width"] | None = None,
) -> Float[Tensor, "lists columns k"]:
    """Sums over the points of each column: how many the past image shows, then their likeness for each patch size.

    Args:
        points: m, ego axes now.
        column: of each point; -1: it does not count.
        P: of these points to homogeneous pixels of the past images.
        moves: what each velocity adds to them.
        size: px, height and width of the past images.
        nearest: m, least depth in front of a camera.
        here, there: descriptors of the points now, and of the past images.
        patches: px of the image to a pixel of each of these.
        masked: pixels of the past images that show nothing.
    """
    M, p = column.shape
    k = moves.shape[1]
    out = torch.zeros(1 + len(patches), columns, k)
    given = [*(flat(x) for x in (points, column, P, moves)), flags(masked)]
    shapes = (M, p, k, *size, columns)
    shared(_count, k, shapes, np.float32(nearest), *given, flat(out[0]))
    for total, now, past, patch in zip(out[1:], here, there, patches, strict=True):
        maps = flat(now.movedim(1, -1)), flat(past.movedim(1, -1))
        low = (*past.shape[-2:], np.float32(1 / patch))
        shared(_compare, k, shapes, np.float32(nearest), *given, *maps, low, flat(total))
    return out


def descriptors(images: Float[Tensor, "V h w"], flat_contrast: float) -> Float[Tensor, "V h w PATCH"]:
    """Each 3 x 3 neighbourhood without its mean, over its length and `flat_contrast`; beyond the border, as at it."""
    V, h, w = images.shape
    out = torch.empty(V, h, w, PATCH)
    shared(_describe, V * h, (h, w, np.float32(flat_contrast)), flat(images), flat(out))
    return out


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _describe(first, last, shape, images, out):
    """Row by row: three rows of the image with one more pixel at each end, then what all pixels of a row need."""
    h, w, flat_contrast = shape
    rows = np.empty((3, w + 2), np.float32)
    mean, over = np.empty(w, np.float32), np.empty(w, np.float32)
    for row in range(first, last):
        image, v = row // h * h, row % h
        for i in range(3):
            start = (image + min(max(v + i - 1, 0), h - 1)) * w
            for u in range(w):
                rows[i, U(u + 1)] = images[U(start + u)]
            rows[i, 0], rows[i, w + 1] = rows[i, 1], rows[i, w]
        for u in range(w):
            total = ZERO
            for i in range(3):
                total += rows[i, U(u)] + rows[i, U(u + 1)] + rows[i, U(u + 2)]
            mean[U(u)] = total * np.float32(1 / PATCH)
        for u in range(w):
            square = ZERO
            for i in range(3):
                a, b, c = rows[i, U(u)] - mean[U(u)], rows[i, U(u + 1)] - mean[U(u)], rows[i, U(u + 2)] - mean[U(u)]
                square += a * a + b * b + c * c
            over[U(u)] = ONE / (np.sqrt(square) + flat_contrast)
        for u in range(w):
            at = (row * w + u) * PATCH
            for i in range(3):
                for j in range(3):
                    out[U(at + 3 * i + j)] = (rows[i, U(u + j)] - mean[U(u)]) * over[U(u)]


def expectations(
    lists: Float[Tensor, "*n M"], values: Float[Tensor, "M 2"], temperatures: Sequence[float]
) -> Float[Tensor, "*n found"]:
    """Of the softmax of each list, for one temperature after the other: the mean of `values`, of the list, its largest share."""
    out = torch.empty(*lists.shape[:-1], 4 * len(temperatures))
    sizes = lists.shape[-1], len(temperatures)
    given = flat(lists), flat(values.T), np.array(temperatures, np.float32)
    shared(_expect, lists.numel() // lists.shape[-1], sizes, *given, flat(out))
    return out


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _expect(first, last, sizes, lists, values, temperatures, out):
    M, count = sizes
    share, bits = np.empty(M, np.float32), np.empty(M, np.int32)
    for row in range(first, last):
        at, most = row * M, -np.float32(np.inf)
        for i in range(M):
            most = max(most, lists[U(at + i)])
        for t in range(count):
            over = ONE / temperatures[U(t)]
            for i in range(M):
                share[U(i)] = (lists[U(at + i)] - most) * over
            exponentials(share, bits, M)
            total, x, y, alike = ZERO, ZERO, ZERO, ZERO
            for i in range(M):
                total += share[U(i)]
                x += share[U(i)] * values[U(i)]
                y += share[U(i)] * values[U(M + i)]
                alike += share[U(i)] * lists[U(at + i)]
            total, to = ONE / total, (row * count + t) * 4
            out[U(to)], out[U(to + 1)], out[U(to + 2)], out[U(to + 3)] = x * total, y * total, alike * total, total


@njit(cache=True, inline="always", error_model="numpy", fastmath=FAST)
def _still(points, P, m, i):
    """Homogeneous pixel of a point that stands still."""
    x, y, z = points[U(3 * i)], points[U(3 * i + 1)], points[U(3 * i + 2)]
    a, b, c = m * 12, m * 12 + 4, m * 12 + 8
    return (
        P[U(a)] * x + P[U(a + 1)] * y + P[U(a + 2)] * z + P[U(a + 3)],
        P[U(b)] * x + P[U(b + 1)] * y + P[U(b + 2)] * z + P[U(b + 3)],
        P[U(c)] * x + P[U(c + 1)] * y + P[U(c + 2)] * z + P[U(c + 3)],
    )


@njit(cache=True, inline="always", error_model="numpy", fastmath=FAST)
def _pixel(still, moves, at, nearest, height, width, masked, image):
    """Pixel of a point that moves, and whether it is on the image, and on no masked pixel."""
    x, y, z = still[0] + moves[U(at)], still[1] + moves[U(at + 1)], still[2] + moves[U(at + 2)]
    over = ONE / max(z, nearest)
    u, v = x * over, y * over
    seen = z > nearest and u >= -HALF and v >= -HALF
    seen = seen and u <= np.float32(width) - HALF and v <= np.float32(height) - HALF
    if seen and masked.size:
        column = min(max(np.int64(np.rint(u)), 0), width - 1)
        row = min(max(np.int64(np.rint(v)), 0), height - 1)
        seen = not masked[U((image * height + row) * width + column)]
    return u, v, seen


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _count(first, last, shapes, nearest, points, column, P, moves, masked, out):
    M, p, k, height, width, _ = shapes
    for i in range(M * p):
        if column[U(i)] < 0:
            continue
        m, row = i // p, column[U(i)] * k
        still = _still(points, P, m, i)
        for j in range(first, last):
            _, _, seen = _pixel(still, moves, (m * k + j) * 3, nearest, height, width, masked, m)
            out[U(row + j)] += ONE if seen else ZERO


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _compare(first, last, shapes, nearest, points, column, P, moves, masked, here, there, low, out):
    M, p, k, height, width, _ = shapes
    h, w, per_pixel = low
    right_most, bottom_most = np.float32(w - 1), np.float32(h - 1)
    for i in range(M * p):
        if column[U(i)] < 0:
            continue
        m, row = i // p, column[U(i)] * k
        still = _still(points, P, m, i)
        for j in range(first, last):
            u, v, seen = _pixel(still, moves, (m * k + j) * 3, nearest, height, width, masked, m)
            if not seen:
                continue
            x = min(max((u + HALF) * per_pixel - HALF, ZERO), right_most)
            y = min(max((v + HALF) * per_pixel - HALF, ZERO), bottom_most)
            x0, y0 = np.int64(x), np.int64(y)
            x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
            right, bottom = x - np.float32(x0), y - np.float32(y0)
            nw, ne = ((m * h + y0) * w + x0) * PATCH, ((m * h + y0) * w + x1) * PATCH
            sw, se = ((m * h + y1) * w + x0) * PATCH, ((m * h + y1) * w + x1) * PATCH
            a, b, c, e = ZERO, ZERO, ZERO, ZERO
            for d in range(PATCH):
                value = here[U(i * PATCH + d)]
                a += value * there[U(nw + d)]
                b += value * there[U(ne + d)]
                c += value * there[U(sw + d)]
                e += value * there[U(se + d)]
            upper, lower = a + right * (b - a), c + right * (e - c)
            out[U(row + j)] += upper + bottom * (lower - upper)
