"""The plane sweep for the CPU: `letocc_core.model.plane_sweep` says what is computed."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from numba import njit
from torch import Tensor

from letocc_core.compiled.threads import FAST, flags, flat, shared

ZERO, HALF, ONE, U = np.float32(0), np.float32(0.5), np.float32(1), np.uintp
NEAR = np.float32(0.05)  # least z of a hypothesis that is in front of the past camera
FLAT, EPSILON, LEAST = np.float32(1e-6), np.float32(1e-5), np.float32(1e-3)


def matching_costs(
    target: Float[Tensor, "M h w"],
    past: Float[Tensor, "M h w"],
    lines: Float[Tensor, "M 3 4"],
    inverse_depths: Float[Tensor, "depths"],
    mean: Float[Tensor, "M u v"],
    variance: Float[Tensor, "M u v"],
    window: int,
    worst: float,
    least_parallax: float,
    masked: Bool[Tensor, "M h w"] | None,
    cost: Float[Tensor, "M u v depths"],
    seen: Float[Tensor, "M u v depths"],
) -> None:
    """Add what each hypothesis costs, and whether the past image shows it, at every second pixel.

    Args:
        lines: of (u, v, 1, inverse depth) to homogeneous coordinates in [-1, 1] across the past image.
        mean, variance: of the target over the window.
        masked: pixels of the past image that show nothing.
    """
    M, h, w = target.shape
    sizes = (h, w, len(inverse_depths), window)
    limits = np.float32(worst), np.float32(least_parallax)
    given = map(flat, (target, past, lines, inverse_depths, mean, variance))
    shared(_match, M, sizes, limits, *given, flags(masked), flat(cost), flat(seen))


@njit(cache=True, inline="always", error_model="numpy", fastmath=FAST)
def _place(lines, first, u, v, inverse):
    """Homogeneous coordinates of a hypothesis."""
    x = lines[U(first)] * u + lines[U(first + 1)] * v + lines[U(first + 2)] + lines[U(first + 3)] * inverse
    y = lines[U(first + 4)] * u + lines[U(first + 5)] * v + lines[U(first + 6)] + lines[U(first + 7)] * inverse
    z = lines[U(first + 8)] * u + lines[U(first + 9)] * v + lines[U(first + 10)] + lines[U(first + 11)] * inverse
    return x, y, z


@njit(cache=True, error_model="numpy", fastmath=FAST)
def _moving(sizes, least_parallax, lines, line, inverse_depths, moving):
    """Which pixels move enough between the farthest and the nearest hypothesis."""
    h, w, depths, _ = sizes
    rows, columns = (h + 1) // 2, (w + 1) // 2
    for i in range(rows):
        for j in range(columns):
            u, v = np.float32(2 * j), np.float32(2 * i)
            x, y, z = _place(lines, line, u, v, inverse_depths[U(0)])
            a, b, c = _place(lines, line, u, v, inverse_depths[U(depths - 1)])
            z, c = max(z, NEAR), max(c, NEAR)
            across, down = (a / c - x / z) * HALF * np.float32(w), (b / c - y / z) * HALF * np.float32(h)
            moving[U(i * columns + j)] = across * across + down * down >= least_parallax * least_parallax


@njit(cache=True, error_model="numpy", fastmath=FAST)
def _warp(h, w, past, image, lines, line, inverse, at, right, bottom, warped):
    """The past image as the current camera would see it if all were at one inverse depth; rows go through buffers."""
    half_w, half_h = HALF * np.float32(w), HALF * np.float32(h)
    last_u, last_v = np.float32(w - 1), np.float32(h - 1)
    width, left_most, top_most = np.int32(w), np.int32(w - 2), np.int32(h - 2)
    for v in range(h):
        for u in range(w):
            x, y, z = _place(lines, line, np.float32(u), np.float32(v), inverse)
            over = ONE / max(z, NEAR)
            x = min(max((x * over + ONE) * half_w - HALF, ZERO), last_u)
            y = min(max((y * over + ONE) * half_h - HALF, ZERO), last_v)
            left, top = min(np.int32(x), left_most), min(np.int32(y), top_most)
            right[U(u)], bottom[U(u)] = x - np.float32(left), y - np.float32(top)
            at[U(u)] = np.int32(top * width) + left
        for u in range(w):
            i = image + np.int64(at[U(u)])
            upper = past[U(i)] + right[U(u)] * (past[U(i + 1)] - past[U(i)])
            lower = past[U(i + w)] + right[U(u)] * (past[U(i + w + 1)] - past[U(i + w)])
            warped[U(v * w + u)] = upper + bottom[U(u)] * (lower - upper)


@njit(cache=True, inline="always", error_model="numpy", fastmath=FAST)
def _at(masked, image, x, y, h, w):
    """Whether the pixel nearest to a place in [-1, 1] is masked."""
    column = min(max(np.int64(np.rint((x + ONE) * HALF * np.float32(w) - HALF)), 0), w - 1)
    row = min(max(np.int64(np.rint((y + ONE) * HALF * np.float32(h) - HALF)), 0), h - 1)
    return masked[U(image + row * w + column)]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _match(first, last, sizes, limits, target, past, lines, inverse_depths, means, variances, masked, cost, seen):
    """One camera and inverse depth after the other: the past image, warped, against the target."""
    h, w, depths, window = sizes
    worst, least_parallax = limits
    rows, columns, reach = (h + 1) // 2, (w + 1) // 2, window // 2
    warped, moving = np.empty(h * w, np.float32), np.empty(rows * columns, np.bool_)
    at, right, bottom = np.empty(w, np.int32), np.empty(w, np.float32), np.empty(w, np.float32)
    values, squares, products = np.empty(w, np.float32), np.empty(w, np.float32), np.empty(w, np.float32)
    for m in range(first, last):
        line, image = m * 12, m * h * w
        _moving(sizes, least_parallax, lines, line, inverse_depths, moving)
        for k in range(depths):
            inverse = inverse_depths[U(k)]
            _warp(h, w, past, image, lines, line, inverse, at, right, bottom, warped)
            for i in range(rows):
                low, high = max(2 * i - reach, 0), min(2 * i + reach + 1, h)
                for u in range(w):
                    values[U(u)] = squares[U(u)] = products[U(u)] = ZERO
                for v in range(low, high):
                    for u in range(w):
                        value = warped[U(v * w + u)]
                        values[U(u)] += value
                        squares[U(u)] += value * value
                        products[U(u)] += value * target[U(image + v * w + u)]
                for j in range(columns):
                    x, y, z = _place(lines, line, np.float32(2 * j), np.float32(2 * i), inverse)
                    if not moving[U(i * columns + j)] or z < NEAR or abs(x) > z or abs(y) > z:
                        continue
                    if masked.size and _at(masked, image, x / z, y / z, h, w):
                        continue
                    start, end = max(2 * j - reach, 0), min(2 * j + reach + 1, w)
                    mean, square, product = ZERO, ZERO, ZERO
                    for u in range(start, end):
                        mean += values[U(u)]
                        square += squares[U(u)]
                        product += products[U(u)]
                    share = ONE / np.float32((end - start) * (high - low))
                    mean *= share
                    pixel = (m * rows + i) * columns + j
                    deviation = np.sqrt(max(square * share - mean * mean, FLAT) * variances[U(pixel)])
                    alike = (product * share - means[U(pixel)] * mean) / (deviation + EPSILON)
                    cost[U(pixel * depths + k)] += min(ONE - alike, worst)
                    seen[U(pixel * depths + k)] += ONE


def aggregate(
    cost: Float[Tensor, "M h w D"], small_step: float, large_step: float, scale: float
) -> Float[Tensor, "M h w D"]:
    """The sum of the paths' costs, times `scale`."""
    M, h, w, D = cost.shape
    out = torch.zeros(M, h, w, D)
    steps = np.float32(small_step), np.float32(large_step), np.float32(scale)
    shared(_paths, M, (h, w, D), steps, flat(cost), flat(out))
    return out


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _paths(first, last, sizes, steps, cost, out):
    """Four paths over each image: down, up, right, left."""
    h, w, D = sizes
    for m in range(first, last):
        image = m * h * w * D
        for line in range(w):
            _path(image + line * D, w * D, h, D, steps, cost, out)
            _path(image + ((h - 1) * w + line) * D, -w * D, h, D, steps, cost, out)
        for line in range(h):
            _path(image + line * w * D, D, w, D, steps, cost, out)
            _path(image + (line * w + w - 1) * D, -D, w, D, steps, cost, out)


