"""Rigid transforms as 4 x 4 matrices; `T_a_b` maps a point from frame b to frame a. Metres, radians.

Torch functions take any leading batch dimensions. Poses in a world frame are float64 (a map's coordinates exceed
float32's resolution); take the relative pose first, then convert it to float32.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from letocc_core.errors import DataError


def inverse(T: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse of rigid transforms, by transposing the rotation."""
    R_t = T[..., :3, :3].transpose(-1, -2)
    out = torch.zeros_like(T)
    out[..., :3, :3] = R_t
    out[..., :3, 3] = -(R_t @ T[..., :3, 3:])[..., 0]
    out[..., 3, 3] = 1
    return out


def transform(T: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch n 3"]:
    """Map points [*batch, n, 3] (m) by T [*batch, 4, 4]."""
    return points @ T[..., :3, :3].transpose(-1, -2) + T[..., None, :3, 3]


def relative(
    T_world_a: Float[Tensor, "*batch 4 4"], T_world_b: Float[Tensor, "*batch 4 4"]
) -> Float[Tensor, "*batch 4 4"]:
    """`T_a_b` in float32 from two world poses; the difference is taken in their own (float64) precision."""
    return (inverse(T_world_a) @ T_world_b).float()


def from_quaternion(
    quaternion_xyzw: np.ndarray | Sequence[float], translation: np.ndarray | Sequence[float]
) -> Float[np.ndarray, "4 4"]:
    """4 x 4 float64 matrix from a quaternion in ROS order (x, y, z, w) and a translation (m).

    A quaternion off unit length by less than 1 % is normalised. Raises `DataError` otherwise, and for non-finite input.
    """
    q = np.asarray(quaternion_xyzw, np.float64)
    t = np.asarray(translation, np.float64)
    norm = np.linalg.norm(q)
    if not (np.isfinite(q).all() and np.isfinite(t).all()):
        raise DataError(
            f"transform holds non-finite numbers: quaternion (x, y, z, w) {q.tolist()}, translation {t.tolist()} m"
        )
    if abs(norm - 1) > 0.01:
        raise DataError(f"quaternion (x, y, z, w) {q.tolist()} has length {norm:.3f}, expected 1")
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat(q / norm).as_matrix()
    T[:3, 3] = t
    return T


def to_quaternion(T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quaternion (x, y, z, w) and translation (m) of a 4 x 4 matrix."""
    return Rotation.from_matrix(T[:3, :3]).as_quat(), np.asarray(T[:3, 3], np.float64)


def interpolate(T0: np.ndarray, T1: np.ndarray, fraction: float) -> np.ndarray:
    """Pose between T0 (fraction 0) and T1 (fraction 1): slerp of the rotation, linear in the translation.

    Fractions outside [0, 1] extrapolate at constant velocity.
    """
    rotations = Rotation.from_matrix(np.stack([T0[:3, :3], T1[:3, :3]]))
    T = np.eye(4)
    if 0 <= fraction <= 1:
        T[:3, :3] = Slerp([0.0, 1.0], rotations)(fraction).as_matrix()
    else:
        step = (rotations[0].inv() * rotations[1]).as_rotvec() * fraction
        T[:3, :3] = (rotations[0] * Rotation.from_rotvec(step)).as_matrix()
    T[:3, 3] = (1 - fraction) * T0[:3, 3] + fraction * T1[:3, 3]
    return T
