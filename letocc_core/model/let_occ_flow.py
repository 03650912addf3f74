"""The network: camera images and poses in, SDF and velocity of every voxel out (Let Occ Flow, CoRL 2024, section 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from letocc_core.errors import ConfigError
from letocc_core.frame import Frame
from letocc_core.geometry import se3
from letocc_core.geometry.grid import GridSpec
from letocc_core.model import plane_sweep
from letocc_core.model.backbone import BackboneConfig, FeaturePyramid
from letocc_core.model.fields import FieldHeads, Fields, FieldsConfig
from letocc_core.model.motion_branch import MotionBranch, MotionBranchConfig, View
from letocc_core.model.plane_sweep import PlaneSweepConfig
from letocc_core.model.precision import multiply_in_bfloat16
from letocc_core.model.recompute import recompute_activations
from letocc_core.model.refinement import Refinement, RefinementConfig, ResidualBlock
from letocc_core.model.temporal import PairAttention, TemporalConfig, TemporalFusion
from letocc_core.model.tpv import EncoderConfig, Looked, TPVEncoder


@dataclass(frozen=True)
class ModelConfig:
    """The whole network; the defaults are the paper's sizes for nuScenes, on a smaller box."""

    grid: GridSpec = field(default_factory=GridSpec)  # output voxels; the TPV has half their resolution
    dim: int = 192  # channels of the pyramid, the planes and the volume
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    sweep: PlaneSweepConfig | None = None  # plane-sweep evidence from past frames as a further input
    motion_branch: MotionBranchConfig | None = None  # flow by a velocity sweep over past frames, not by an MLP
    occupancy_scale: float = 0.1  # m, probability = sigmoid(-sdf / occupancy_scale)
    occupancy_threshold: float = 0.5  # a voxel is occupied above this probability
    surface_threshold: float | None = None  # and above this one where a ray most probably ends (`visibility.add_ends`)
    checkpoint_activations: bool = False  # recompute blocks of layers in the backward pass: less memory, more time

    def __post_init__(self):
        if any(n % 2 for n in self.grid.shape):
            raise ConfigError(
                f"model.grid has {self.grid.shape} voxels, expected even numbers: the TPV has half of them"
            )
        for name, section in (("sweep", self.sweep), ("motion_branch", self.motion_branch)):
            if section and self.temporal.frames < 1:
                raise ConfigError(
                    f"model.{name} compares with past frames, but model.temporal.frames is 0; set it to 1 or more"
                )
        for name, heads in (("encoder", self.encoder.heads), ("temporal", self.temporal.heads)):
            if self.dim % heads:
                raise ConfigError(f"model.dim {self.dim} is not a multiple of model.{name}.heads {heads}")


@dataclass(frozen=True)
class EncodedFrame:
    """What is kept of a frame: enough to be fused into later ones without seeing its images again."""

    stamp: Int[Tensor, "B"]  # ns
    volume: Float[Tensor, "B D x y z"]  # at the TPV's resolution, in the frame's own ego axes
    T_world_ego: Float[Tensor, "B 4 4"]  # m, float64
    T_ego_cam: Float[Tensor, "B N 4 4"]  # m
    camera_valid: Bool[Tensor, "B N"]
    K: Float[Tensor, "B N 3 3"]  # px, of the full images
    grey: Float[Tensor, "B N H W"] | None  # brightness, kept for the sweeps
    masked: Bool[Tensor, "B N H W"] | None = None  # pixels without evidence

    @property
    def brightness(self) -> Float[Tensor, "B N H W"]:
        """`grey`; raises `ConfigError` for a frame that was encoded by a model without sweeps."""
        if self.grey is None:
            raise ConfigError(
                "this frame was encoded by a model without sweeps; encode it with the model that decodes it"
            )
        return self.grey


