"""Frames of a simulated street, rendered over several processes."""

from collections.abc import Iterator, Sequence

from tqdm import tqdm

from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.street import SimFrame, Street
from letocc_core.geometry.grid import GridSpec
from letocc_core.processes import single_threaded


def rendered(
    seed: int,
    rig: Rig,
    grid: GridSpec,
    times: Sequence[float],
    truth: Sequence[bool],
    flow_interval: float,
    workers: int,
) -> Iterator[SimFrame]:
    """The image sets and sweeps of a street at `times` (s), in that order, with `Truth` where `truth` says so.

    Args:
        flow_interval: s between the images that the optical flow of the truth leads from and to.
        workers: processes; 0: this one.
    """
    if workers == 0:
        street = Street(seed, rig, grid, flow_interval)
        yield from (street.render(t, truth=known, lidar=True) for t, known in zip(times, truth, strict=True))
        return
    with single_threaded(workers, _open, (seed, rig, grid, flow_interval)) as pool:
        frames = pool.map(_render, times, truth)
        yield from tqdm(frames, total=len(times), desc=f"street {seed}", unit="set", dynamic_ncols=True)


_street: Street | None = None  # of this worker process


def _open(seed: int, rig: Rig, grid: GridSpec, flow_interval: float) -> None:
    global _street
    _street = Street(seed, rig, grid, flow_interval)


def _render(t: float, truth: bool) -> SimFrame:
    assert _street is not None  # `_open` came first
    return _street.render(t, truth=truth, lidar=True)
