"""Reading maps and volumes between their pixels and voxels, and the gradients: deformable attention, and trilinear reads."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from letocc_core.compiled.threads import FAST, flat, shared

ZERO, HALF, ONE, U = np.float32(0), np.float32(0.5), np.float32(1), np.uintp


class Attend(torch.autograd.Function):
    """Softmax, places and weighted bilinear samples of all heads and levels in one pass, the gradient in another.

    Neither places nor weights nor samples are stored.
    """

    @staticmethod
    def forward(
        context: Any,
        value: Float[Tensor, "B S heads dim"],
        spatial_shapes: Sequence[tuple[int, int]],
        reference: Float[Tensor, "B Q _ anchors 2"],
        offsets: Float[Tensor, "B Q heads levels points 2"],
        logits: Float[Tensor, "B Q heads levels points"],
        average: bool,
    ) -> Float[Tensor, "B Q heads*dim"]:
        """`reference` in [0, 1] of a map, of one level or all, without gradient; `offsets` in its pixels.

        `average`: the softmax is over a level's points and the mean over the levels counts, else it is over both.
        """
        reference = reference[:1] if reference.stride(0) == 0 else reference  # the same for the whole batch
        value, offsets, logits, reference = (t.contiguous() for t in (value, offsets, logits, reference))
        context.save_for_backward(value, offsets, logits, reference)
        B, Q, heads, levels, points = logits.shape
        context.shape = (Q, heads, levels, points, reference.shape[3], reference.shape[2], reference.shape[0] > 1)
        context.maps, context.average = _maps(spatial_shapes), average
        out = torch.empty(B, Q, heads * value.shape[3])
        attend, _ = _kernels(value.shape[3])
        given = map(flat, (value, offsets, logits, reference))
        shared(attend, B * Q, context.shape, *given, context.maps, average, flat(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, slope: Float[Tensor, "B Q heads*dim"]) -> tuple[Tensor | None, ...]:
        value, offsets, logits, reference = context.saved_tensors
        slopes = torch.zeros_like(value), torch.empty_like(offsets), torch.empty_like(logits)
        _, back = _kernels(value.shape[3])
        given = map(flat, (value, offsets, logits, reference))
        after = map(flat, (slope, *slopes))
        shared(back, len(value) * value.shape[2], context.shape, *given, context.maps, context.average, *after)
        return slopes[0], None, None, slopes[1], slopes[2], None


class Trilinear(torch.autograd.Function):
    """Trilinear interpolation of a volume, whose gradient goes to the volume alone."""

    @staticmethod
    def forward(
        context: Any, volume: Float[Tensor, "B C X Y Z"], points: Float[Tensor, "B n 3"], border: bool
    ) -> Float[Tensor, "B n C"]:
        """`points` in [-1, 1] across the volume; beyond it the volume is zero, or with `border` as at its border."""
        B, C = volume.shape[:2]
        points = points.movedim(-1, 0).contiguous()
        context.save_for_backward(points)
        context.size, context.border = tuple(volume.shape), border
        out = torch.empty(B, points.shape[2], C)
        read, _ = _volume_kernels(C)
        given = flat(volume.movedim(1, -1)), flat(points)
        shared(read, out.shape[0] * out.shape[1], *given, context.size, out.shape[1], border, flat(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, slope: Float[Tensor, "B n C"]) -> tuple[Tensor | None, ...]:
        (points,) = context.saved_tensors
        B, C, X, Y, Z = context.size
        volume_slope = torch.zeros(B, X, Y, Z, C)
        _, write = _volume_kernels(C)
        given = flat(points), context.size, slope.shape[1], context.border, flat(slope)
        shared(write, B, *given, flat(volume_slope))
        return volume_slope.movedim(-1, 1), None, None


def _maps(spatial_shapes: Sequence[tuple[int, int]]) -> np.ndarray:
    """[levels + 1, 3]: height, width and first pixel of each level's map; the last row has the number of all pixels."""
    sizes = np.array(spatial_shapes, np.int64).reshape(-1, 2)
    ends = np.cumsum(sizes.prod(1))
    return np.column_stack([np.vstack([sizes, [0, 0]]), np.concatenate([[0], ends])])


@njit(cache=True, inline="always", error_model="numpy", fastmath=FAST)
def _between(at, size):
    """The two pixels of a row of `size` that a place (px) lies between, their shares, and which are there (1 or 0).

    A pixel beyond the border has no share; its number is that of one that can be read.
    """
    floor = np.floor(at)
    low, part = np.int64(floor), at - floor
    first = ONE if low >= 0 else ZERO
    second = ONE if low < size - 1 else ZERO
    return max(low, 0), min(low + 1, size - 1), (ONE - part) * first, part * second, first, second


