"""Training samples from recordings: a current frame, its past for the network, two source frames for the losses.

Source frames are the papers': one before and one after the current frame, drawn by a Gaussian over the distance that
the ego vehicle drove between them (Let Occ Flow, 3.4). Flow cues lead to the frames recorded just before and after it, or
to the source before it, as the papers' auxiliary previous frame. Where frames come from, a bag or a data set's folder,
is the business of a `FrameStore`.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from letocc_core.cues.flow import decode, flow_estimator
from letocc_core.cues.residual import FlowResidual
from letocc_core.cues.votes import VERSION, VotesConfig
from letocc_core.data.cache import write_missing
from letocc_core.data.clips import Clips
from letocc_core.data.cue_files import FlowFiles, Labeller, PictureFiles, PictureKind
from letocc_core.data.dynamic import moving_share
from letocc_core.data.frame_store import FrameStore
from letocc_core.data.vote_files import read_votes, write_votes
from letocc_core.errors import ConfigError, DataError
from letocc_core.frame import Clip, FlowCue, Frame, InputConfig
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.history import past_frames

if TYPE_CHECKING:
    from letocc_core.data.config import InstantsConfig, KittiTrackingData, RecordedData

DRAWS = 4  # pairs of source frames drawn for each current frame


@dataclass(frozen=True)
class ClipIndices:
    """A clip by the positions of its frames in the recording."""

    current: int
    history: tuple[int, ...]  # newest first
    sources: tuple[int, int]  # before and after
    cues: tuple[int, ...] = ()  # where optical flow leads to: before and after, or nowhere


@dataclass(frozen=True, eq=False)
class ResidualMasks:
    """What moves in the frames of a recording, by optical flow that is on disk."""

    residual: FlowResidual
    flows: FlowFiles
    cues: dict[int, tuple[int, ...]]  # the frames to which the flow of a frame leads

    def __call__(self, store: FrameStore, i: int, frame: Frame) -> Bool[Tensor, "N H W"] | None:
        """Pixels of frame i that move; None where no flow leads from it."""
        if i not in self.cues:
            return None
        return self.residual(frame, [_cue(store, j, self.flows.read(i, j)) for j in self.cues[i]])

    def named(self) -> str:
        """What the masks depend on, for the names of files that are made from them."""
        return repr((self.residual, self.flows.folder.name, sorted(self.cues.items())))


class RecordedClips(Clips):
    """Clips of one or more recordings (`letocc_core.frame.Clip`, one sample each; collate them).

    Args:
        stores: the recordings.
        data: which frames, and how source frames are chosen.
        input: image size and history interval.
        past_frames: frames of history, `input.history_interval` apart (nearest recorded frame within half of that).
        instants: whose rays are rendered.

    A frame is a current frame if it is complete, and its whole history and a source on either side exist; `left_out`
    counts the others. Raises `DataError` if no recording gives a clip.
    """

    def __init__(
        self,
        stores: Sequence[FrameStore],
        data: "RecordedData",
        input: InputConfig,
        past_frames: int,
        instants: "InstantsConfig | None" = None,
    ):
        self.stores, self.instants = list(stores), instants
        self.clips: list[tuple[int, ClipIndices]] = []
        self.left_out = 0
        self.ends = frames_read(self.stores, data)
        for i, (store, end) in enumerate(zip(self.stores, self.ends, strict=True)):
            stamps_ns, poses, complete = store.stamps_ns[:end], store.T_world_ego[:end], store.complete[:end]
            clips, left_out = choose_clips(stamps_ns, poses, complete, data, input, past_frames)
            self.clips += [(i, clip) for clip in clips]
            self.left_out += left_out
        if not self.clips:
            frames = sum(map(len, self.stores))
            raise DataError(
                f"{', '.join(store.name for store in self.stores[:5])}: none of its {frames} frames has {past_frames} "
                f"past frames {input.history_interval} s apart and a source frame within {data.source_max} m and "
                f"{data.source_seconds} s on either side; check first_frame, last_frame and the rate"
            )
        self.votes: list[Path] = []  # files of the recordings, once there are any
        self.sweeps = sum(int(store.has_sweep.sum()) for store in self.stores)
        self.flows: list[FlowFiles] = []
        if data.cue != "none":
            estimator = flow_estimator(data.cue, data.cue_weights, data.cue_device)
            self.flows = [FlowFiles(store, data.cue, estimator) for store in self.stores]
        self.residual = data.masks if isinstance(data.masks, FlowResidual) else None
        if self.residual and not self.flows:
            raise ConfigError("masks by the residual of optical flow need optical flow; set cue, for example to dis")
        of_images = None if isinstance(data.masks, FlowResidual) else data.masks
        labellers: dict[PictureKind, Labeller | None] = {"movable": of_images, "semantics": data.semantics}
        self.pictures = {
            kind: [PictureFiles(store, kind, labeller) for store in self.stores]
            for kind, labeller in labellers.items()
            if labeller is not None
        }

    def require_sweeps(self) -> None:
        if not self.sweeps:
            raise DataError(
                f"{', '.join(store.name for store in self.stores[:5])}: no LiDAR sweep goes with any of the "
                f"{sum(map(len, self.stores))} frames, but the LiDAR loss is asked for (lidar: true in the section data, and a "
                "stage with objective.lidar above 0); record the LiDAR, or go on without it: lidar: false"
            )

    def summary(self) -> str:
        """What there is, and what was left out."""
        used = {i for i, _ in self.clips}
        unused = [store.name for i, store in enumerate(self.stores) if i not in used]
        return (
            f"{len(self.clips)} clips of {len(self.stores)} recordings; {self.left_out} frames are no current frames: between "
            f"keyframes, or without a past, a source on either side or a sweep; {self.sweeps} of "
            f"{sum(map(len, self.stores))} frames have a LiDAR sweep"
            + (f"; no clip of {', '.join(unused)}" if unused else "")
        )

    def repeat_dynamic(self, data: "KittiTrackingData") -> None:
        """List the clips of dynamic frames `data.dynamic_repeat` times, so that they are drawn as much more often.

        A frame is dynamic by the optical flow of its LiDAR returns (`dynamic.moving_share`). Raises `ConfigError`
        without a cue of optical flow, `DataError` where its files are missing.
        """
        if data.dynamic_repeat == 1:
            return
        if not self.flows:
            raise ConfigError("data.kitti_tracking: dynamic_repeat needs optical flow; set data.kitti_tracking.cue")
        shares = {}  # of each (recording, frame)
        for number, clip in self.clips:
            if (number, clip.current) not in shares:
                flow = self.flows[number].read(clip.current, clip.cues[-1])
                store = self.stores[number]
                shares[number, clip.current] = moving_share(
                    store.frame(clip.current), _cue(store, clip.cues[-1], flow), data.dynamic_pixels
                )
        self.clips = [
            (number, clip)
            for number, clip in self.clips
            for _ in range(data.dynamic_repeat if shares[number, clip.current] > data.dynamic_share else 1)
        ]

    def write_flow(self, workers: int = 0, shard: tuple[int, int] = (1, 1)) -> int:
        """Compute the optical flow of all clips that is not on disk yet; returns how many files that were.

        Args:
            workers: processes; 0: this one.
            shard: (i, n) for the i-th of n callers, which share the work.
        """
        return sum(
            files.write([(c.current, j) for k, c in self.clips if k == i for j in c.cues], workers, shard)
            for i, files in enumerate(self.flows)
        )

    def write_pictures(self, workers: int = 0, shard: tuple[int, int] = (1, 1)) -> int:
        """The same for the masks of objects that could move, and for the classes of pixels."""
        return sum(
            files.write([c.current for k, c in self.clips if k == i], workers, shard)
            for of_kind in self.pictures.values()
            for i, files in enumerate(of_kind)
        )

    def add_votes(self, config: VotesConfig, grid: GridSpec, workers: int = 0) -> None:
        """Give every clip the votes of rays in the voxels of `grid`, computed over processes where they are not on disk.

        Masks by the residual of optical flow want that flow on disk: `write_flow` comes first.
        """
        masks = self.pictures.get("movable")
        jobs = {}
        for number, store in enumerate(self.stores):
            currents = sorted({clip.current for k, clip in self.clips if k == number})
            last = self.ends[number]
            files = None if masks is None else masks[number]
            if files is not None:
                files.write(range(last), workers)
            moving: PictureFiles | ResidualMasks | None = files
            named = None if files is None else files.folder.name
            if self.residual is not None:
                cues = {clip.current: clip.cues for k, clip in reversed(self.clips) if k == number}
                moving = ResidualMasks(self.residual, self.flows[number], cues)
                named = moving.named()
            settings = repr((VERSION, config, grid, currents, last, named))
            path = store.folder / f"votes_{hashlib.sha256(settings.encode()).hexdigest()[:12]}.npz"
            jobs[path] = (store, moving, last, currents, grid, config)
        write_missing("votes of rays", "recording", write_recorded_votes, jobs, workers)
        self.votes = list(jobs)

    def pairs(self) -> list[tuple[FrameStore, int, int]]:
        """The pairs of frames between which optical flow leads, each once."""
        found = {(k, c.current, j): None for k, c in self.clips for j in c.cues}
        return [(self.stores[k], i, j) for k, i, j in found]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        number, clip = self.clips[index]
        store = self.stores[number]
        current = store.frame(clip.current)
        labels = {kind: torch.from_numpy(files[number].read(clip.current)) for kind, files in self.pictures.items()}
        if self.votes:
            current = dataclasses.replace(current, votes=read_votes(self.votes[number], clip.current))
        if "movable" in labels:
            current = dataclasses.replace(current, movable=labels["movable"] > 0)
        if "semantics" in labels:
            current = dataclasses.replace(current, semantics=labels["semantics"].int())
        then, sources = self._rendered(index) if self.instants else (clip.current, clip.sources)
        wanted = {*clip.history, *sources, *({then} - {clip.current})}
        others = {i: store.frame(i, lidar=False) for i in wanted}  # each is decoded once
        cues = tuple(_cue(store, j, self.flows[number].read(clip.current, j)) for j in clip.cues)
        if self.residual:
            current = dataclasses.replace(current, movable=self.residual(current, cues))
        current = _unlabelled_where_masked(current)
        history, around = (tuple(others[i] for i in chosen) for chosen in (clip.history, sources))
        if self.instants is None:
            return Clip(current, history, around, cues)
        if then == clip.current:
            return Clip(current, history, around, cues, current.images_alone())
        rendered = others[then]
        if "movable" in self.pictures:
            rendered = dataclasses.replace(
                rendered, movable=torch.from_numpy(self.pictures["movable"][number].read(then) > 0)
            )
        return Clip(current, history, around, cues, rendered.images_alone())

    def _rendered(self, index: int) -> tuple[int, tuple[int, int]]:
        """The frame whose rays a clip renders, and its sources: those of one of the clips of which it is the current frame."""
        number, clip = self.clips[index]
        sources: dict[int, tuple[int, int]] = {c.current: c.sources for k, c in self.clips if k == number}
        T = np.asarray(self.stores[number].T_world_ego)
        distance = np.linalg.norm(T[:, :3, 3] - T[clip.current, :3, 3], axis=-1)
        with_sources = np.isin(np.arange(len(T)), list(sources))
        assert self.instants is not None  # asked for only then
        then = self.instants.choose(distance, clip.current, with_sources, np.random.default_rng(index))
        return then, clip.sources if then == clip.current else sources[then]


def write_recorded_votes(
    path: Path,
    store: FrameStore,
    masks: PictureFiles | ResidualMasks | None,
    last: int,
    currents: Sequence[int],
    grid: GridSpec,
    config: VotesConfig,
) -> None:
    """Votes of the rays of one recording, of its frames before `last`, into a file."""

    def frame(i: int) -> Frame:
        read = store.frame(i)
        if isinstance(masks, ResidualMasks):
            return dataclasses.replace(read, movable=masks(store, i, read))
        return dataclasses.replace(read, movable=None if masks is None else torch.from_numpy(masks.read(i) > 0))

    write_votes(path, frame, np.asarray(store.stamps_ns[:last]), currents, grid, config)


def _unlabelled_where_masked(frame: Frame) -> Frame:
    """Nothing moves, and no class is known, where the vehicle itself is in the picture."""
    if frame.masked is None:
        return frame
    movable = None if frame.movable is None else frame.movable & ~frame.masked
    semantics = None if frame.semantics is None else frame.semantics.masked_fill(frame.masked, 255)
    return dataclasses.replace(frame, movable=movable, semantics=semantics)


def frames_read(stores: Sequence[FrameStore], data: "RecordedData") -> list[int]:
    """How many frames of each recording are read: those up to `last_frame`."""
    last_frames = data.last_frames(len(stores))
    return [
        len(store) if last is None else min(len(store), last + 1)
        for store, last in zip(stores, last_frames, strict=True)
    ]


def choose_clips(
    stamps_ns: np.ndarray,
    T_world_ego: np.ndarray,
    complete: np.ndarray,
    data: "RecordedData",
    input: InputConfig,
    past_frames: int,
) -> tuple[list[ClipIndices], int]:
    """All clips of a recording with stamps [F] (ns) and poses [F, 4, 4] (m), and how many current frames give none.

    Only frames that are `complete` ([F] bool) become current frames. The draws depend on the frame's position alone, so
    a data set is the same every time it is made.
    """
    clips: list[ClipIndices] = []
    left_out = 0
    for current in range(data.first_frame, len(stamps_ns)):
        if not complete[current]:
            left_out += 1
            continue
        history = _history(stamps_ns, current, input.history_interval, past_frames)
        distance = np.linalg.norm(T_world_ego[:, :3, 3] - T_world_ego[current, :3, 3], axis=-1)
        seconds = np.abs(stamps_ns - stamps_ns[current]) * 1e-9
        usable = (distance <= data.source_max) & (seconds <= data.source_seconds)
        before, after = np.flatnonzero(usable[:current]), current + 1 + np.flatnonzero(usable[current + 1 :])
        if history is None or not len(before) or not len(after):
            left_out += 1
            continue
        generator = np.random.default_rng(current)
        behind, ahead = ((side, _cumulative(distance[side], data)) for side in (before, after))
        pairs = dict.fromkeys((_draw(*behind, generator), _draw(*ahead, generator)) for _ in range(DRAWS))
        found = [(pair, _cues(current, pair, before, after, complete, data)) for pair in pairs]
        known = [ClipIndices(current, history, pair, cues) for pair, cues in found if cues is not None]
        if len(known) < len(found):
            left_out += 1
            continue
        clips += known
    return clips, left_out


def _cue(store: FrameStore, i: int, flow: Int[np.ndarray, "N H W 2"]) -> FlowCue:
    """The cue whose encoded flow leads to frame i."""
    pixels, valid = decode(flow)
    return FlowCue(
        stamp=torch.tensor(store.stamps_ns[i]),
        K=torch.tensor(store.K[i], dtype=torch.float32),
        T_ego_cam=torch.tensor(store.T_ego_cam[i], dtype=torch.float32),
        T_world_ego=torch.tensor(store.T_world_ego[i]),
        flow=torch.from_numpy(pixels).movedim(-1, 1),
        valid=torch.from_numpy(valid),
    )


def _cues(
    current: int,
    sources: tuple[int, int],
    before: np.ndarray,
    after: np.ndarray,
    complete: np.ndarray,
    data: "RecordedData",
) -> tuple[int, ...] | None:
    """Frames to which the optical flow of a clip leads; None if one is missing."""
    if data.cue == "none":
        return ()
    if data.cue_previous == "keyframe":
        keyframes = np.flatnonzero(complete)
        earlier, later = keyframes[keyframes < current], keyframes[keyframes > current]
        return (int(earlier[-1]), int(later[0])) if len(earlier) and len(later) else None
    return (int(before[-1]) if data.cue_previous == "neighbour" else sources[0], int(after[0]))


def _history(stamps_ns: np.ndarray, current: int, interval: float, count: int) -> tuple[int, ...] | None:
    """Frames 1, 2, ... intervals before the current one, by the rule of the live node; None if one is missing."""
    found = past_frames(stamps_ns[:current], int(stamps_ns[current]), interval, count)
    known = tuple(i for i in found if i is not None)
    return known if len(known) == count else None


def _cumulative(distance: np.ndarray, data: "RecordedData") -> np.ndarray:
    """Cumulative probability of frames by a Gaussian over their distance (m) from the current frame."""
    exponent = -0.5 * ((distance - data.source_distance) / data.source_sigma) ** 2
    cumulative = np.exp(exponent - exponent.max()).cumsum()
    return cumulative / cumulative[-1]


def _draw(candidates: np.ndarray, cumulative: np.ndarray, generator: np.random.Generator) -> int:
    """One candidate."""
    return int(candidates[cumulative.searchsorted(generator.random(), side="right")])
