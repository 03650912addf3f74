"""Geometry that does not learn is computed once a clip, and kept on disk for the rest of a stage that trains motion."""

import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from letocc_core.frame import Clip, Frame
from letocc_core.model.fields import Evidence, Fields

NAMES = ("sdf", "similarity", "known", "columns")


class FrozenGeometry:
    """What a clip's motion is made of, the SDF and the motion branch's evidence: from disk, where they are there.

    Clips are known by their images, cameras and poses, so that one without its past is another. The files are of half
    precision, and what was just computed is rounded likewise: the first time gives what every other does.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def fields(self, clip: Clip, compute: Callable[[Clip], Fields]) -> Fields:
        """Fields of a batched clip, without flow.

        Args:
            compute: the same by the whole network.
        """
        paths = [self.folder / f"{digest}.evidence.safetensors" for digest in _digests(clip)]
        if not all(path.exists() for path in paths):
            with torch.no_grad():
                found = compute(clip)
            for i, path in enumerate(paths):
                _write(path, {name: tensor[i].half() for name, tensor in _kept(found).items()})
        device = str(clip.current.images.device)
        kept = [safetensors.torch.load_file(path, device) for path in paths]
        sdf, *evidence = (torch.stack([k[name] for k in kept]).float() for name in NAMES)
        return Fields(sdf, None, evidence=Evidence(*evidence))


def _kept(fields: Fields) -> dict[str, Tensor]:
    """What is on disk of a batch, by `NAMES`."""
    evidence = fields.evidence
    return dict(zip(NAMES, (fields.sdf, evidence.similarity, evidence.known, evidence.columns), strict=True))


def _digests(clip: Clip) -> list[str]:
    """A name for what the network sees of each clip of a batch."""
    frames = (clip.current, *clip.history)
    batch = range(len(clip.current.stamp))
    return [hashlib.blake2b(b"".join(_bytes(f, b) for f in frames), digest_size=16).hexdigest() for b in batch]


def _bytes(frame: Frame, b: int) -> bytes:
    seen = (frame.stamp, frame.images, frame.camera_valid, frame.K, frame.T_ego_cam, frame.T_world_ego)
    return b"".join(x[b].cpu().contiguous().numpy().tobytes() for x in seen)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Whole or not at all: another process may write the same clip."""
    part = path.with_suffix(f".{uuid.uuid4().hex}")
    safetensors.torch.save_file({name: x.contiguous().cpu() for name, x in tensors.items()}, part)
    part.replace(path)
