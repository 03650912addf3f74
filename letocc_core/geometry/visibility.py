"""Which voxels a camera sees, given what is occupied: empty ones before the first surface, and the surface itself.

A ray is cast to the camera from each voxel (Amanatides and Woo, 1987): from its centre if it is empty, from the middle of
each face that is turned to the camera if it is occupied. A voxel of which all rays meet an occupied voxel is hidden.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from numba import njit

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
