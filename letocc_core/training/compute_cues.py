"""Computes what supervises motion and classes before training: for configurations, or for bags given by their paths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from letocc_core import config as configuration
from letocc_core.cues.flow import flow_estimator
from letocc_core.cues.tuning import TuneConfig, tune
from letocc_core.data.build import recorded_clips, simulated_clips
from letocc_core.data.config import BagData, DataConfig
from letocc_core.errors import ConfigError
from letocc_core.frame import InputConfig
from letocc_core.model.let_occ_flow import ModelConfig
from letocc_core.training.config import TrainConfig


@dataclass(frozen=True)
class CueSource:
    """Where the images come from whose cues are wanted, as training would read them."""

    data: DataConfig
    input: InputConfig
    past_frames: int


@dataclass(frozen=True)
class CueFolders:
    """What a call has written."""

    summary: str  # how much was computed now, for people
    folders: tuple[Path, ...]  # all that hold them, also of earlier calls


def cue_source(
    items: Sequence[str], config: Path | None, workers: int, changes: Mapping[str, Any], of_recordings: str = ""
) -> CueSource:
    """The source that command-line items name.

    Args:
        items: a training configuration (.yaml) or bags, and KEY=VALUE overrides of the configuration.
        config: of bags: the configuration that says image size, cameras and cache; None: the defaults.
        changes: fields of the source's own section, such as the estimator.
        of_recordings: what only recordings need, such as "masks".

    Raises what `config.load` raises, and `ConfigError` for simulated streets where only recordings need cues.
    """
    overrides = [item for item in items if "=" in item]
    paths = [Path(item) for item in items if "=" not in item]
    whole = len(paths) == 1 and paths[0].suffix in (".yaml", ".yml")
    path = paths[0] if whole else config
    if path is None:
        loaded = TrainConfig(ModelConfig(), InputConfig(), DataConfig(bag=BagData(bags=())))
    else:
        loaded = configuration.load(TrainConfig, path, overrides)
    data = loaded.data
    if not whole:
        data = DataConfig(bag=replace(data.bag or BagData(bags=()), bags=tuple(paths)), cache=data.cache)
    if of_recordings and data.source == "simulator":
        raise ConfigError(f"{path}: '{of_recordings}' takes recordings; simulated streets know their own")
    changed: dict[str, Any] = {data.source: replace(getattr(data, data.source), **changes)}
    return CueSource(replace(data, workers=workers, **changed), loaded.input, loaded.model.temporal.frames)


def compute_flow(source: CueSource, workers: int, shard: tuple[int, int]) -> CueFolders:
    """Optical flow between the frames of all clips, where it is missing; streets are rendered with it.

    Args:
        shard: (i, n) for the i-th of n machines.
    """
    if source.data.simulator is not None:
        clips = simulated_clips(source.data, source.input, source.past_frames, shard=shard)
        folders = tuple(folder for folder in clips.folders.values() if folder.exists())
        return CueFolders(f"{len(folders)} streets with their flow", folders)
    dataset = recorded_clips(source.data, source.input, source.past_frames)
    computed = dataset.write_flow(workers, shard)
    return CueFolders(f"{computed} pairs of frames computed", tuple(files.folder for files in dataset.flows))


def compute_pictures(source: CueSource, workers: int, shard: tuple[int, int]) -> CueFolders:
    """Masks or classes of the current frames, whichever the source asks for, where they are missing."""
    dataset = recorded_clips(source.data, source.input, source.past_frames)
    computed = dataset.write_pictures(workers, shard)
    folders = tuple(files.folder for kind in dataset.pictures.values() for files in kind)
    return CueFolders(f"{computed} frames computed", folders)


def tune_flow(
    source: CueSource, estimator: str, weights: Path | None, device: str, config: TuneConfig, out: Path
) -> Path:
    """Train an estimator of optical flow further on pairs of the source's images; writes its tensors to `out`."""
    dataset = recorded_clips(source.data, source.input, source.past_frames)
    images = [
        (store, i, j, camera)
        for store, i, j in dataset.pairs()
        for camera in range(store.camera_valid.shape[1])
        if store.camera_valid[[i, j], camera].all()
    ]

    def pair(number: int) -> tuple[np.ndarray, np.ndarray]:
        store, i, j, camera = images[number]
        return store.pictures(i)[camera], store.pictures(j)[camera]

    return tune(flow_estimator(estimator, weights, device), pair, len(images), out, config, device)
