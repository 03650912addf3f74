"""Where rays stop in an occupancy grid: the traversal that RayIoU is defined by.

Voxel by voxel along the ray (Amanatides and Woo, 1987) in double precision. The conventions are those of the kernel
behind the public RayIoU evaluations (SparseOcc, OpenOcc), so that results can be compared with theirs:

- the distance is where the ray *leaves* the first occupied voxel; the origin's own voxel counts;
- a ray that hits nothing stops where it leaves the grid, in the last voxel it crossed;
- a ray that never enters the grid has distance -1 (voxel units) and voxel (0, 0, 0);
- an origin coordinate in (-1, 0) belongs to voxel 0; ties between axes go to z, then y.

The loop over rays is compiled by numba on first use (a second or two, kept on disk for later processes).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numba import njit

from letocc_core.compiled.threads import shared
from letocc_core.errors import DataError
from letocc_core.geometry.grid import GridSpec

MAX_STEPS_OUTSIDE = 1000  # steps after which a ray that starts outside is given up, as the kernel does
FARTHEST = 1e9  # voxel units; no origin lies farther away

_FREE, _OCCUPIED, WALL = 0, 1, 2


@dataclass(frozen=True, eq=False)
class RayHits:
    """Where R rays stop."""

    # float32, voxel units from the origin to the exit of the last voxel; -1 = no voxel
    distance: Float[np.ndarray, "R"]
    voxel: Int[np.ndarray, "R 3"]  # that voxel
    hit: Bool[np.ndarray, "R"]  # it is occupied


def cast(
    occupied: Bool[np.ndarray, "X Y Z"], origins: Float[np.ndarray, "R 3"], directions: Float[np.ndarray, "R 3"]
) -> RayHits:
    """First occupied voxel along each ray.

    Args:
        occupied: the grid.
        origins: start points in voxel units: (0, 0, 0) is the outer corner of voxel (0, 0, 0).
        directions: unit vectors in the same axes.

    Raises:
        DataError: an origin or direction is not finite.
    """
    origins, directions = (np.ascontiguousarray(a, np.float64) for a in (origins, directions))
    if not (np.isfinite(directions).all() and (np.abs(origins) < FARTHEST).all()):
        raise DataError("rays: an origin or direction is not a finite number; leave such points out before casting")
    walled = np.full(np.add(occupied.shape, 2), WALL, np.uint8)  # so that leaving the grid is one more kind of cell
    walled[1:-1, 1:-1, 1:-1] = occupied
    count = len(origins)
    distance, voxel, hit = np.full(count, -1.0, np.float32), np.zeros((count, 3), np.int64), np.zeros(count, np.bool_)
    shared(_cast, count, walled.reshape(-1), walled.shape, origins, directions, distance, voxel, hit)
    return RayHits(distance, voxel, hit)


def count_crossings(
    grid: GridSpec, origin: Float[np.ndarray, "3"], ends: Float[np.ndarray, "R 3"]
) -> Int[np.ndarray, "X Y Z"]:
    """How many rays cross each voxel; a ray does not cross the voxel that it ends in.

    Args:
        origin, ends: m, ego axes; either may lie outside the box.

    Raises:
        DataError: a point is not finite.
    """
    start, points = ((np.asarray(p, np.float64) - grid.lower) / grid.voxel_size for p in (origin, ends))
    if not (np.abs(start) < FARTHEST).all() or not (np.abs(points) < FARTHEST).all():
        raise DataError("rays: an origin or end is not a finite number; leave such points out before counting")
    offsets = points - start
    length = np.linalg.norm(offsets, axis=1)
    apart = length > 0
    last = np.floor(points[apart]).astype(np.int64)
    crossing = np.zeros(grid.shape, np.int64)
    directions = offsets[apart] / length[apart, None]
    _count_crossings(crossing, np.add(grid.shape, 2), start, directions, length[apart], last)
    return crossing


@njit(cache=True, nogil=True, error_model="numpy")
def _count_crossings(crossing, shape, origin, directions, length, last):
    """Add to `crossing` the voxels that rays of this length cross before their `last`; `shape` counts the walls."""
    for ray in range(len(directions)):
        inside, (i, j, k), (x, y, z), step, delta = enter_grid(shape, origin, directions[ray])
        while inside:
            leaving = min(x, y, z)
            if leaving >= length[ray] or (i == last[ray, 0] and j == last[ray, 1] and k == last[ray, 2]):
                break
            crossing[i, j, k] += 1
            if x < y and x < z:
                x += delta[0]
                i += step[0]
            elif x >= y and y < z:
                y += delta[1]
                j += step[1]
            else:
                z += delta[2]
                k += step[2]
            inside = 0 <= i < shape[0] - 2 and 0 <= j < shape[1] - 2 and 0 <= k < shape[2] - 2


@njit(cache=True, nogil=True, error_model="numpy")
def _cast(first, last_ray, cells, shape, origins, directions, distance, voxel, hit):
    """Fill `distance`, `voxel` and `hit` of the rays that enter the grid; `shape` counts the walls."""
    stride_x, stride_y = shape[1] * shape[2], shape[2]
    for ray in range(first, last_ray):
        inside, (i, j, k), (x, y, z), step, delta = enter_grid(shape, origins[ray], directions[ray])
        if not inside:
            continue
        cell = (i + 1) * stride_x + (j + 1) * stride_y + k + 1
        step_x, step_y, step_z = step[0] * stride_x, step[1] * stride_y, step[2]
        last, leaving = cell, 0.0
        while cells[cell] == _FREE:
            last = cell
            if x < y and x < z:
                leaving = x
                x += delta[0]
                cell += step_x
            elif x >= y and y < z:
                leaving = y
                y += delta[1]
                cell += step_y
            else:
                leaving = z
                z += delta[2]
                cell += step_z
        if cells[cell] == _OCCUPIED:
            last, leaving, hit[ray] = cell, min(x, y, z), True
        distance[ray] = leaving
        voxel[ray] = last // stride_x - 1, last % stride_x // stride_y - 1, last % stride_y - 1


@njit(cache=True, nogil=True, error_model="numpy")
def enter_grid(shape, origin, direction):
    """Walk one ray to its first voxel inside the grid.

    Returns whether there is one, the voxel, the distance of the next crossing per axis, and per axis the step and the
    distance between crossings.
    """
    i, j, k = int(origin[0]), int(origin[1]), int(origin[2])
    a, b, c = (1 if direction[0] >= 0 else -1), (1 if direction[1] >= 0 else -1), (1 if direction[2] >= 0 else -1)
    x = (i + (a > 0) - origin[0]) / direction[0] if direction[0] != 0 else np.inf
    y = (j + (b > 0) - origin[1]) / direction[1] if direction[1] != 0 else np.inf
    z = (k + (c > 0) - origin[2]) / direction[2] if direction[2] != 0 else np.inf
    delta = a / direction[0], b / direction[1], c / direction[2]
    inside = False
    for _ in range(MAX_STEPS_OUTSIDE):
        inside = 0 <= i < shape[0] - 2 and 0 <= j < shape[1] - 2 and 0 <= k < shape[2] - 2
        if inside or _leaves(i, a, shape[0]) or _leaves(j, b, shape[1]) or _leaves(k, c, shape[2]):
            break
        if x < y and x < z:
            x += delta[0]
            i += a
        elif x >= y and y < z:
            y += delta[1]
            j += b
        else:
            z += delta[2]
            k += c
    return inside, (i, j, k), (x, y, z), (a, b, c), delta


@njit(cache=True, nogil=True)
def _leaves(index, step, size):
    """A coordinate outside the grid that goes farther away; `size` counts the walls."""
    return (index < 0 and step < 0) or (index >= size - 2 and step > 0)


@njit(cache=True, nogil=True)
def add_points(points, weights, sums):
    """Add weights [R] to the voxels of `sums` [X, Y, Z] that hold points [R, 3] (voxel units); in place."""
    X, Y, Z = sums.shape
    for r in range(len(points)):
        i, j, k = int(np.floor(points[r, 0])), int(np.floor(points[r, 1])), int(np.floor(points[r, 2]))
        if 0 <= i < X and 0 <= j < Y and 0 <= k < Z:
            sums[i, j, k] += weights[r]


@njit(cache=True, nogil=True, error_model="numpy")
def add_crossings(origins, directions, until, weights, sums):
    """Add each ray's weight to the voxels of `sums` [X, Y, Z] that it crosses before `until`; in place.

    A voxel in which `until` lies gets the part of the weight that is the part of its crossing done by then.

    Args:
        origins, directions: [R, 3], voxel units; directions of any length.
        until: [R], in units of the directions.
    """
    cell, step = np.zeros(3, np.int64), np.zeros(3, np.int64)
    leaves, stride = np.zeros(3), np.zeros(3)
    for r in range(len(origins)):
        first, last = 0.0, until[r]
        for a in range(3):
            o, d, n = origins[r, a], directions[r, a], sums.shape[a]
            if abs(d) < 1e-12:
                if o < 0 or o >= n:
                    last = -1.0
                continue
            near, far = -o / d, (n - o) / d
            if near > far:
                near, far = far, near
            first, last = max(first, near), min(last, far)
        if last <= first:
            continue
        for a in range(3):
            o, d, n = origins[r, a], directions[r, a], sums.shape[a]
            cell[a] = min(max(int(np.floor(o + d * (first + 1e-6))), 0), n - 1)
            step[a] = 1 if d > 0 else -1
            leaves[a] = (cell[a] + (d > 0) - o) / d if abs(d) >= 1e-12 else np.inf
            stride[a] = abs(1 / d) if abs(d) >= 1e-12 else np.inf
        entered = first
        while True:
            a = 0
            if leaves[1] < leaves[a]:
                a = 1
            if leaves[2] < leaves[a]:
                a = 2
            if leaves[a] >= last:
                sums[cell[0], cell[1], cell[2]] += weights[r] * (last - entered) / max(leaves[a] - entered, 1e-9)
                break
            sums[cell[0], cell[1], cell[2]] += weights[r]
            entered = leaves[a]
            leaves[a] += stride[a]
            cell[a] += step[a]
            if cell[a] < 0 or cell[a] >= sums.shape[a]:
                break
