"""The programs of `attention_gpu`, in Triton's language. Each takes a block of queries of one head of one item of the batch.

`places` and `weights` are [B, heads, levels, points, (2,) queries]; `value` and what is summed have a head's channels last.
"""

import triton
import triton.language as tl


@triton.jit
def attend(
    value, places, weights, maps, out, queries, pixels, heads: tl.constexpr, levels, points, dim: tl.constexpr,
    row: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Write `out` [B, queries, heads * dim]: the weighted sum of bilinear samples, zero beyond the borders."""
    q, d, real, channel, head, b, h = _who(queries, heads, dim, row, block)
    total = tl.zeros([block, row], tl.float32)
    for level in range(levels):
        height, width = tl.load(maps + 3 * level), tl.load(maps + 3 * level + 1)
        image = value + ((b * pixels + tl.load(maps + 3 * level + 2)) * heads + h) * dim
        for point in range(points):
            x, y, weight, _ = _sample(places, weights, (head * levels + level) * points + point, q, real, queries)
            left, top, right, bottom, seen = _corner(x, y, width, height, real)
            for corner in tl.static_range(4):
                share_x, share_y, _, _, pixel, there = _share(corner, left, top, right, bottom, width, height, seen)
                mask = there[:, None] & channel
                read = tl.load(image + pixel[:, None] * (heads * dim) + d[None, :], mask=mask, other=0).to(tl.float32)
                total += (weight * share_x * share_y)[:, None] * read
    at = ((b * queries + q)[:, None] * heads + h) * dim + d[None, :]
    tl.store(out + at, total, mask=real[:, None] & channel)


@triton.jit
def attend_backwards(
    value, places, weights, maps, slope, value_slope, place_slope, weight_slope, queries, pixels, heads: tl.constexpr,
    levels, points, dim: tl.constexpr, row: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """From `slope`, of what `attend` wrote, the slopes of places and weights; those of values are added to what is there."""
    q, d, real, channel, head, b, h = _who(queries, heads, dim, row, block)
    at = ((b * queries + q)[:, None] * heads + h) * dim + d[None, :]
    toward = tl.load(slope + at, mask=real[:, None] & channel, other=0).to(tl.float32)
    for level in range(levels):
        height, width = tl.load(maps + 3 * level), tl.load(maps + 3 * level + 1)
        image = ((b * pixels + tl.load(maps + 3 * level + 2)) * heads + h) * dim
        for point in range(points):
            x, y, weight, first = _sample(places, weights, (head * levels + level) * points + point, q, real, queries)
            left, top, right, bottom, seen = _corner(x, y, width, height, real)
            by_x, by_y = tl.zeros([block], tl.float32), tl.zeros([block], tl.float32)
            by_weight = tl.zeros([block], tl.float32)
            for corner in tl.static_range(4):
                share_x, share_y, sign_x, sign_y, pixel, there = _share(
                    corner, left, top, right, bottom, width, height, seen
                )
                mask = there[:, None] & channel
                numbers = image + pixel[:, None] * (heads * dim) + d[None, :]
                read = tl.load(value + numbers, mask=mask, other=0).to(tl.float32)
                along = tl.sum(read * toward, 1)  # what the loss would change by with the whole weight on this pixel
                by_x += sign_x * share_y * along
                by_y += share_x * sign_y * along
                by_weight += share_x * share_y * along
                tl.atomic_add(value_slope + numbers, (weight * share_x * share_y)[:, None] * toward, mask=mask)
            tl.store(place_slope + 2 * first + q, weight * by_x * width, mask=real)
            tl.store(place_slope + 2 * first + queries + q, weight * by_y * height, mask=real)
            tl.store(weight_slope + first + q, by_weight, mask=real)


@triton.jit
def _who(queries, heads: tl.constexpr, dim: tl.constexpr, row: tl.constexpr, block: tl.constexpr):
    """Queries and channels of this program, which of them are real, its head of all, item of the batch and head of this."""
    head = tl.program_id(1).to(tl.int64)
    q, d = tl.program_id(0) * block + tl.arange(0, block), tl.arange(0, row)
    return q, d, q < queries, (d < dim)[None, :], head, head // heads, head % heads


@triton.jit
def _sample(places, weights, sample, q, real, queries):
    """A sample's place across its map and its weight for each query, and where the row of its weights begins."""
    first = sample * queries
    x = tl.load(places + 2 * first + q, mask=real, other=0).to(tl.float32)
    y = tl.load(places + 2 * first + queries + q, mask=real, other=0).to(tl.float32)
    return x, y, tl.load(weights + first + q, mask=real, other=0).to(tl.float32), first


@triton.jit
def _corner(x, y, width, height, real):
    """The pixel above and left of a place, the shares of the pixels right of it and below, and whether any has a share."""
    x, y = x * width - 0.5, y * height - 0.5
    seen = real & (x > -1) & (x < width) & (y > -1) & (y < height)
    x, y = tl.where(seen, x, 0.0), tl.where(seen, y, 0.0)
    left, top = tl.floor(x), tl.floor(y)
    return left.to(tl.int32), top.to(tl.int32), x - left, y - top, seen


@triton.jit
def _share(corner: tl.constexpr, left, top, right, bottom, width, height, seen):
    """Of one of the four pixels: share by column and row, how each grows with x and y, its number, whether it is there."""
    sign_x, sign_y = 2.0 * (corner % 2) - 1, 2.0 * (corner // 2) - 1
    share_x = right if corner % 2 else 1 - right
    share_y = bottom if corner // 2 else 1 - bottom
    column, line = left + corner % 2, top + corner // 2
    there = seen & (column >= 0) & (column < width) & (line >= 0) & (line < height)
    return share_x, share_y, sign_x, sign_y, (line * width + column).to(tl.int64), there