class LetOccFlow(nn.Module):
    """Images -> TPV volume (encode); volumes of now and the past -> fields (decode)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        coarse, levels = config.grid.coarser(2), len(config.backbone.widths)
        extra = plane_sweep.CHANNELS if config.sweep else 0
        self.pyramid = FeaturePyramid(config.backbone, config.dim)
        self.encoder = TPVEncoder(config.encoder, coarse, config.dim, levels)
        self.temporal = TemporalFusion(config.temporal, coarse, config.dim)
        self.refinement = Refinement(config.refinement, config.dim, extra_coarse=extra, extra_fine=extra)
        self.fields = FieldHeads(config.fields, config.dim // 2, motion=config.motion_branch is None)
        self.motion = None
        if config.motion_branch:
            frames = config.temporal.frames
            self.motion = MotionBranch(config.motion_branch, config.grid, config.dim // 2, frames)
        self._looked: tuple[tuple[int, ...], tuple[Tensor | None, ...], dict[str, Looked]] | None = None
        if config.checkpoint_activations:
            recompute_activations(self._blocks())

    def _blocks(self) -> list[nn.Module]:
        """The parts whose inner activations are worth forgetting."""
        image = [layer for stage in self.pyramid.backbone.encoder.stages for layer in stage.layers]
        fusion = [m for m in self.temporal.modules() if isinstance(m, PairAttention)]
        volume = [m for m in self.refinement.modules() if isinstance(m, ResidualBlock)]
        heads = [m for m in (self.fields.sdf, self.fields.flow, self.fields.semantics) if m is not None]
        return [*image, *self.encoder.layers, *fusion, *volume, *heads]

    def multiply_in_bfloat16(self, device_type: str) -> None:
        """Backbone, attention and convolutions in bfloat16 from now on; geometry and fields stay in float32."""
        fusion = [m for m in self.temporal.modules() if isinstance(m, PairAttention | nn.Conv3d)]
        motion = [] if self.motion is None else self.motion.convolutions()
        multiply_in_bfloat16([self.pyramid, *self.encoder.layers, *fusion, self.refinement, *motion], device_type)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters: of the image `backbone`, of `motion`, on which geometry does not depend, and of `geometry`."""
        heads = [head for head in (self.fields.flow, self.motion) if head is not None]
        groups = {
            "backbone": list(self.pyramid.backbone.parameters()),
            "motion": [p for head in heads for p in head.parameters()],
        }
        apart = {id(p) for group in groups.values() for p in group}
        return {**groups, "geometry": [p for p in self.parameters() if id(p) not in apart]}

    def forward(
        self,
        current: Frame,
        history: Sequence[Frame] = (),
        motion: bool = True,
        turned: Bool[Tensor, "B"] | None = None,
        history_gradient: bool = True,
    ) -> Fields:
        """Fields of the current frame (batched frames; `history` newest first), as `decode` says.

        Args:
            history_gradient: encode the past so that gradients can be taken through it as well.
        """
        encoded = self.encode(current)
        with torch.set_grad_enabled(history_gradient and torch.is_grad_enabled()):
            past = [self.encode(frame) for frame in history]
        return self.decode(encoded, past, motion, turned)

    def encode(self, frame: Frame) -> EncodedFrame:
        """2D-to-3D encoder: backbone, pyramid, TPV (eqs. 2, 3). Frames are batched: images [B, N, 3, H, W]."""
        volume = self.volume(frame.images, self._look(frame))
        grey = plane_sweep.brightness(frame.images) if self.config.sweep or self.config.motion_branch else None
        about = (frame.T_world_ego, frame.T_ego_cam, frame.camera_valid, frame.K)
        return EncodedFrame(frame.stamp, volume, *about, grey, frame.masked)

    def volume(self, images: Float[Tensor, "B N 3 H W"], looked: Mapping[str, Looked]) -> Float[Tensor, "B D x y z"]:
        """What is learned of `encode`: images, and which queries their cameras see, to the volume."""
        maps = [m.view(*images.shape[:2], *m.shape[1:]) for m in self.pyramid(images.flatten(0, 1))]
        return self.encoder(maps, looked)

    def _look(self, frame: Frame) -> dict[str, Looked]:
        """Which queries the cameras see; kept from set to set while calibration and masks stay the same."""
        given = (frame.K, frame.T_ego_cam, frame.camera_valid, frame.masked)
        size = frame.images.shape[-2], frame.images.shape[-1]
        if not torch.is_inference_mode_enabled():
            return self.encoder.look(*given[:3], size, frame.masked)
        if self._looked is None or self._looked[0] != size or not all(map(_same, self._looked[1], given)):
            self._looked = size, given, self.encoder.look(*given[:3], size, frame.masked)
        return self._looked[2]

    def decode(
        self,
        current: EncodedFrame,
        history: Sequence[EncodedFrame] = (),
        motion: bool = True,
        turned: Bool[Tensor, "B"] | None = None,
    ) -> Fields:
        """Fields from what was encoded before. A past frame that is missing is replaced by the nearest one there is.

        Args:
            motion: also the flow field, which costs a fifth of a training step.
            turned: clips that the motion branch sees after half a turn.
        """
        past = [*history, *([history[-1] if history else current] * self.config.temporal.frames)]
        past = past[: self.config.temporal.frames]
        T_past_now = [se3.relative(p.T_world_ego, current.T_world_ego) for p in past]
        # Plane-sweep evidence, at both resolutions
        fine = self._sweep(current, past, T_past_now)
        fields, columns = self.fields_of(current.volume, [p.volume for p in past], T_past_now, fine, motion)
        if self.motion is None or columns is None:
            return fields
        now, *then = (View(f.stamp, f.brightness, f.K, f.T_ego_cam, f.camera_valid, f.masked) for f in (current, *past))
        evidence = self.motion.evidence(columns, fields.sdf.detach(), now, then, T_past_now)
        return replace(fields, flow=self.motion(evidence, fields.sdf.detach(), turned), evidence=evidence)

    def fields_of(
        self,
        volume: Float[Tensor, "B D x y z"],
        past: Sequence[Float[Tensor, "B D x y z"]],
        T_past_now: Sequence[Float[Tensor, "B 4 4"]],
        fine: Float[Tensor, "B C X Y Z"] | None,
        motion: bool = True,
    ) -> tuple[Fields, Float[Tensor, "B c x y"] | None]:
        """What is learned of `decode` but the motion branch: the fields, and the columns that the branch reads.

        Args:
            fine: evidence of the plane sweep.
        """
        # Ego-motion alignment, backward-forward attention, BEV-volume fusion (eqs. 4 to 6)
        fused = self.temporal(volume, past, T_past_now)
        if fine is not None:
            fused = torch.cat([fused, F.avg_pool3d(fine, 2)], dim=1)
        # 3D refinement and upsampling, then the fields (eq. 7)
        refined = self.refinement(fused, fine)
        fields = self.fields(refined, motion)
        if self.config.sweep and self.config.sweep.prior and fine is not None:
            fields = self._with_prior(fields, fine)
        if self.motion is None or not motion:
            return fields, None
        return fields, self.motion.columns(refined.detach(), fields.sdf.detach())

    def _sweep(
        self, current: EncodedFrame, past: Sequence[EncodedFrame], T_past_now: Sequence[Tensor]
    ) -> Float[Tensor, "B C X Y Z"] | None:
        """Evidence at every output voxel, or None without a sweep in the configuration."""
        if self.config.sweep is None:
            return None
        K, *past_K = (plane_sweep.half_intrinsics(frame.K) for frame in (current, *past))
        T = [se3.inverse(p.T_ego_cam) @ t[:, None] @ current.T_ego_cam for p, t in zip(past, T_past_now, strict=True)]
        valid = [p.camera_valid & current.camera_valid for p in past]
        grey, *past_grey = (F.avg_pool2d(frame.brightness, 2) for frame in (current, *past))
        masked = [None if f.masked is None else plane_sweep.half_masked(f.masked) for f in (current, *past)]
        swept = plane_sweep.sweep_depth(grey, past_grey, K, past_K, T, valid, masked=masked)
        return plane_sweep.lift(swept, self.config.grid, K, current.T_ego_cam)

    def _with_prior(self, fields: Fields, evidence: Float[Tensor, "B C X Y Z"]) -> Fields:
        """The network's SDF as a correction of the plane sweep's signed distance, where that is known."""
        distance, known = evidence[:, :1] * plane_sweep.TRUNCATION, evidence[:, 3:4]
        return replace(fields, sdf=fields.sdf + known * (distance - self.config.fields.sdf_start))


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors, or none, hold the same."""
    return a is b if a is None or b is None else a.shape == b.shape and torch.equal(a, b)
