"""Training clips from simulated streets, rendered on first use over several processes and cached."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.street import Street
from letocc_core.frame import Clip, Frame, InputConfig

RENDERER = 1  # raise when the same seed gives other images, so that stale caches are not read


class SimulatorClips(Dataset):
    """Clips of simulated streets: a current frame, its past, and the frames before and after it as sources.

    Args:
        seeds: of the streets.
        rig: name of a built-in rig, or a YAML file.
        input: image size, and the interval between the frames of a street.
        past_frames: frames of history of a clip.
        frames: image sets a street; a street gives `frames - max(past_frames, 1) - 1` clips.
        lidar: also simulate a sweep a frame.
        cache: folder for rendered streets.
        workers: processes that render.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        rig: str,
        input: InputConfig,
        past_frames: int,
        frames: int,
        lidar: bool,
        cache: Path,
        workers: int,
    ):
        self.seeds, self.past_frames = list(seeds), past_frames
        self.first = max(past_frames, 1)
        self.per_street = frames - self.first - 1
        settings = (RENDERER, Rig.load(rig).resized(*input.image_size), input.history_interval, frames, lidar)
        key = hashlib.sha256(repr(settings).encode()).hexdigest()[:12]
        self.folder = Path(cache) / f"streets_{key}"
        self._render(settings[1:], workers)

    def __len__(self) -> int:
        return len(self.seeds) * max(self.per_street, 0)

    def __getitem__(self, index: int) -> Clip:
        street, offset = divmod(index, self.per_street)
        now = self.first + offset
        with np.load(_path(self.folder, self.seeds[street])) as file:
            data = {name: file[name] for name in file.files}
        history = tuple(_frame(data, now - k) for k in range(1, self.past_frames + 1))
        return Clip(_frame(data, now), history, (_frame(data, now - 1), _frame(data, now + 1)))

    def _render(self, settings: tuple, workers: int) -> None:
        """Render the streets that the cache lacks."""
        from multiprocessing import get_context

        from tqdm import tqdm

        missing = [seed for seed in self.seeds if not _path(self.folder, seed).exists()]
        if not missing:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(render_street, self.folder, seed, *settings) for seed in missing]
            for job in tqdm(jobs, desc="rendering streets", unit="street", dynamic_ncols=True):
                job.result()


def render_street(folder: Path, seed: int, rig: Rig, interval: float, frames: int, lidar: bool) -> None:
    """Render one street's frames and write them in one step, so that a killed writer leaves nothing half-written."""
    street = Street(seed, rig)
    sets = [street.render(i * interval, truth=False, lidar=lidar) for i in range(frames)]
    data = {
        "images": np.stack([s.images for s in sets]),
        "movable": np.packbits(np.stack([s.movable for s in sets]), axis=-1),
        "stamp": np.array([s.stamp_ns for s in sets]),
        "T_world_ego": np.stack([s.T_world_ego for s in sets]),
        "K": sets[0].K,
        "T_ego_cam": sets[0].T_ego_cam,
        "lidar_origin": sets[0].lidar_origin,
    }
    if lidar:
        data["lidar_count"] = np.array([len(s.lidar) for s in sets])
        data["lidar"] = np.concatenate([s.lidar for s in sets])
    temporary = folder / f".{seed}_{os.getpid()}.npz"
    np.savez(temporary, **data)
    temporary.replace(_path(folder, seed))


def _path(folder: Path, seed: int) -> Path:
    return folder / f"{seed:06d}.npz"


def _frame(data: dict[str, np.ndarray], i: int) -> Frame:
    images = torch.from_numpy(data["images"][i]).permute(0, 3, 1, 2).float() / 255
    width = images.shape[-1]
    movable = np.unpackbits(data["movable"][i], axis=-1, count=width).astype(bool)
    return Frame(
        stamp=torch.tensor(int(data["stamp"][i])),
        images=images,
        camera_valid=torch.ones(len(images), dtype=torch.bool),
        K=torch.from_numpy(data["K"]).float(),
        T_ego_cam=torch.from_numpy(data["T_ego_cam"]).float(),
        T_world_ego=torch.from_numpy(data["T_world_ego"][i]),
        movable=torch.from_numpy(movable),
        lidar=_sweep(data, i),
        lidar_origin=torch.from_numpy(data["lidar_origin"]).float(),
    )


def _sweep(data: dict[str, np.ndarray], i: int) -> Tensor | None:
    if "lidar" not in data:
        return None
    ends = np.cumsum(data["lidar_count"])
    return torch.from_numpy(data["lidar"][ends[i] - data["lidar_count"][i] : ends[i]]).float()
