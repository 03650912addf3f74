"""Measures what a table asks for, sample by sample in the order of a drive."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from letocc_core.cues.flow import FlowEstimator, decode, flow_estimator, trusted_flow
from letocc_core.data.datasets.voxel_labels import IGNORE, VoxelLabels
from letocc_core.data.truth import CLASS_NAMES, FREE
from letocc_core.errors import DataError
from letocc_core.evaluation.config import EvaluationConfig
from letocc_core.evaluation.depth import depth_truth
from letocc_core.evaluation.samples import Sample
from letocc_core.evaluation.tables.protocol import (
    DepthProtocol,
    NovelDepthProtocol,
    Protocol,
    SceneFlowProtocol,
    cropped,
)
from letocc_core.frame import InputConfig
from letocc_core.geometry.grid import GridSpec, sample_volume
from letocc_core.geometry.rectify import Rectifier
from letocc_core.metrics import frame_score
from letocc_core.metrics.depth import DepthScore
from letocc_core.metrics.frame_score import DepthTruth, flow_of_points
from letocc_core.metrics.motion import MATCH_DISTANCE, VelocityErrors
from letocc_core.metrics.occupancy import LabelCounts
from letocc_core.metrics.ray_iou import RayCounts, Rays, distance_error, select_origins, spread
from letocc_core.metrics.scene_flow import SceneFlowScore
from letocc_core.model.fields import Fields
from letocc_core.rendering.rays import rays_through
from letocc_core.rendering.render import Rendered, render
from letocc_core.stream.preprocess import rectifier_of, rectify

NO_LABELS = "the data has no voxel labels"
NO_DEPTH = "the data has neither LiDAR nor true depth"
NO_CLASSES = "the checkpoint has no semantic field"
NO_VELOCITY = "the data's voxels have no velocities, or the checkpoint no flow field"
ALL_RETURNS = 10**9  # no image has more pixels


@dataclass
class _Earlier:
    """A frame that was answered, while the vehicle drives on."""

    sample: Sample
    fields: Fields
    driven: float = 0.0  # m, from its pose to that of the last view that counted
    last: Float[np.ndarray, "4 4"] = field(default_factory=lambda: np.eye(4))  # m, that view's T_world_ego


class Measurement:
    """The figures of one protocol over the samples of any number of drives.

    Args:
        grid: of the model's fields.
        input: how fisheye images are seen.
        evaluation: how depth is rendered.
        class_names: of the model's semantic field; empty: its numbers are those of the data's classes.

    Attributes:
        score: accumulators by group, as in `metrics.frame_score`.
        missing: why a group that the protocol asks for has no figures, by group.
        frames: samples that gave a figure.
    """

    def __init__(
        self,
        protocol: Protocol,
        grid: GridSpec,
        input: InputConfig,
        evaluation: EvaluationConfig,
        class_names: tuple[str, ...] = (),
    ):
        self.class_names = class_names
        self.protocol, self.grid, self.input, self.evaluation = protocol, grid, input, evaluation
        self._flow = protocol.scene_flow or SceneFlowProtocol()
        self.score: dict[str, Any] = {}
        self.missing: dict[str, str] = {}
        self.frames = 0
        self.begin(np.zeros((0, 3)))

    def begin(self, track: Float[np.ndarray, "n 3"]) -> None:
        """A new drive, on which the LiDAR is at these places (m, fixed frame)."""
        self._track, self._position = track, -1
        self._earlier: list[_Earlier] = []
        self._before: _Earlier | None = None

    def add(self, sample: Sample, fields: Fields | None) -> None:
        """The next sample of the drive; `fields` answer it, None where it is only what earlier ones lead to."""
        self._position += 1
        found: dict[str, Any] = {}
        if self.protocol.novel_depth is not None:
            found |= self._novel_depth(sample, self.protocol.novel_depth)
        if self.protocol.scene_flow is not None:
            found |= self._scene_flow(sample)
        if fields is not None:
            found |= self._now(sample, fields)
            if self.protocol.novel_depth is not None:
                self._earlier.append(_Earlier(sample, fields, last=sample.frame_set.T_world_ego))
        self._before = None
        if fields is not None and self.protocol.scene_flow is not None:
            self._before = _Earlier(sample, fields)
        self.frames += bool(found)
        self.score = frame_score.add(self.score, found)

    @property
    def waits(self) -> bool:
        """Whether samples still to come can say something of those that were answered."""
        return bool(self._earlier) or self._before is not None

    def figures(self) -> dict[str, dict[str, float]]:
        """Plain numbers by group and key."""
        return frame_score.summary(self.score)

    def _now(self, sample: Sample, fields: Fields) -> dict[str, Any]:
        """What the frame's own truth says of its fields."""
        found: dict[str, Any] = {}
        if self.protocol.depth is not None:
            found |= self._depth(sample, fields, self.protocol.depth)
        if self.protocol.rays != "none" or self.protocol.voxels != "none":
            voxels = labels_of(sample, self.grid)
            if voxels is None:
                self._lack(NO_LABELS, "ray_iou", "velocity", "voxels", "classes")
                return found
            answer = _Answer(fields, self.grid, voxels, self.protocol, self.class_names)
            if self.protocol.rays != "none":
                found |= self._rays(sample, voxels, answer)
            if self.protocol.voxels != "none":
                found |= self._voxels(voxels, answer)
        return found

    def _lack(self, why: str, *groups: str) -> None:
        for group in groups:
            self.missing.setdefault(group, why)

    # Occupancy

    def _rays(self, sample: Sample, voxels: VoxelLabels, answer: "_Answer") -> dict[str, Any]:
        """`ray_iou` and `velocity`. A ray that first meets a voxel whose label is not known does not count."""
        if self.protocol.rays == "semantic" and answer.labels is None:
            self._lack(NO_CLASSES, "ray_iou", "velocity")
            return {}
        rays = Rays.lidar(self._origins(sample, voxels.grid), voxels.grid)
        truth = cropped(_class_numbers(voxels), self.protocol.crop_truth, FREE)
        unknown = voxels.labels == IGNORE
        true, found = rays.cast((truth != FREE) | unknown), rays.cast(answer.occupied)
        there, guessed = tuple(true.voxel.T), tuple(found.voxel.T)
        counted = true.hit & ~unknown[there]
        label = np.where(counted, truth[there], FREE).astype(int)
        guess = None if answer.labels is None else answer.labels[guessed].astype(int)
        error = distance_error(true, found, voxels.grid.voxel_size)
        names = class_names(voxels)
        score: dict[str, Any] = {"ray_iou": self._ray_counts(label, guess, found.hit, error, len(names))}
        if not self.protocol.velocity_classes:
            return score
        if voxels.velocity is None or answer.velocity is None:
            self._lack(NO_VELOCITY, "velocity")
            return score
        right = {"semantic": label == guess, "geometric": found.hit}.get(self.protocol.rays, True)
        judged = [names.index(name) for name in self.protocol.velocity_classes if name in names]
        matched = counted & (error < MATCH_DISTANCE) & right & np.isin(label, judged)
        true_velocity = voxels.velocity[tuple(true.voxel[matched].T)]
        velocity = answer.velocity[tuple(found.voxel[matched].T)]
        score["velocity"] = VelocityErrors.of(label[matched], true_velocity, velocity, len(names))
        return score

    def _origins(self, sample: Sample, grid: GridSpec) -> Float[np.ndarray, "N 3"]:
        """Where the rays of this sample start, m in its ego axes."""
        config, now = self.protocol.origins, self._position
        first = 0 if config.before is None else max(now - config.before, 0)
        last = len(self._track) if config.after is None else now + config.after + 1
        T_ego_world = np.linalg.inv(sample.frame_set.T_world_ego)
        places = self._track[first:last] @ T_ego_world[:3, :3].T + T_ego_world[:3, 3]
        if config.distance is None:
            return select_origins(places, grid)
        return spread(places[np.linalg.norm(places - sample.lidar_origin, axis=1) <= config.distance])

    def _ray_counts(
        self,
        label: Int[np.ndarray, "R"],
        guess: Int[np.ndarray, "R"] | None,
        hit: Bool[np.ndarray, "R"],
        error: Float[np.ndarray, "R"],
        classes: int,
    ) -> RayCounts:
        """Counts of one frame by the protocol's way of counting; rays labelled `FREE` do not count."""
        counted = label != FREE
        if self.protocol.rays == "semantic" and guess is not None:
            return RayCounts.semantic(label, guess, error, classes)
        if self.protocol.rays == "class_given":
            return RayCounts.class_given(label, error, classes)
        if self.protocol.rays == "occupied_given":
            return RayCounts.class_given(np.where(counted, 0, FREE), error, 1)
        return RayCounts.geometric(counted, hit, error)

    def _voxels(self, voxels: VoxelLabels, answer: "_Answer") -> dict[str, Any]:
        """`voxels`: IoU, precision and recall of what is occupied; `classes`: mIoU, where the model knows classes."""
        names = class_names(voxels)
        truth = cropped(_class_numbers(voxels), self.protocol.crop_truth, FREE)
        free = [names.index(name) for name in self.protocol.free_classes if name in names]
        occupied = np.where(np.isin(truth, [*free, FREE]), FREE, 0).astype(np.uint8)
        predicted = np.where(answer.occupied, 0, FREE).astype(np.uint8)
        score = {"voxels": LabelCounts.of(occupied, predicted, voxels.scored, FREE)}
        if self.protocol.voxels != "labels":
            return score
        if answer.labels is None:
            self._lack(NO_CLASSES, "classes")
            return score
        return score | {"classes": LabelCounts.of(truth, answer.labels, voxels.scored, FREE, len(names))}

    # Depth

    def _depth(self, sample: Sample, fields: Fields, config: DepthProtocol) -> dict[str, Any]:
        target = self._target(sample)
        if target is None:
            self._lack(NO_DEPTH, "depth")
            return {}
        return {"depth": self._compare(target, sample, fields, config)}

    def _novel_depth(self, sample: Sample, config: NovelDepthProtocol) -> dict[str, Any]:
        """What earlier frames say of this one's depth, as long as it is near enough and far enough from the last one."""
        total = DepthScore()
        target = self._target(sample)
        if target is None:
            self._lack(NO_DEPTH, "novel_depth")
            return {}
        pose, reached = sample.frame_set.T_world_ego, []
        for earlier in self._earlier:
            step = float(np.linalg.norm((pose - earlier.last)[:3, 3]))
            if earlier.driven + step > config.distance:
                continue
            reached.append(earlier)
            if step >= config.step:
                earlier.driven, earlier.last = earlier.driven + step, pose
                T_then_now = np.linalg.inv(earlier.sample.frame_set.T_world_ego) @ pose
                moved = replace(target, T_ego_cam=T_then_now @ target.T_ego_cam)
                total += self._compare(moved, sample, earlier.fields, config)
        self._earlier = reached
        return {"novel_depth": total} if total.images else {}

    def _target(self, sample: Sample) -> DepthTruth | None:
        """Pixels of known depth, all of them; None where nothing is known."""
        if sample.truth is None and sample.lidar is None:
            return None
        return depth_truth(sample, self.evaluation.depth_stride, ALL_RETURNS)

    def _compare(self, target: DepthTruth, sample: Sample, fields: Fields, config: DepthProtocol) -> DepthScore:
        """Depth rendered from `fields` at the pixels of `target`; pixels whose rays miss the box are left out."""
        seen, valid = self._render(target, fields)
        sizes = [(c.height, c.width) for c in sample.frame_set.calibrations if c is not None]
        valid &= _inside_area(target.pixels, sizes, config.area)
        return DepthScore.of_images(target.depth, seen.depth[0].numpy(), valid, config.limits, config.median_scaling)

    @torch.no_grad()
    def _render(self, target: DepthTruth, fields: Fields, motion: bool = False) -> tuple[Rendered, np.ndarray]:
        """What the pixels of `target` see of the fields, and whether they see their box at all [N, M]."""

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]

        rays = rays_through(tensor(target.pixels), tensor(target.K), tensor(target.T_ego_cam), self.grid)
        fields = _on_cpu(fields)
        seen = render(fields, self.grid, rays, self.evaluation.samples, self.evaluation.beta, motion=motion)
        return seen, rays.valid[0].numpy()

    # Scene flow

    def _scene_flow(self, sample: Sample) -> dict[str, Any]:
        """What the sample before says of the way from it to this one."""
        if self._before is None:
            return {}
        before, fields = self._before.sample, self._before.fields
        if before.truth is None and before.lidar is None:
            self._lack(NO_DEPTH, "scene_flow")
            return {}
        target = self._flow_target(before, sample)
        if target.flow is None or fields.flow is None:
            self._lack("the data has no flow or the checkpoint no flow field", "scene_flow")
            return {}
        seen, valid = self._render(target, fields, motion=True)
        assert seen.flow is not None  # `motion` asks for it
        depth, velocity = seen.depth[0].numpy(), seen.flow[0].numpy()
        flow = flow_of_points(target, target.points(depth.astype(np.float64)), velocity)
        still = flow_of_points(target, target.points(target.depth), np.zeros_like(velocity))
        total = SceneFlowScore()
        for i, ok in enumerate(valid):
            objects = None if target.foreground is None else target.foreground[i][ok]
            pixels = target.depth[i][ok], depth[i][ok], target.flow[i][ok], flow[i][ok]
            total += SceneFlowScore.of_image(*pixels, objects, still[i][ok], float(target.K[i, 0, 0]))
        return {"scene_flow": total}

    def _flow_target(self, sample: Sample, following: Sample) -> DepthTruth:
        """True depth and flow at the same pixels: a simulator's, or the LiDAR's with the estimator's flow."""
        if sample.truth is not None:
            return depth_truth(sample, self.evaluation.depth_stride, ALL_RETURNS)
        input, rectifier = self._flow_images
        now, then = (rectify(s.frame_set, input, rectifier) for s in (sample, following))
        target = depth_truth(replace(sample, frame_set=now), self.evaluation.depth_stride, ALL_RETURNS)
        present = [i for i, image in enumerate(now.images) if image is not None]
        first, second = ([f.images[i] for i in present] for f in (now, then))
        images, others = ([image for image in seen if image is not None] for seen in (first, second))
        if len(others) < len(images):
            return target  # a camera is absent in the next set: no flow
        flow = decode(trusted_flow(self._estimator, np.stack(images), np.stack(others))[0])
        u, v = target.pixels.astype(int).transpose(2, 0, 1)
        camera = np.arange(len(present))[:, None]
        return replace(
            target,
            flow=np.where(flow[1][camera, v, u][..., None], flow[0][camera, v, u], np.nan),
            foreground=None
            if self._flow.masks is None
            else np.stack(list(map(self._flow.masks, images)))[camera, v, u],
            T_next_ego=np.linalg.inv(then.T_world_ego) @ now.T_world_ego,
            flow_interval=(then.stamp_ns - now.stamp_ns) * 1e-9,
        )

    @cached_property
    def _flow_images(self) -> tuple[InputConfig, Rectifier]:
        """Images in whose pixels scene flow is counted, and what makes them."""
        input = replace(self.input, image_size=self._flow.image_size)
        return input, rectifier_of(input)

    @cached_property
    def _estimator(self) -> FlowEstimator:
        return flow_estimator(self._flow.estimator)


