"""Training clips from simulated streets, rendered on first use over several processes and cached."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from letocc_core.cues.flow import UNKNOWN, FlowEstimator, decode, encode, flow_estimator, settings_key, trusted_flow
from letocc_core.cues.votes import VERSION, VotesConfig, pack
from letocc_core.data.cache import save, write_missing
from letocc_core.data.clips import Clips
from letocc_core.data.config import InstantsConfig
from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.street import EPOCH_NS, SimFrame, Street
from letocc_core.data.simulator.varied.street import open_street
from letocc_core.data.truth import FREE, Truth
from letocc_core.data.vote_files import read_votes, write_votes
from letocc_core.frame import Clip, FlowCue, Frame, InputConfig
from letocc_core.geometry.grid import GridSpec

SEMANTICS = "_semantics"  # suffix of the files that hold the classes of pixels
INSTANTS = 4  # clips of one current frame, each with rays of an instant drawn for it
RENDERER = 1  # raise when the same seed gives other images, so that stale caches are not read
VARIED_RENDERER = 4  # the same for varied streets
GOLDEN_RATIO = (1 + 5**0.5) / 2  # whose multiples are spread evenly over the fractions


class SimulatorClips(Clips):
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
        cue: optical flow from each clip's current frame: none, by an estimator (`cues.flow.flow_estimator`), or the truth
            (true).
        cue_intervals: s to the instants before and after that it leads to.
        cue_weights, cue_device: of a learned estimator.
        shard: (i, n): render only the i-th of n parts of what is missing; the others' clips cannot be read then.
        votes: also give the votes of rays in the voxels of `grid`.
        instants: whose rays are rendered; each current frame then gives `INSTANTS` clips.
        semantics: also give the classes of the current frames' pixels, as pseudo-labels (`data.truth.CLASS_NAMES`).
        variety: share of the streets that are varied ones, each seen by a robot of its own that the rig is an example of
            (`VariedStreet`). Their cameras differ in number, and may be absent from some frames.
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
        cue: str = "none",
        cue_intervals: Sequence[float] = (0.05,),
        cue_weights: Path | None = None,
        cue_device: str = "cpu",
        semantics: bool = False,
        votes: VotesConfig | None = None,
        grid: GridSpec | None = None,
        instants: InstantsConfig | None = None,
        shard: tuple[int, int] = (1, 1),
        variety: float = 0.0,
    ):
        self.seeds, self.past_frames = list(seeds), past_frames
        self.first = max(past_frames, 1)
        self.per_street = frames - self.first - 1
        self.instants = instants
        mounted = Rig.load(rig).require_pinholes("training on streets").resized(*input.image_size)
        self.cameras = tuple(mounted.cameras)
        settings = (mounted, input.history_interval, frames, lidar)
        versions = {False: (RENDERER, *settings), True: (RENDERER, *settings, VARIED_RENDERER)}
        keys = {varied: hashlib.sha256(repr(version).encode()).hexdigest()[:12] for varied, version in versions.items()}
        self.folders = {varied: Path(cache) / f"streets_{key}" for varied, key in keys.items()}
        self.workers, self.shard, self.variety = workers, shard, variety
        self._render("rendering streets", "", render_street, settings)
        estimator = None if cue in ("none", "true") else flow_estimator(cue, cue_weights, cue_device)
        seconds = () if cue == "none" else cue_intervals
        self.cue_suffixes = [_cue_suffix(cue, estimator, s) for s in seconds]
        self.semantics = semantics
        times = [(self.first + i) * input.history_interval for i in range(self.per_street)]
        if semantics:
            self._render("classes of pixels", SEMANTICS, render_semantics, (mounted, times))
        self.votes_suffix = None
        if votes is not None:
            key = hashlib.sha256(repr((VERSION, votes, grid)).encode()).hexdigest()[:8]
            self.votes_suffix = f"_votes_{key}"
            currents = [self.first + i for i in range(self.per_street)]
            self._render(
                "votes of rays",
                self.votes_suffix,
                write_street_votes,
                (mounted, input.history_interval, currents, grid, votes),
            )
        for suffix, s in zip(self.cue_suffixes, seconds, strict=True):
            self._render(f"optical flow over {s:g} s", suffix, render_cues, (mounted, times, estimator, s))

    def __len__(self) -> int:
        return len(self.seeds) * max(self.per_street, 0) * (INSTANTS if self.instants else 1)

    def __getitem__(self, index: int) -> Clip:
        clip = index // INSTANTS if self.instants else index
        street, offset = divmod(clip, self.per_street)
        now = self.first + offset
        data = self._load(street)
        history = tuple(_frame(data, now - k) for k in range(1, self.past_frames + 1))
        files = [self._load(street, suffix) for suffix in self.cue_suffixes]
        cues = tuple(cue for file in files for cue in _cues(file, data, offset))
        current = _frame(data, now)
        if self.semantics:
            classes = self._load(street, SEMANTICS)["semantics"][offset]
            current = replace(current, semantics=torch.from_numpy(classes).int())
        if self.votes_suffix is not None:
            path = self._path(self.seeds[street], self.votes_suffix)
            current = replace(current, votes=read_votes(path, now))
        if self.instants is None:
            return Clip(current, history, (_frame(data, now - 1), _frame(data, now + 1)), cues)
        distance = np.linalg.norm((data["T_world_ego"] - data["T_world_ego"][now])[:, :3, 3], axis=-1)
        inner = np.arange(len(distance)) % (len(distance) - 1) > 0
        then = self.instants.choose(distance, now, inner, np.random.default_rng(index))
        rendered = current if then == now else _frame(data, then)
        return Clip(current, history, (_frame(data, then - 1), _frame(data, then + 1)), cues, rendered.images_alone())

    def _render(self, what: str, suffix: str, render: Callable, settings: tuple) -> None:
        """Let `render(path, seed, varied, *settings)` write the files that the cache lacks."""
        jobs = {self._path(seed, suffix): (seed, varied(seed, self.variety), *settings) for seed in self.seeds}
        write_missing(what, "street", render, jobs, self.workers, self.shard)

    def _path(self, seed: int, suffix: str = "") -> Path:
        return self.folders[varied(seed, self.variety)] / f"{seed:06d}{suffix}.npz"

    def _load(self, street: int, suffix: str = "") -> dict[str, np.ndarray]:
        return _read(self._path(self.seeds[street], suffix))


def varied(seed: int, share: float) -> bool:
    """Whether the street of a seed is among the given share of varied ones, which lie evenly between the others."""
    return seed * GOLDEN_RATIO % 1 < share


def _cue_suffix(cue: str, estimator: FlowEstimator | None, interval: float) -> str:
    """Of the names of the files that hold a cue; another one when the estimator's settings change."""
    settings = "" if estimator is None else f"_{settings_key(estimator)}"
    return f"_{cue}{settings}_{interval:g}"