@njit(cache=True, error_model="numpy", fastmath=FAST)
def _path(start, stride, count, D, steps, cost, out):
    """Add the least cost of arriving at each hypothesis, step by step along a line of pixels."""
    small, large, scale = steps
    before, now = np.empty(D + 2, np.float32), np.empty(D + 2, np.float32)
    before[0] = before[D + 1] = now[0] = now[D + 1] = np.float32(np.inf)
    for k in range(D):
        before[U(k + 1)] = cost[U(start + k)]
        out[U(start + k)] += scale * before[U(k + 1)]
    for i in range(1, count):
        at = start + i * stride
        best = before[1]
        for k in range(1, D):
            best = min(best, before[U(k + 1)])
        for k in range(D):
            arrive = min(before[U(k + 1)], best + large)
            arrive = min(arrive, min(before[U(k)], before[U(k + 2)]) + small)
            now[U(k + 1)] = cost[U(at + k)] + arrive - best
        for k in range(D):
            before[U(k + 1)] = now[U(k + 1)]
            out[U(at + k)] += scale * now[U(k + 1)]


def lift(
    probability: Float[Tensor, "M h w D"],
    depth: Float[Tensor, "M h w"],
    confidence: Float[Tensor, "M h w"],
    inverse_depths: Float[Tensor, "D"],
    P: Float[Tensor, "B N 3 4"],
    axes: list[Float[Tensor, "_"]],
    truncation: float,
    nearest: float,
) -> Float[Tensor, "B X Y Z 4"]:
    """Evidence at every voxel.

    Args:
        P: of points (m, ego axes) to homogeneous pixels of these maps.
        nearest: m, least depth that counts as in front of the camera.
    """
    B, N = P.shape[:2]
    _, h, w, D = probability.shape
    X, Y, Z = map(len, axes)
    out = torch.empty(B, X, Y, Z, 4)
    nearer = torch.empty(probability.shape)  # in C order, whatever the layout of the other
    shared(_nearer, len(probability) * h * w, D, flat(probability), flat(nearer))
    sizes = (N, X, Y, Z, h, w, D)
    limits = np.float32(truncation), np.float32(nearest), np.float32(1 / float(inverse_depths[1] - inverse_depths[0]))
    maps = map(flat, (probability, nearer, depth, confidence, inverse_depths, P, *axes))
    shared(_lift, B * X, sizes, limits, *maps, flat(out))
    return out


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _nearer(first, last, D, probability, nearer):
    """Probability that the surface is at this inverse depth or above."""
    for pixel in range(first, last):
        total = ZERO
        for k in range(D - 1, -1, -1):
            total += probability[U(pixel * D + k)]
            nearer[U(pixel * D + k)] = total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _lift(first, last, sizes, limits, probability, nearer, depths, confidence, inverse_depths, P, xs, ys, zs, out):
    N, X, Y, Z, h, w, D = sizes
    truncation, nearest, per_step = limits
    for slab in range(first, last):
        b, x = slab // X, xs[U(slab % X)]
        for j in range(Y):
            y = ys[U(j)]
            for k in range(Z):
                z = zs[U(k)]
                distance, here, hidden, known, weight = ZERO, ZERO, ZERO, ZERO, ZERO
                for n in range(b * N, b * N + N):
                    p = n * 12
                    depth = P[U(p + 8)] * x + (P[U(p + 9)] * y + (P[U(p + 10)] * z + P[U(p + 11)]))
                    if depth <= nearest:
                        continue
                    u = (P[U(p)] * x + (P[U(p + 1)] * y + (P[U(p + 2)] * z + P[U(p + 3)]))) / depth
                    v = (P[U(p + 4)] * x + (P[U(p + 5)] * y + (P[U(p + 6)] * z + P[U(p + 7)]))) / depth
                    if u < -HALF or v < -HALF or u > np.float32(w) - HALF or v > np.float32(h) - HALF:
                        continue
                    column = min(max(np.int64(np.rint(u)), 0), w - 1)
                    row = min(max(np.int64(np.rint(v)), 0), h - 1)
                    pixel = (n * h + row) * w + column
                    sure = confidence[U(pixel)]
                    if sure == ZERO:
                        continue
                    off = min(max((depths[U(pixel)] - depth) / truncation, -ONE), ONE)
                    at = (ONE / depth - inverse_depths[U(0)]) * per_step
                    at = min(max(at, ZERO), np.float32(D - 1))
                    low = min(np.int64(at), D - 2)
                    part, low = at - np.float32(low), pixel * D + low
                    weight += sure
                    here += sure * (probability[U(low)] + part * (probability[U(low + 1)] - probability[U(low)]))
                    hidden += sure * (nearer[U(low)] + part * (nearer[U(low + 1)] - nearer[U(low)]))
                    if off > -ONE:  # what lies far behind a surface is not known
                        known += sure
                        distance += sure * off
                voxel = ((slab * Y + j) * Z + k) * 4
                out[U(voxel)] = distance / max(known, LEAST)
                out[U(voxel + 1)] = here / max(weight, LEAST)
                out[U(voxel + 2)] = hidden / max(weight, LEAST)
                out[U(voxel + 3)] = min(known, ONE)
