"""Sparsity terms: what no ray pays for is free (SelfOcc eq. 9; its released configurations)."""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import relu

from letocc_core.frame import Frame
from letocc_core.geometry import camera
from letocc_core.geometry.grid import GridSpec
from letocc_core.losses.mean import mean_over, weighted_mean


def free_space(sdf: Float[Tensor, "B 1 X Y Z"], unseen: Bool[Tensor, "B X Y Z"] | None = None) -> Float[Tensor, ""]:
    """Mean of max(-f, 0) (m) over the `unseen` voxels (None: all): pushes the SDF up to free there and no further."""
    depth_inside = sdf[:, 0].neg().clamp(min=0)
    if unseen is None:
        return depth_inside.mean()
    return mean_over(depth_inside, unseen)


def free_behind(
    sdf: Float[Tensor, "B *r s"], t: Float[Tensor, "B *r s"], depth: Float[Tensor, "B *r"], distance: float = 3.0
) -> Float[Tensor, ""]:
    """Mean of max(-f, 0) (m) at samples more than `distance` metres behind the rendered surface (no slope in depth)."""
    behind = t.detach().clone().gt_((depth.detach() + distance)[..., None]).to(sdf)
    return weighted_mean(relu(-sdf), behind)


def unseen_voxels(frame: Frame, grid: GridSpec) -> Bool[Tensor, "B X Y Z"]:
    """Voxels whose centre lies in no camera's image of a batched frame."""
    pixels, depth = camera.project_lattice(grid.axes(frame.images.device), frame.K, frame.T_ego_cam)
    seen = camera.in_image(pixels, depth, *frame.images.shape[-2:]) & frame.camera_valid[..., None, None, None]
    if frame.masked is not None:
        seen = seen & ~camera.at_nearest(frame.masked, pixels.nan_to_num(0.0).clamp(-1, max(frame.images.shape[-2:])))
    return ~seen.any(1)


def free_start(sdf: Float[Tensor, "*r"], margin: float = 0.4) -> Float[Tensor, ""]:
    """Mean of how far the SDF where rays start falls short of `margin` (m): a camera does not sit inside of matter.

    NeuS weights say nothing of it: a ray that starts inside pays only where it enters matter again.
    """
    return (margin - sdf).clamp(min=0).mean()
