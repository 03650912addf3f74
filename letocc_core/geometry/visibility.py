"""Which voxels a camera sees, given what is occupied, and where its rays end, given how probable that is.

Seen are empty voxels before the first surface, and the surface itself.
A ray is cast to the camera from each voxel (Amanatides and Woo, 1987): from its centre if it is empty, from the middle of
each face that is turned to the camera if it is occupied. A voxel of which all rays meet an occupied voxel is hidden.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from numba import njit

from letocc_core.compiled.surfaces import interpolated
from letocc_core.compiled.threads import shared
from letocc_core.geometry.grid import GridSpec

NEAREST = 0.5  # m from the camera, within which matter hides nothing: it would be the vehicle's own

_FREE, _OCCUPIED, _REACHED = 0, 1, 2


def add_seen(
    seen: Bool[np.ndarray, "X Y Z"],
    occupied: Bool[np.ndarray, "X Y Z"],
    grid: GridSpec,
    eye: Float[np.ndarray, "3"],
    covered: Int[np.ndarray, "n"],
) -> None:
    """Mark in `seen` the voxels that a camera sees; those that are marked already are not asked again.

    Args:
        eye: place of the camera, m in ego axes; it may lie outside the box.
        covered: flat indices of the voxels that its image covers.
    """
    cells = np.full(np.add(grid.shape, 2), _REACHED, np.uint8)  # whoever leaves the box meets nothing more
    cells[1:-1, 1:-1, 1:-1] = occupied
    place = (np.asarray(eye, np.float64) - grid.lower) / grid.voxel_size
    near = _cells_near(place, grid)
    cells[near] = _REACHED
    shared(_add_seen, len(covered), seen.reshape(-1), cells.reshape(-1), seen.shape, place, covered)


def add_ends(
    ends: Bool[np.ndarray, "X Y Z"],
    probability: Float[np.ndarray, "X Y Z"],
    least: float,
    most: float,
    grid: GridSpec,
    eye: Float[np.ndarray, "3"],
    through: Int[np.ndarray, "n"],
) -> None:
    """Mark in `ends` the voxels in which a camera's rays most probably end, if they end in the box at all.

    A ray that crosses voxels of occupancy probability p_i over the lengths l_i (in voxels) is still free with the
    probability prod (1 - p_i)^l_i. One that is free no more with a half or more when it leaves the box has met something,
    most probably where the density free * p is largest: a surface is found although it is unsure where exactly it lies.

    Args:
        probability: float32; interpolated between the voxels' centres.
        least: probability of a voxel below which no ray ends in it.
        eye: place of the camera, m in ego axes; it may lie outside the box.
        through: flat indices of the voxels through whose centres rays are cast.
    """
    place = (np.asarray(eye, np.float64) - grid.lower) / grid.voxel_size
    nearest = NEAREST / grid.voxel_size
    shared(
        _add_ends,
        len(through),
        ends.reshape(-1),
        probability.reshape(-1),
        least,
        most,
        probability.shape,
        place,
        nearest,
        through,
    )


def _cells_near(place: Float[np.ndarray, "3"], grid: GridSpec) -> tuple[slice, slice, slice]:
    """The cells (with walls) within about `NEAREST` of a place (voxel units)."""
    reach = NEAREST / grid.voxel_size
    ends = zip(np.floor(place - reach) + 1, np.floor(place + reach) + 2, np.add(grid.shape, 2), strict=True)
    x, y, z = (slice(*(int(np.clip(end, 0, size)) for end in (first, last))) for first, last, size in ends)
    return x, y, z


@njit(cache=True, nogil=True, error_model="numpy")
def _add_seen(first, last, seen, cells, shape, eye, covered):
    """`cells` are those of the grid, of this shape, with a wall around them."""
    ex, ey, ez = eye[0], eye[1], eye[2]
    stride_x, stride_y = (shape[1] + 2) * (shape[2] + 2), shape[2] + 2
    for number in range(first, last):
        voxel = covered[number]
        if seen[voxel]:
            continue
        i, j, k = voxel // (shape[1] * shape[2]), voxel // shape[2] % shape[1], voxel % shape[2]
        cell = (i + 1) * stride_x + (j + 1) * stride_y + k + 1
        x, y, z = i + 0.5, j + 0.5, k + 0.5
        if cells[cell] != _OCCUPIED:
            seen[voxel] = _reaches(cells, shape, cell, i, j, k, x, y, z, ex, ey, ez)
            continue
        a, b, c = (1 if ex > x else -1), (1 if ey > y else -1), (1 if ez > z else -1)
        seen[voxel] = (
            (
                abs(ex - x) > 0.5
                and _reaches(cells, shape, cell + a * stride_x, i + a, j, k, x + 0.5 * a, y, z, ex, ey, ez)
            )
            or (
                abs(ey - y) > 0.5
                and _reaches(cells, shape, cell + b * stride_y, i, j + b, k, x, y + 0.5 * b, z, ex, ey, ez)
            )
            or (abs(ez - z) > 0.5 and _reaches(cells, shape, cell + c, i, j, k + c, x, y, z + 0.5 * c, ex, ey, ez))
        )


@njit(cache=True, nogil=True, error_model="numpy")
def _reaches(cells, shape, cell, i, j, k, x, y, z, ex, ey, ez):
    """Whether the way from (x, y, z) in cell (i, j, k) to the eye meets no occupied cell."""
    dx, dy, dz = ex - x, ey - y, ez - z
    a, b, c = (1 if dx > 0 else -1), (1 if dy > 0 else -1), (1 if dz > 0 else -1)
    s = (i + (a > 0) - x) / dx if dx != 0 else np.inf
    t = (j + (b > 0) - y) / dy if dy != 0 else np.inf
    u = (k + (c > 0) - z) / dz if dz != 0 else np.inf
    step_s, step_t, step_u = abs(1 / dx), abs(1 / dy), abs(1 / dz)
    step_x, step_y = a * (shape[1] + 2) * (shape[2] + 2), b * (shape[2] + 2)
    while cells[cell] == _FREE:
        if s < t and s < u:
            s += step_s
            cell += step_x
        elif t < u:
            t += step_t
            cell += step_y
        else:
            u += step_u
            cell += c
    return cells[cell] == _REACHED


@njit(cache=True, nogil=True, error_model="numpy")
def _add_ends(first, last, ends, probability, least, most, shape, eye, nearest, through):
    for number in range(first, last):
        voxel = through[number]
        i, j, k = voxel // (shape[1] * shape[2]), voxel // shape[2] % shape[1], voxel % shape[2]
        end = _end(probability, shape, eye[0], eye[1], eye[2], i + 0.5, j + 0.5, k + 0.5, nearest, most)
        if end >= 0 and probability[end] > least:
            ends[end] = True


@njit(cache=True, nogil=True, error_model="numpy")
def _end(probability, shape, ex, ey, ez, x, y, z, nearest, most):
    """Flat index of the voxel in which the ray from the eye through (x, y, z) most probably ends; -1 for none."""
    dx, dy, dz = x - ex, y - ey, z - ez
    length = np.sqrt(dx * dx + dy * dy + dz * dz)
    if length == 0:
        return -1
    dx, dy, dz = dx / length, dy / length, dz / length
    near, far = nearest, np.inf
    for e, d, size in ((ex, dx, shape[0]), (ey, dy, shape[1]), (ez, dz, shape[2])):
        if d != 0:
            a, b = -e / d, (size - e) / d
            near, far = max(near, min(a, b)), min(far, max(a, b))
    free, best, end = 1.0, 0.0, -1
    t = near + 0.5  # in steps of a voxel
    while t < far and (free > 0.5 or free > best):
        px, py, pz = ex + t * dx, ey + t * dy, ez + t * dz
        p = interpolated(probability, 0, (*shape, 0), px - 0.5, py - 0.5, pz - 0.5)
        i, j, k = min(int(px), shape[0] - 1), min(int(py), shape[1] - 1), min(int(pz), shape[2] - 1)
        at = (i * shape[1] + j) * shape[2] + k
        if probability[at] > most:
            return -1
        if free * p > best:
            best, end = free * p, at
        free *= 1 - p
        t += 1.0
    return end if free <= 0.5 else -1
