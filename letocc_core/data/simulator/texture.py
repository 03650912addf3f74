"""Surface detail at every distance: octaves of tiled 3D noise, each faded out before a pixel cannot resolve it."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy import ndimage

CELLS = (6.0, 2.0, 0.7, 0.25, 0.1)  # m, size of a noise cell in each octave
SIDE, PER_CELL = 64, 4  # samples along a side of the tile, and per noise cell


@lru_cache(maxsize=1)
def tile() -> Float[np.ndarray, "n"]:
    """Smooth periodic noise of zero mean and unit variance: SIDE cubed values."""
    noise = np.random.default_rng(0).standard_normal((SIDE,) * 3)
    smooth = ndimage.gaussian_filter(noise, PER_CELL / 3, mode="wrap").astype(np.float32)
    return ((smooth - smooth.mean()) / smooth.std()).ravel()


def noise(
    points: Float[np.ndarray, "n 3"], footprint: Float[np.ndarray, "n"], contrast: float = 0.12
) -> Float[np.ndarray, "n"]:
    """Brightness factor around 1 at object-local points (m) seen by pixels that cover `footprint` metres."""
    values, total = tile(), np.zeros(len(points), np.float32)
    for octave, cell in enumerate(CELLS):
        weight = np.clip((cell / footprint - 1.5) / 2, 0, 1)
        index = (points * np.float32(PER_CELL / cell) + np.float32(17.3 * octave)).astype(np.int32) & (SIDE - 1)
        total += weight * values[(index[:, 0] * SIDE + index[:, 1]) * SIDE + index[:, 2]]
    return 1 + contrast * total