def render_street(path: Path, seed: int, variety: bool, rig: Rig, interval: float, frames: int, lidar: bool) -> None:
    """Render one street's frames into a file."""
    street = open_street(seed, rig, variety=variety)
    sets = [street.render(i * interval, truth=False, lidar=lidar) for i in range(frames)]
    data = {
        "images": np.stack([s.images for s in sets]),
        "movable": np.packbits(np.stack([s.movable for s in sets]), axis=-1),
        "stamp": np.array([s.stamp_ns for s in sets]),
        "T_world_ego": np.stack([s.T_world_ego for s in sets]),
        "K": sets[0].K,
        "T_ego_cam": np.stack([s.T_ego_cam for s in sets]) if variety else sets[0].T_ego_cam,
        "lidar_origin": sets[0].lidar_origin,
    }
    if variety:
        data["camera_valid"] = np.stack([s.camera_valid for s in sets])
        data["own"] = np.packbits(sets[0].own, axis=-1)
    if lidar:
        sweeps = [s.lidar for s in sets if s.lidar is not None]
        data["lidar_count"] = np.array([len(sweep) for sweep in sweeps])
        data["lidar"] = np.concatenate(sweeps)
    save(path, data)


def render_semantics(path: Path, seed: int, variety: bool, rig: Rig, times: list[float]) -> None:
    """Classes of the pixels of one street's images at `times` (s) into a file."""
    street = open_street(seed, rig, variety=variety)
    sets = [street.render(t, truth=False, lidar=False) for t in times]
    save(path, {"semantics": np.stack([s.semantics for s in sets])}, compressed=True)


