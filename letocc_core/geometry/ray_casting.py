"""Where rays stop in an occupancy grid: the traversal that RayIoU is defined by.

Voxel by voxel along the ray (Amanatides and Woo, 1987) in double precision. The conventions are those of the kernel
behind the public RayIoU evaluations (SparseOcc, OpenOcc), so that results can be compared with theirs:

- the distance is where the ray *leaves* the first occupied voxel; the origin's own voxel counts;
- a ray that hits nothing stops where it leaves the grid, in the last voxel it crossed;
- a ray that never enters the grid has distance -1 (voxel units) and voxel (0, 0, 0);
- an origin coordinate in (-1, 0) belongs to voxel 0; ties between axes go to z, then y.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

CHUNK = 16384  # rays traversed together: their state stays in the cache
COMPACT_EVERY = 6  # steps between removals of finished rays
MAX_STEPS_OUTSIDE = 1000  # steps after which a ray that starts outside is given up, as the kernel does

_FREE, _OCCUPIED, _OUTSIDE = 0, 1, 2


@dataclass(frozen=True, eq=False)
class RayHits:
    """Where R rays stop."""

    distance: Float[
        np.ndarray, "R"
    ]  # float32, voxel units from the origin to the exit of the last voxel; -1 = no voxel
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
    """
    padded = np.full(np.add(occupied.shape, 2), _OUTSIDE, np.uint8)
    padded[1:-1, 1:-1, 1:-1] = occupied
    cells = np.append(padded.ravel(), np.uint8(_FREE))  # the extra cell is where finished rays wait
    origins, directions = np.asarray(origins, np.float64), np.asarray(directions, np.float64)
    count = len(origins)
    distance, cell, hit = np.full(count, -1.0), np.zeros(count, np.int64), np.zeros(count, bool)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        voxel, crossing, step, delta, inside = _enter(occupied.shape, origins[part], directions[part])
        rays = np.flatnonzero(inside)
        strides = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
        flat = (voxel[rays] + 1) @ strides
        d, c, h = _traverse(cells, flat, crossing[rays], (step * strides)[rays], delta[rays])
        rays += start
        distance[rays], cell[rays], hit[rays] = d, c, h
    voxel = np.stack(np.unravel_index(cell, padded.shape), axis=-1) - 1
    voxel[distance == -1.0] = 0
    return RayHits(distance.astype(np.float32), voxel, hit)


def _enter(shape: tuple[int, ...], origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, ...]:
    """Walk rays to their first voxel inside the grid.

    Returns the voxel, the distance of the next crossing per axis, the step and the distance between crossings per
    axis, and which rays got inside, all [R, 3] but the last [R].
    """
    voxel = np.trunc(origins).astype(np.int64)
    step = np.where(directions >= 0, 1, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = np.where(directions != 0, (voxel + (step > 0) - origins) / directions, np.inf)
        delta = np.where(directions != 0, step / directions, 0.0)
    limit = np.asarray(shape)
    walking = np.flatnonzero(((voxel < 0) | (voxel >= limit)).any(1))
    for _ in range(MAX_STEPS_OUTSIDE):
        here = voxel[walking]
        below, above = here < 0, here >= limit
        hopeless = ((below & (step[walking] < 0)) | (above & (step[walking] > 0))).any(1)
        walking = walking[(below | above).any(1) & ~hopeless]
        if not len(walking):
            break
        x, y, z = crossing[walking].T
        axis = np.where(x < y, np.where(x < z, 0, 2), np.where(y < z, 1, 2))
        voxel[walking, axis] += step[walking, axis]
        crossing[walking, axis] += delta[walking, axis]
    return voxel, crossing, step, delta, ((voxel >= 0) & (voxel < limit)).all(1)


def _traverse(
    cells: np.ndarray, flat: np.ndarray, crossing: np.ndarray, stride: np.ndarray, delta: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance, flat cell and hit of rays that stand inside the grid; `cells` ends with the waiting cell."""
    waiting = len(cells) - 1
    distance, last, hit = np.empty(len(flat)), flat.copy(), np.zeros(len(flat), bool)
    ray = np.arange(len(flat))
    x, y, z = (np.ascontiguousarray(c) for c in crossing.T)
    dx, dy, dz = (np.ascontiguousarray(d) for d in delta.T)
    sx, sy, sz = (np.ascontiguousarray(s) for s in stride.T)
    done = np.flatnonzero(cells[flat] == _OCCUPIED)
    distance[done], hit[done] = crossing[done].min(1), True
    finished = np.zeros(len(flat), bool)
    finished[done] = True
    steps = 0
    while True:
        if steps % COMPACT_EVERY == 0:
            keep = ~finished
            if not keep.any():
                return distance, last, hit
            ray, flat, x, y, z, dx, dy, dz, sx, sy, sz = (a[keep] for a in (ray, flat, x, y, z, dx, dy, dz, sx, sy, sz))
            finished = finished[keep]
        steps += 1
        on_x = (x < y) & (x < z)
        on_y = (y <= x) & (y < z)
        on_z = ~(on_x | on_y)
        leaving = np.minimum(np.minimum(x, y), z)
        following = flat + on_x * sx + on_y * sy + on_z * sz
        x += on_x * dx
        y += on_y * dy
        z += on_z * dz
        state = cells[following]
        i = np.flatnonzero(state)
        if len(i):
            occupied = state[i] == _OCCUPIED
            out, into = i[~occupied], i[occupied]
            distance[ray[out]], last[ray[out]] = leaving[out], flat[out]
            distance[ray[into]] = np.minimum(np.minimum(x[into], y[into]), z[into])
            last[ray[into]], hit[ray[into]] = following[into], True
            following[i], finished[i] = waiting, True
            sx[i] = sy[i] = sz[i] = 0
        flat = following
