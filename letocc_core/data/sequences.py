"""Sequences for evaluation: image sets in time order with what is known about each."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from letocc_core.data.truth import Truth
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.types import FrameSet


@dataclass(frozen=True, eq=False)
class Sample:
    """One image set with what is known about it: a simulator's truth, or a LiDAR sweep."""

    frame_set: FrameSet
    lidar_origin: Float[np.ndarray, "3"]  # m, ego axes: where RayIoU's rays start
    truth: Truth | None = None
    lidar: Float[np.ndarray, "P 3"] | None = None  # m, returns in ego axes; used where there is no `truth`
    T_world_ego_next: Float[np.ndarray, "4 4"] | None = None  # m, pose at the frame that `truth.flow_forward` leads to
    flow_interval: float | None = None  # s until then


def simulated_street(
    seed: int, rig: str, grid: GridSpec, image_size: tuple[int, int], times: Iterable[float]
) -> list[Sample]:
    """One simulated street at the given times (s), with its whole truth on `grid`.

    Args:
        rig: name of a rig in config/rigs, or a YAML file.
        image_size: px, height and width to render.
    """
    from letocc_core.data.simulator.rig import Rig
    from letocc_core.data.simulator.street import Street

    street = Street(seed, Rig.load(rig).require_pinholes("evaluation on streets").resized(*image_size), grid)
    return [_simulated_sample(street.render(t)) for t in times]


def recorded_drive(
    bag: Path,
    cameras: tuple[str, ...] = (),
    base_frame: str = "base_link",
    fixed_frame: str = "odom",
    slop: float = 0.02,
) -> list[Sample]:
    """All image sets of a bag with the LiDAR sweep nearest to each, as `Recording` pairs them."""
    from letocc_core.data.recording import Recording

    nowhere = np.zeros(3)
    return [
        Sample(s.frame_set, s.sweep.origin, lidar=s.sweep.points) if s.sweep else Sample(s.frame_set, nowhere)
        for s in Recording(bag, cameras, base_frame, fixed_frame, slop=slop)
    ]


def _simulated_sample(frame) -> Sample:
    frame_set = FrameSet(
        stamp_ns=frame.stamp_ns,
        images=tuple(frame.images),
        calibrations=frame.calibrations,
        T_ego_cam=frame.T_ego_cam,
        T_world_ego=frame.T_world_ego,
    )
    return Sample(frame_set, frame.lidar_origin, frame.truth, None, frame.T_world_ego_next, frame.flow_interval)
