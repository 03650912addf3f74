"""Which frames of a drive show motion, from LiDAR and optical flow: these are sampled more often (Appendix A)."""

import torch

from letocc_core.frame import FlowCue, Frame
from letocc_core.geometry import se3
from letocc_core.geometry.camera import in_image, project


def moving_share(frame: Frame, cue: FlowCue, pixels: float) -> float:
    """Share of a frame's LiDAR returns whose optical flow is not that of a still world.

    Each return is projected into the image now and at the cue's instant; the difference is its flow if it stands still.
    Counted are returns that lie in an image where the flow is known.

    Args:
        frame: one frame with a sweep (without one the answer is 0).
        cue: optical flow from its images.
        pixels: px, difference from which on a return counts as moving.
    """
    if frame.lidar is None:
        return 0.0
    N, _, height, width = frame.images.shape
    T_other_ego = se3.relative(cue.T_world_ego, frame.T_world_ego)
    now, depth = project(se3.transform(se3.inverse(frame.T_ego_cam), frame.lidar.expand(N, -1, 3)), frame.K)
    then, depth_then = project(
        se3.transform(se3.inverse(cue.T_ego_cam) @ T_other_ego, frame.lidar.expand(N, -1, 3)), cue.K
    )
    seen = in_image(now, depth, height, width) & in_image(then, depth_then, height, width)
    u = now[..., 0].round().long().clamp(0, width - 1)
    v = now[..., 1].round().long().clamp(0, height - 1)
    camera = torch.arange(N)[:, None].expand_as(u)
    known = seen & cue.valid[camera, v, u]
    difference = (cue.flow[camera, :, v, u] - (then - now)).norm(dim=-1)
    return float((difference[known] > pixels).float().mean()) if known.any() else 0.0
