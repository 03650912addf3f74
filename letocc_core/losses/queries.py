"""Direct supervision of occupancy at voxels, by the votes of rays (`cues.votes`); after QueryOcc, CVPR 2026."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from letocc_core.losses.mean import weighted_mean

MOVABLE = 20.0  # weight of a voxel that is shown on what could move, for one elsewhere: a walker is a few among 100 000


def query_cross_entropy(
    sdf: Float[Tensor, "B 1 X Y Z"],
    votes: Float[Tensor, "B 2 X Y Z"],
    scale: float,
    movable: Bool[Tensor, "B X Y Z"] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of the occupancy sigmoid(-sdf / scale) against the share of votes for matter.

    The share is the target, not a class: rays cross and end in voxels in the proportion in which space is free and
    occupied, so that what the network says is calibrated. A voxel counts by its votes, up to one.

    Args:
        votes: for free space and for matter; none: the voxel says nothing.
        scale: m, of the probability (`ModelConfig.occupancy_scale`).
        movable: voxels that a camera shows on what could move.
    """
    total = votes.sum(1)
    share = votes[:, 1] / total.clamp(min=1e-6)
    error = F.binary_cross_entropy_with_logits(-sdf[:, 0] / scale, share, reduction="none")
    weight = total.clamp(max=1)
    if movable is not None:
        weight = weight * (1 + (MOVABLE - 1) * movable)
    return weighted_mean(error, weight)