class _Answer:
    """The fields of one frame on the grid of its labels, by a protocol's threshold and crop; outside the box is free."""

    def __init__(self, fields: Fields, grid: GridSpec, voxels: VoxelLabels, protocol: Protocol, names: tuple[str, ...]):
        fields = _on_cpu(fields)
        centres = voxels.grid.centres()
        inside = (grid.to_unit(centres).abs() <= 1).all(-1).numpy()

        def on_labels(field: torch.Tensor) -> Float[np.ndarray, "X Y Z K"]:
            return sample_volume(field, grid, centres[None], padding="border")[0].numpy()

        occupied = (on_labels(fields.sdf)[..., 0] <= protocol.threshold) & inside
        self.occupied: Bool[np.ndarray, "X Y Z"] = cropped(occupied, protocol.crop_prediction, False)
        self.velocity = None if fields.flow is None else on_labels(fields.flow)
        self.labels: UInt8[np.ndarray, "X Y Z"] | None = None
        if fields.semantics is not None:
            best = _renamed(on_labels(fields.semantics).argmax(-1), names, class_names(voxels))
            self.labels = np.where(self.occupied, best, FREE)


def labels_of(sample: Sample, grid: GridSpec) -> VoxelLabels | None:
    """The labelled grid of a sample: a data set's, or a simulator's truth, which is on the model's `grid`."""
    if sample.labels is not None or sample.truth is None:
        return sample.labels
    truth = sample.truth
    if truth.occupancy.shape != grid.shape:
        raise DataError(
            f"the truth's grid is {truth.occupancy.shape}, the model's {grid.shape}; record it on the model's"
        )
    free = len(CLASS_NAMES)
    labels = np.where(truth.occupancy == FREE, free, truth.occupancy).astype(np.uint8)
    return VoxelLabels(grid, (*CLASS_NAMES, "free"), labels, truth.visible, truth.velocity)


