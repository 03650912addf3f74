"""Geometry that does not learn is computed once a clip, and kept on disk for the rest of a stage that trains motion."""

import dataclasses
import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from letocc_core.frame import Clip, Frame
from letocc_core.losses.grounded_motion import MotionTargets
from letocc_core.model.fields import Evidence, Fields

EVIDENCE = ("sdf", "similarity", "known", "columns")
TARGETS = tuple(field.name for field in dataclasses.fields(MotionTargets))

Known = tuple[Fields, MotionTargets | None]  # fields without flow, and the motion to learn if that is known beforehand


class FrozenGeometry:
    """What a clip's motion is made of, SDF and evidence, and what it should be: from disk, where they are there.

    Clips are known by their images, cameras and poses, so that one without its past is another. The files are of half
    precision; what was just computed is read from them as well: the first time gives what every other does.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def known(self, clip: Clip, compute: Callable[[Clip], Known]) -> Known:
        """Of a batched clip.

        Args:
            compute: the same by the whole network.
        """
        paths = [self.folder / f"{digest}.safetensors" for digest in _digests(clip)]
        missing = [i for i, path in enumerate(paths) if not path.exists()]
        if missing:
            with torch.no_grad():
                fields, motion = compute(clip.rows(missing))
            for row, i in enumerate(missing):
                _write(paths[i], _tensors(fields, motion, row))
        device = str(clip.current.images.device)
        kept = [{k: _single(x) for k, x in safetensors.torch.load_file(path, device).items()} for path in paths]
        sdf, *evidence = (torch.cat([k[name] for k in kept]) for name in EVIDENCE)
        motion = None
        if all(TARGETS[0] in k for k in kept):
            motion = MotionTargets.stacked([MotionTargets(*(k[name] for name in TARGETS)) for k in kept])
        return Fields(sdf, None, evidence=Evidence(*evidence)), motion


def _tensors(fields: Fields, motion: MotionTargets | None, i: int) -> dict[str, Tensor]:
    """What is on disk of clip i of a batch [1, ...], by name."""
    evidence = fields.evidence
    assert evidence is not None  # the network was asked for motion
    values = (fields.sdf, evidence.similarity, evidence.known, evidence.columns)
    kept = {name: value[i : i + 1] for name, value in zip(EVIDENCE, values, strict=True)}
    if motion is not None:
        teaches = motion.weight[i] > 0
        for name in TARGETS:
            value = getattr(motion, name)[i]
            kept[name] = (value if name == "still" else value[teaches])[None]
    return {name: x.half() if x.is_floating_point() else x for name, x in kept.items()}


def _single(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


def _digests(clip: Clip) -> list[str]:
    """A name for what the network sees of each clip of a batch."""
    frames = (clip.current, *clip.history)
    batch = range(len(clip.current.stamp))
    return [hashlib.blake2b(b"".join(_bytes(f, b) for f in frames), digest_size=16).hexdigest() for b in batch]


def _bytes(frame: Frame, b: int) -> bytes:
    """What is seen of one clip, without the absent cameras at the end that pad it in a batch."""
    valid = frame.camera_valid[b]
    cameras = int(valid.nonzero().max()) + 1 if valid.any() else 0
    of_cameras = (frame.images, frame.camera_valid, frame.K, frame.T_ego_cam)
    seen = (frame.stamp[b], *(x[b, :cameras] for x in of_cameras), frame.T_world_ego[b])
    return b"".join(x.cpu().contiguous().numpy().tobytes() for x in seen)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Whole or not at all: another process may write the same clip."""
    part = path.with_suffix(f".{uuid.uuid4().hex}")
    safetensors.torch.save_file({name: x.contiguous().cpu() for name, x in tensors.items()}, part)
    part.replace(path)