@njit(cache=True, inline="always", error_model="numpy", fastmath=FAST)
def _inside(x, y, width, height):
    """Whether any pixel of a map has a share in a place."""
    return x > -ONE and x < width and y > -ONE and y < height


@njit(cache=True, inline="always", error_model="numpy", fastmath=FAST)
def exponentials(values, bits, count):
    """Each of the first `count` numbers, 0 or less, becomes its exponential, within two units in the last place.

    2 to a whole number is written into the bits of `bits`, an array of int32; 2 to what is left, at most a half, is its series.
    """
    powers = bits.view(np.float32)
    for i in range(count):
        x = max(values[U(i)], np.float32(-86)) * np.float32(1.4426950408889634)
        whole = np.floor(x + HALF)
        y = (x - whole) * np.float32(0.6931471805599453)
        tail = np.float32(1 / 120) + y * np.float32(1 / 720)
        values[U(i)] = ONE + y * (ONE + y * (HALF + y * (np.float32(1 / 6) + y * (np.float32(1 / 24) + y * tail))))
        bits[U(i)] = (np.int32(whole) + np.int32(127)) << np.int32(23)
    for i in range(count):
        values[U(i)] *= powers[U(i)]


@njit(cache=True, inline="always", error_model="numpy", fastmath=FAST)
def _softmax(logits, first, weights, bits, count, size, divisor):
    """Weights of samples from their logits, which begin at `first`: in groups, whose sums are 1 over the divisor."""
    for group in range(0, count, size):
        most = logits[U(first + group)]
        for i in range(group, group + size):
            most = max(most, logits[U(first + i)])
        for i in range(group, group + size):
            weights[U(i)] = logits[U(first + i)] - most
    exponentials(weights, bits, count)
    for group in range(0, count, size):
        total = ZERO
        for i in range(group, group + size):
            total += weights[U(i)]
        share = ONE / (total * np.float32(divisor))
        for i in range(group, group + size):
            weights[U(i)] *= share


@njit(cache=True, error_model="numpy", fastmath=FAST)
def _softmax_slope(weights, slope, first, levels, points, average):
    """The slope of the weights, from `first` on, becomes that of the logits."""
    size = points if average else levels * points
    for group in range(0, levels * points, size):
        mean = ZERO
        for i in range(group, group + size):
            mean += weights[U(i)] * slope[U(first + i)]
        mean *= np.float32(levels if average else 1)
        for i in range(group, group + size):
            slope[U(first + i)] = weights[U(i)] * (slope[U(first + i)] - mean)


@njit(cache=True, error_model="numpy")
def _samples(shape, maps, dim):
    """Of each sample of a query: width and height of its map, numbers a row and before the head's first, its anchor."""
    _, heads, levels, points, anchors, own, _ = shape
    n = heads * levels * points
    wide, high = np.empty(n, np.float32), np.empty(n, np.float32)
    rows, starts, anchor = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int64)
    for i in range(n):
        h, level, p = i // (levels * points), i // points % levels, i % points
        wide[i], high[i] = maps[level, 1], maps[level, 0]
        rows[i], starts[i] = maps[level, 1] * heads * dim, maps[level, 2] * heads * dim + h * dim
        anchor[i] = 2 * ((level * anchors if own > 1 else 0) + p % anchors)
    return wide, high, rows, starts, anchor