def class_names(voxels: VoxelLabels) -> list[str]:
    """The classes of labels without that of empty voxels: what our class numbers, and a model's, count."""
    return [name for name in voxels.classes if name != "free"]


def _renamed(numbers: np.ndarray, names: tuple[str, ...], wanted: list[str]) -> UInt8[np.ndarray, "X Y Z"]:
    """Class numbers of `names` as those of `wanted`; raises `DataError` for a class that is not among them."""
    unknown = [name for name in names if name not in wanted]
    if unknown:
        raise DataError(
            f"the model's classes {', '.join(unknown)} are not among those of the labels: {', '.join(wanted)}; "
            "measure on data with the classes that it was trained on"
        )
    table = np.array([wanted.index(name) for name in names] or range(256), np.uint8)
    return table[numbers]


def _class_numbers(voxels: VoxelLabels) -> UInt8[np.ndarray, "X Y Z"]:
    """Positions in `class_names`; `FREE` where empty, and 0 where the label is not known."""
    names = class_names(voxels)
    table = np.zeros(256, np.uint8)
    table[: len(voxels.classes)] = [FREE if name == "free" else names.index(name) for name in voxels.classes]
    return table[voxels.labels]


def _on_cpu(fields: Fields) -> Fields:
    flow, semantics = (None if value is None else value.float().cpu() for value in (fields.flow, fields.semantics))
    return Fields(fields.sdf.float().cpu(), flow, semantics)


def _inside_area(
    pixels: Float[np.ndarray, "N M 2"], sizes: Sequence[tuple[int, int]], area: tuple[float, float, float, float]
) -> Bool[np.ndarray, "N M"]:
    """Pixels (u, v) within a share of their images: from `top` to `bottom` and `left` to `right`."""
    top, bottom, left, right = area
    height, width = (np.array([size[k] for size in sizes], float)[:, None] for k in (0, 1))
    v, u = (pixels[..., 1] + 0.5) / height, (pixels[..., 0] + 0.5) / width
    return (v >= top) & (v <= bottom) & (u >= left) & (u <= right)