def write_street_votes(
    path: Path,
    seed: int,
    variety: bool,
    rig: Rig,
    interval: float,
    currents: list[int],
    grid: GridSpec,
    config: VotesConfig,
) -> None:
    """Votes of the rays of one street, whose images lie beside, into a file."""
    data = _read(path.with_name(f"{seed:06d}.npz"))
    if config.source == "truth":
        street = open_street(seed, rig, grid, variety=variety)
        truths = {f"{i:06d}": street.render(i * interval, lidar=False).truth for i in currents}
        return save(path, {name: _true_votes(t) for name, t in truths.items() if t is not None}, compressed=True)
    write_votes(path, lambda i: _frame(data, i), data["stamp"], currents, grid, config)


def _true_votes(truth: Truth) -> UInt8[np.ndarray, "2 X Y Z"]:
    """One vote for every voxel that a camera or the LiDAR sees, by the truth."""
    matter = truth.occupancy != FREE
    return pack(np.stack([truth.visible & ~matter, truth.visible & matter]).astype(np.float32))


def render_cues(
    path: Path, seed: int, variety: bool, rig: Rig, times: list[float], estimator: FlowEstimator | None, interval: float
) -> None:
    """Optical flow from one street's images at `times` (s) to those `interval` s before and after, into a file.

    Args:
        estimator: None for the truth.
    """
    street = open_street(seed, rig, flow_interval=interval, variety=variety)
    kept = _Kept(_read(path.with_name(f"{seed:06d}.npz")))
    known: dict[tuple[int, int], Int[np.ndarray, "N H W 2"]] = {}  # both ways of a pair are computed at once

    def between(estimator: FlowEstimator, a: _Picture | SimFrame, b: _Picture | SimFrame) -> Int[np.ndarray, "N H W 2"]:
        way = a.stamp_ns, b.stamp_ns
        if way not in known:
            known[way], known[way[::-1]] = trusted_flow(estimator, a.images, b.images)
        return known[way].copy()

    flows, stamps, poses, mounts = [], [], [], []
    now: _Picture | SimFrame
    for t in times:
        others = [kept.at(t + sign * interval, street) for sign in (-1, 1)]
        if estimator is None:
            now, found = _true_flows(street, t)
        else:
            now = kept.at(t, street)
            found = [between(estimator, now, other) for other in others]
        for flow, other in zip(found, others, strict=True):
            flow[now.own | ~(now.camera_valid & other.camera_valid)[:, None, None]] = UNKNOWN
        flows.append(found)
        stamps.append([other.stamp_ns for other in others])
        poses.append([other.T_world_ego for other in others])
        mounts.append([other.T_ego_cam for other in others])
    data = {"flow": np.array(flows), "stamp": np.array(stamps), "T_world_ego": np.array(poses)}
    save(path, {**data, "T_ego_cam": np.array(mounts)} if variety else data)


def _true_flows(street: Street, t: float) -> tuple[SimFrame, list[np.ndarray]]:
    """The frame at t (s), and its flow to the frame before and the one after."""
    frame = street.render(t, lidar=False)
    assert frame.truth is not None and frame.truth.flow_backward is not None and frame.truth.flow_forward is not None
    return frame, [encode(frame.truth.flow_backward), encode(frame.truth.flow_forward)]


