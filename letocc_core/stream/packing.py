"""An answer as the message `OccFlowGrid` carries it: probabilities as bytes, velocities of the occupied voxels only."""

from dataclasses import dataclass

import numpy as np

from letocc_core.stream.types import OccFlow

PROBABILITY_STEPS = 254  # a byte is round(probability * 254)
NOT_SEEN = 255  # no camera looks at the voxel


@dataclass(frozen=True, eq=False)
class PackedAnswer:
    """The arrays of the message; n occupied voxels."""

    probability: np.ndarray  # uint8 [X, Y, Z]
    occupied: np.ndarray  # uint32 [n]: flat indices (C order), increasing
    velocity: np.ndarray  # float32 [n, 2] m/s
    labels: np.ndarray  # uint8 [n], empty without semantics


def pack(answer: OccFlow) -> PackedAnswer:
    """The arrays of the message that carries an answer."""
    probability = np.rint(answer.probability * PROBABILITY_STEPS).astype(np.uint8)
    probability[~answer.observed] = NOT_SEEN
    occupied = np.flatnonzero(answer.occupied)
    labels = np.zeros(0, np.uint8) if answer.labels is None else answer.labels.reshape(-1)[occupied]
    return PackedAnswer(probability, occupied.astype(np.uint32), answer.velocity.reshape(-1, 2)[occupied], labels)
