"""Voxels to turn in a page: data for `turntable.js`, which draws them with WebGL and needs nothing else."""

import base64
import json
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8

from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.types import OccFlow
from letocc_core.viz import colours
from letocc_core.viz.birdseye import voxel_colours
from letocc_core.viz.viewers.scene import guessed, surface, uncovered
from letocc_core.viz.voxels import EGO_BOX

FAINT = 0.16  # opacity of what is only guessed


@dataclass(frozen=True, eq=False)
class Layer:
    """Voxels of one kind, which the reader can switch on and off."""

    name: str
    index: Int[np.ndarray, "n 3"]
    rgb: UInt8[np.ndarray, "n 3"]
    alpha: float = 1.0
    shown: bool = True  # at first


@dataclass(frozen=True, eq=False)
class Turntable:
    """One view to turn."""

    grid: GridSpec
    layers: tuple[Layer, ...]

    @property
    def data(self) -> str:
        """JSON for `turntable.js`: voxels as base64 of uint16 indices and uint8 colours."""
        lower, upper = np.array(self.grid.lower), np.array(self.grid.upper)
        middle = (lower + upper) / 2
        scene = {
            "lower": list(self.grid.lower),
            "voxel": self.grid.voxel_size,
            "target": [*middle[:2].tolist(), 0.0],
            "far": 1.15 * float(np.max(upper - lower)),
            "background": colours.SKY,
            "vehicle": {
                "lower": EGO_BOX[0],
                "size": np.subtract(EGO_BOX[1], EGO_BOX[0]).tolist(),
                "rgb": colours.EGO,
            },
            "layers": [
                {
                    "name": layer.name,
                    "index": _base64(layer.index.astype("<u2")),
                    "rgb": _base64(layer.rgb),
                    "alpha": layer.alpha,
                    "shown": layer.shown,
                }
                for layer in self.layers
            ],
        }
        return json.dumps(scene)


def turntable(answer: OccFlow, truth: Bool[np.ndarray, "X Y Z"] | None = None) -> Turntable:
    """The occupied voxels of an answer, what is only guessed, and the true ones, which are not shown at first."""
    colour = voxel_colours(answer.velocity, answer.grid)
    still = voxel_colours(np.zeros_like(answer.velocity), answer.grid)

    def layer(name: str, chosen: np.ndarray, rgb: np.ndarray, alpha: float = 1.0, shown: bool = True) -> Layer:
        index = np.argwhere(uncovered(chosen))
        return Layer(name, index, rgb[tuple(index.T)], alpha, shown)

    layers = [layer("occupied", surface(answer), colour), layer("guessed", guessed(answer), still, FAINT)]
    if truth is not None:
        layers.append(layer("truth", truth, still, shown=False))
    return Turntable(answer.grid, tuple(layers))


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