@cache
def _kernels(dim: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Loops over queries for a number of channels that the compiler knows, so that a row is one or two registers.

    All arrays are flat and their indices unsigned: this is three times faster than five indices that could be negative.
    """

    @njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
    def attend(first, last, shape, value, offsets, logits, reference, maps, average, out):
        queries, heads, levels, points, anchors, own, several = shape
        n, pixel, step = heads * levels * points, heads * dim, np.int32(heads * dim)
        group = points if average else levels * points
        wide, high, rows, starts, anchor = _samples(shape, maps, dim)
        weights, bits, total = np.empty(n, np.float32), np.empty(n, np.int32), np.empty(dim, np.float32)
        xs, ys = np.empty(n, np.float32), np.empty(n, np.float32)
        corners, shares = np.empty((4, n), np.int32), np.empty((4, n), np.float32)
        for row in range(first, last):
            b, q = row // queries, row % queries
            at, image = (row if several else q) * own * anchors * 2, b * maps[levels, 2] * pixel
            _softmax(logits, row * n, weights, bits, n, group, levels if average else 1)
            for i in range(n):
                xs[U(i)], ys[U(i)] = reference[U(at + anchor[U(i)])], reference[U(at + anchor[U(i)] + 1)]
            for i in range(n):  # all samples of a query at once, in registers as wide as there are
                x = xs[U(i)] * wide[U(i)] - HALF + offsets[U(2 * (row * n + i))]
                y = ys[U(i)] * high[U(i)] - HALF + offsets[U(2 * (row * n + i) + 1)]
                x, y = min(max(x, -ONE), wide[U(i)]), min(max(y, -ONE), high[U(i)])
                left, top = np.floor(x), np.floor(y)
                right, bottom = x - left, y - top
                w_left = ONE - right if left >= ZERO and left < wide[U(i)] else ZERO
                w_right = right if left < wide[U(i)] - ONE else ZERO
                w_top = weights[U(i)] * (ONE - bottom) if top >= ZERO and top < high[U(i)] else ZERO
                w_bottom = weights[U(i)] * bottom if top < high[U(i)] - ONE else ZERO
                shares[0, U(i)], shares[1, U(i)] = w_top * w_left, w_top * w_right
                shares[2, U(i)], shares[3, U(i)] = w_bottom * w_left, w_bottom * w_right
                x1, y1 = np.int32(min(left + ONE, wide[U(i)] - ONE)), np.int32(min(top + ONE, high[U(i)] - ONE))
                x0, y0 = min(np.int32(max(left, ZERO)), x1), min(np.int32(max(top, ZERO)), y1)
                above, below = starts[U(i)] + y0 * rows[U(i)], starts[U(i)] + y1 * rows[U(i)]
                corners[0, U(i)], corners[1, U(i)] = above + x0 * step, above + x1 * step
                corners[2, U(i)], corners[3, U(i)] = below + x0 * step, below + x1 * step
            for h in range(heads):
                for d in range(dim):
                    total[U(d)] = ZERO
                for i in range(h * levels * points, (h + 1) * levels * points):
                    i0, i1 = image + corners[0, U(i)], image + corners[1, U(i)]
                    i2, i3 = image + corners[2, U(i)], image + corners[3, U(i)]
                    a0, a1, a2, a3 = shares[0, U(i)], shares[1, U(i)], shares[2, U(i)], shares[3, U(i)]
                    for d in range(dim):
                        upper = a0 * value[U(i0 + d)] + a1 * value[U(i1 + d)]
                        total[U(d)] += upper + a2 * value[U(i2 + d)] + a3 * value[U(i3 + d)]
                for d in range(dim):
                    out[U((row * heads + h) * dim + d)] = total[U(d)]

    @njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
    def back(
        first, last, shape, value, offsets, logits, reference, maps, average, slope,
        value_slope, offset_slope, logit_slope,
    ):  # fmt: skip
        queries, heads, levels, points, anchors, own, several = shape
        pixel, n = heads * dim, levels * points
        weights, bits = np.empty(n, np.float32), np.empty(n, np.int32)
        for column in range(first, last):
            b, h = column // heads, column % heads
            for q in range(queries):
                row = b * queries + q
                begin = (row if several else q) * own * anchors * 2
                i, out = (row * heads + h) * n, (row * heads + h) * dim
                _softmax(logits, i, weights, bits, n, points if average else n, levels if average else 1)
                for level in range(levels):
                    height, width, start = maps[level, 0], maps[level, 1], maps[level, 2]
                    start = (b * maps[levels, 2] + start) * pixel + h * dim
                    wide, high = np.float32(width), np.float32(height)
                    anchor, a = begin + (level * anchors * 2 if own > 1 else 0), 0
                    for p in range(level * points, level * points + points):
                        x = reference[U(anchor + a)] * wide - HALF + offsets[U(2 * (i + p))]
                        y = reference[U(anchor + a + 1)] * high - HALF + offsets[U(2 * (i + p) + 1)]
                        a = a + 2 if a + 2 < 2 * anchors else 0
                        if not _inside(x, y, wide, high):
                            logit_slope[U(i + p)] = offset_slope[U(2 * (i + p))] = offset_slope[U(2 * (i + p) + 1)] = (
                                ZERO
                            )
                            continue
                        x0, x1, left, right, left_in, right_in = _between(x, width)
                        y0, y1, top, bottom, top_in, bottom_in = _between(y, height)
                        weight = weights[U(p)]
                        c_nw, c_ne = weight * top * left, weight * top * right
                        c_sw, c_se = weight * bottom * left, weight * bottom * right
                        above, below = start + y0 * width * pixel, start + y1 * width * pixel
                        nw, ne, sw, se = above + x0 * pixel, above + x1 * pixel, below + x0 * pixel, below + x1 * pixel
                        # What the loss would change by with the whole weight on each of the four pixels
                        at_nw, at_ne, at_sw, at_se = ZERO, ZERO, ZERO, ZERO
                        for d in range(dim):
                            s = slope[U(out + d)]
                            at_nw += s * value[U(nw + d)]
                            at_ne += s * value[U(ne + d)]
                            at_sw += s * value[U(sw + d)]
                            at_se += s * value[U(se + d)]
                        for d in range(dim):
                            value_slope[U(nw + d)] += c_nw * slope[U(out + d)]
                        for d in range(dim):
                            value_slope[U(ne + d)] += c_ne * slope[U(out + d)]
                        for d in range(dim):
                            value_slope[U(sw + d)] += c_sw * slope[U(out + d)]
                        for d in range(dim):
                            value_slope[U(se + d)] += c_se * slope[U(out + d)]
                        upper, lower = left * at_nw + right * at_ne, left * at_sw + right * at_se
                        logit_slope[U(i + p)] = top * upper + bottom * lower
                        upper, lower = right_in * at_ne - left_in * at_nw, right_in * at_se - left_in * at_sw
                        offset_slope[U(2 * (i + p))] = weight * (top * upper + bottom * lower)
                        west, east = bottom_in * at_sw - top_in * at_nw, bottom_in * at_se - top_in * at_ne
                        offset_slope[U(2 * (i + p) + 1)] = weight * (left * west + right * east)
                _softmax_slope(weights, logit_slope, i, levels, points, average)

    return attend, back


@njit(cache=True, inline="always", error_model="numpy", fastmath=FAST)
def _index(unit, size, border):
    """Continuous index of a coordinate in [-1, 1] across `size` voxels."""
    at = (unit + ONE) * (HALF * np.float32(size)) - HALF
    return min(max(at, ZERO), np.float32(size - 1)) if border else at


@njit(cache=True, inline="always", error_model="numpy", fastmath=FAST)
def _corners(points, i, count, shape, border):
    """First numbers of the eight voxels around a point, the shares of each axis, and whether any counts."""
    _, C, X, Y, Z = shape
    x, y, z = (
        _index(points[U(i)], X, border),
        _index(points[U(count + i)], Y, border),
        _index(points[U(2 * count + i)], Z, border),
    )
    counts = _inside(x, y, np.float32(X), np.float32(Y)) and z > -ONE and z < np.float32(Z)
    if not counts:
        x, y, z = ZERO, ZERO, ZERO
    x0, x1, ax, bx, _, _ = _between(x, X)
    y0, y1, ay, by, _, _ = _between(y, Y)
    z0, z1, az, bz, _, _ = _between(z, Z)
    lines = (x0 * Y + y0) * Z * C, (x0 * Y + y1) * Z * C, (x1 * Y + y0) * Z * C, (x1 * Y + y1) * Z * C
    return counts, lines, (ax * ay, ax * by, bx * ay, bx * by), z0 * C, z1 * C, az, bz


@cache
def _volume_kernels(channels: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Loops over points for a number of channels that the compiler knows. Volumes have their channels last."""

    @njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
    def read(first, last, volume, points, shape, each, border, out):
        count, box = shape[0] * each, shape[2] * shape[3] * shape[4] * channels
        for i in range(first, last):
            counts, lines, shares, z0, z1, low, high = _corners(points, i, count, shape, border)
            start = i // each * box
            a, b, c, d = start + lines[0], start + lines[1], start + lines[2], start + lines[3]
            s, t, u, v = shares
            if not counts:
                low, high = ZERO, ZERO
            for k in range(channels):
                here = s * volume[U(a + z0 + k)] + t * volume[U(b + z0 + k)]
                here += u * volume[U(c + z0 + k)] + v * volume[U(d + z0 + k)]
                there = s * volume[U(a + z1 + k)] + t * volume[U(b + z1 + k)]
                there += u * volume[U(c + z1 + k)] + v * volume[U(d + z1 + k)]
                out[U(i * channels + k)] = low * here + high * there

    @njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
    def write(first, last, points, shape, each, border, slope, volume_slope):
        count, box = shape[0] * each, shape[2] * shape[3] * shape[4] * channels
        for i in range(first * each, last * each):
            counts, lines, shares, z0, z1, low, high = _corners(points, i, count, shape, border)
            if not counts:
                continue
            start = i // each * box
            for corner in range(4):
                line, share = start + lines[corner], shares[corner]
                for k in range(channels):
                    volume_slope[U(line + z0 + k)] += share * low * slope[U(i * channels + k)]
                for k in range(channels):
                    volume_slope[U(line + z1 + k)] += share * high * slope[U(i * channels + k)]

    return read, write