@dataclass(frozen=True, eq=False)
class _Picture:
    """What a street's file has of a `SimFrame`; optical flow wants no more."""

    stamp_ns: int
    images: UInt8[np.ndarray, "N H W 3"]
    T_ego_cam: Float[np.ndarray, "N 4 4"]  # m
    T_world_ego: Float[np.ndarray, "4 4"]  # m
    camera_valid: Bool[np.ndarray, "N"]
    own: Bool[np.ndarray, "N H W"]


class _Kept:
    """The frames of a street's file; what it lacks is rendered."""

    def __init__(self, data: dict[str, np.ndarray]):
        self._data = data
        self._place = {int(stamp): i for i, stamp in enumerate(data["stamp"])}

    def at(self, t: float, street: Street) -> "_Picture | SimFrame":
        """The frame at t (s)."""
        i = self._place.get(EPOCH_NS + round(t * 1e9))
        return street.render(t, truth=False, lidar=False) if i is None else _picture(self._data, i)


def _picture(data: dict[str, np.ndarray], i: int) -> _Picture:
    """The i-th frame of a street's file."""
    images, T_ego_cam = data["images"][i], data["T_ego_cam"]  # the latter of every frame, or of a whole street
    no_own = np.zeros(images.shape[:3], bool)
    own = np.unpackbits(data["own"], axis=-1, count=images.shape[2]).astype(bool) if "own" in data else no_own
    valid = data["camera_valid"][i] if "camera_valid" in data else np.ones(len(images), bool)
    T_ego_cam = T_ego_cam[i] if T_ego_cam.ndim == 4 else T_ego_cam
    return _Picture(int(data["stamp"][i]), images, T_ego_cam, data["T_world_ego"][i], valid, own)


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def _cues(data: dict[str, np.ndarray], street: dict[str, np.ndarray], clip: int) -> tuple[FlowCue, ...]:
    """The cues of one clip of a street."""
    cues = []
    T_ego_cam = data.get("T_ego_cam", street["T_ego_cam"])
    T_ego_cam = np.broadcast_to(T_ego_cam, (*data["stamp"].shape, *T_ego_cam.shape[-3:]))
    kinds = (data["stamp"], data["T_world_ego"], data["flow"], T_ego_cam)
    for stamp, T_world_ego, packed, mounts in zip(*(kind[clip] for kind in kinds), strict=True):
        flow, valid = decode(packed)
        cues.append(
            FlowCue(
                stamp=torch.tensor(int(stamp)),
                K=torch.from_numpy(street["K"]).float(),
                T_ego_cam=torch.from_numpy(mounts).float(),
                T_world_ego=torch.from_numpy(T_world_ego),
                flow=torch.from_numpy(flow).movedim(-1, 1),
                valid=torch.from_numpy(valid),
            )
        )
    return tuple(cues)


def _frame(data: dict[str, np.ndarray], i: int) -> Frame:
    seen = _picture(data, i)
    images = torch.from_numpy(seen.images).permute(0, 3, 1, 2).float() / 255
    return Frame(
        stamp=torch.tensor(seen.stamp_ns),
        images=images,
        camera_valid=torch.from_numpy(seen.camera_valid),
        K=torch.from_numpy(data["K"]).float(),
        T_ego_cam=torch.from_numpy(seen.T_ego_cam).float(),
        T_world_ego=torch.from_numpy(seen.T_world_ego),
        movable=_mask(data["movable"][i], images),
        own=torch.from_numpy(seen.own) if "own" in data else None,
        lidar=_sweep(data, i),
        lidar_origin=torch.from_numpy(data["lidar_origin"]).float(),
    )


def _mask(packed: np.ndarray, images: Tensor) -> Tensor:
    return torch.from_numpy(np.unpackbits(packed, axis=-1, count=images.shape[-1]).astype(bool))


def _sweep(data: dict[str, np.ndarray], i: int) -> Tensor | None:
    if "lidar" not in data:
        return None
    ends = np.cumsum(data["lidar_count"])
    return torch.from_numpy(data["lidar"][ends[i] - data["lidar_count"][i] : ends[i]]).float()
