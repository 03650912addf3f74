"""An answer as the message `OccFlowGrid` carries it, and back: probabilities as bytes, velocities of the occupied voxels only."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from letocc_core.errors import ConfigError, DataError
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.types import OccFlow

PROBABILITY_STEPS = 254  # a byte is round(probability * 254)
NOT_SEEN = 255  # no camera looks at the voxel
SEEN, HIDDEN = 0, 1  # of `visibility`, as NOT_SEEN is: empty before the first surface, or that surface; behind one


@dataclass(frozen=True, eq=False)
class PackedAnswer:
    """The arrays of the message; n occupied voxels."""

    probability: np.ndarray  # uint8 [X, Y, Z]
    visibility: np.ndarray  # uint8 [X, Y, Z], or [0] where what is hidden is not known
    occupied: np.ndarray  # uint32 [n]: flat indices (C order), increasing
    velocity: np.ndarray  # float32 [n, 2] m/s
    labels: np.ndarray  # uint8 [n], empty without semantics


def pack(answer: OccFlow) -> PackedAnswer:
    """The arrays of the message that carries an answer."""
    unobserved, steps = ~answer.observed, answer.probability * np.float32(PROBABILITY_STEPS)
    probability = np.rint(steps, out=steps).astype(np.uint8)
    np.copyto(probability, np.uint8(NOT_SEEN), where=unobserved)
    visibility = np.zeros(0, np.uint8)
    if answer.hidden is not None:
        visibility = answer.hidden.astype(np.uint8)  # SEEN and HIDDEN are 0 and 1
        np.copyto(visibility, np.uint8(NOT_SEEN), where=unobserved)
    occupied = np.flatnonzero(answer.occupied)
    labels = np.zeros(0, np.uint8) if answer.labels is None else answer.labels.reshape(-1)[occupied]
    velocity = answer.velocity.reshape(-1, 2)[occupied]
    return PackedAnswer(probability, visibility, occupied.astype(np.uint32), velocity, labels)


def unpack(message: Any) -> OccFlow:
    """The answer in an `OccFlowGrid`, of rclpy or of rosbags, as far as it holds it: velocities of occupied voxels only.

    Raises `DataError` for arrays whose sizes contradict the grid.
    """
    shape = (message.size_x, message.size_y, message.size_z)
    stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
    source = f"OccFlowGrid at {stamp_ns} ns"
    stored = np.frombuffer(message.probability, np.uint8)
    occupied = np.frombuffer(message.occupied, np.uint32)
    if len(stored) != math.prod(shape):
        raise DataError(f"{source}: {len(stored)} probabilities, expected {' x '.join(map(str, shape))}")
    if not len(occupied) == len(message.vx) == len(message.vy) or (occupied >= len(stored)).any():
        raise DataError(
            f"{source}: {len(occupied)} occupied voxels, {len(message.vx)} vx, {len(message.vy)} vy; "
            f"expected as many of each, and indices below {len(stored)}"
        )
    if message.class_names and len(message.labels) != len(occupied):
        raise DataError(f"{source}: {len(message.labels)} labels of {len(occupied)} occupied voxels, expected as many")
    stored = stored.reshape(shape)
    velocity = np.zeros((stored.size, 2), np.float32)
    velocity[occupied] = np.stack([np.frombuffer(message.vx, np.float32), np.frombuffer(message.vy, np.float32)], -1)
    return OccFlow(
        stamp_ns=stamp_ns,
        grid=_grid_of(message, source),
        probability=np.where(stored == NOT_SEEN, 0, stored).astype(np.float32) / PROBABILITY_STEPS,
        velocity=velocity.reshape(*shape, 2),
        observed=stored != NOT_SEEN,
        threshold=message.threshold,
        labels=_labels_of(message, occupied, shape),
        class_names=tuple(message.class_names),
        ends=_ends_of(stored, occupied, message.threshold),
        hidden=_hidden_of(message, shape, source),
    )


def _ends_of(stored: np.ndarray, occupied: np.ndarray, threshold: float) -> np.ndarray | None:
    """bool [X, Y, Z]: occupied voxels whose probability is not above the threshold; None if there are none."""
    ends = np.zeros(stored.size, bool)
    ends[occupied] = stored.reshape(-1)[occupied] <= np.float32(threshold) * PROBABILITY_STEPS
    return ends.reshape(stored.shape) if ends.any() else None


def _hidden_of(message: Any, shape: tuple[int, int, int], source: str) -> np.ndarray | None:
    """bool [X, Y, Z]; None where the message does not tell, such as one recorded before it could."""
    visibility = np.frombuffer(getattr(message, "visibility", b""), np.uint8)
    if not len(visibility):
        return None
    if len(visibility) != math.prod(shape):
        raise DataError(f"{source}: {len(visibility)} visibilities, expected {' x '.join(map(str, shape))}, or none")
    return visibility.reshape(shape) == HIDDEN


def _grid_of(message: Any, source: str) -> GridSpec:
    size = float(f"{message.voxel_size:.6g}")  # it travels as float32
    lower = (message.origin.x, message.origin.y, message.origin.z)
    counts = (message.size_x, message.size_y, message.size_z)
    try:
        return GridSpec(lower, tuple(lo + n * size for lo, n in zip(lower, counts, strict=True)), size)
    except ConfigError as error:
        raise DataError(f"{source}: {error}") from error


def _labels_of(message: Any, occupied: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray | None:
    if not message.class_names:
        return None
    labels = np.zeros(int(np.prod(shape)), np.uint8)
    labels[occupied] = np.frombuffer(message.labels, np.uint8)
    return labels.reshape(shape)
