"""Memory of a training step at any size, computed without running it: on a laptop, in a minute or two.

    python benchmarks/train_memory.py                                    nuscenes, clip by clip, as it is configured
    python benchmarks/train_memory.py config/nuscenes.yaml history_gradient=false --motion
    python benchmarks/train_memory.py config/ablation/base.yaml --run    beside what torch allocates when it does run

Every operation of the forward and the backward pass is done on tensors that have a shape and no
content (`FakeTensorMode`), and what they would take is added up for as long as they live. How many queries a camera sees,
on which shapes depend, is what six cameras of 70 degrees around the vehicle see. What kernels take for themselves
(workspaces of cuDNN, gaps between blocks) does not count.
"""

import argparse
import os
import sys
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as training does

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from letocc_core import config as configuration
from letocc_core.bench.training import Subject, noise_clip
from letocc_core.compiled import threads
from letocc_core.frame import Clip
from letocc_core.losses.objective import MotionConfig
from letocc_core.model.let_occ_flow import LetOccFlow, ModelConfig
from letocc_core.model.tpv import TPVEncoder, project_anchors
from letocc_core.rendering.draws import Draws
from letocc_core.training import loop as training
from letocc_core.training.config import TrainConfig

GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", type=Path, default=Path("config/nuscenes.yaml"))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--stage", type=int, default=0, help="number of the stage (default: 0; -1: the last)")
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--clips", type=int, default=1, help="clips at once (default: 1)")
    parser.add_argument("--motion", action="store_true", help="with the terms of a motion stage")
    parser.add_argument("--run", action="store_true", help="also run forward and backward pass, on the CPU")
    options = parser.parse_args()
    config = configuration.load(TrainConfig, options.config, options.overrides)
    subject = Subject.of(config, options.stage, torch.device("cpu"))
    if options.motion and subject.stage.motion is None:
        subject = replace(subject, stage=replace(subject.stage, motion=MotionConfig()))
    clip = noise_clip(subject, options.cameras, options.clips)
    height, width = config.input.image_size
    print(f"{options.config}: {options.clips} clips of {options.cameras} x {height} x {width}\n")
    print("| | GiB |\n| --- | ---: |")
    for name, size in compute(subject, clip).items():
        print(f"| {name} | {size / GIB:.2f} |")
    if options.run:
        model = training.build_model(config, subject.device).train()
        objective = training.StageObjective(model, subject.stage, config.history_gradient)
        peak = peak_allocated(lambda: objective(clip, 0, draws_of(clip))["total"].backward()) / GIB
        print(f"| activations and gradients at most, when it runs | {peak:.2f} |")


def draws_of(clip: Clip) -> Draws:
    return Draws(0, torch.arange(len(clip.current.images)))


def peak_allocated(function: Callable[[], object]) -> int:
    """Bytes that torch allocates while `function` runs, at most, above what there was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        function()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(np.cumsum([0, *sizes]).max())


class Memory(TorchDispatchMode):
    """Bytes of all tensors that live, and the most that there were.

    Where the code asks for a number, tensors without content have none: a count is the next of `counts`, in turn, a truth
    is true, a share is 0.
    """

    def __init__(self, counts: list[int]):
        super().__init__()
        self.counts = cycle(counts)
        self.bytes = self.most = 0
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            kind = arguments[0].dtype
            return True if kind == torch.bool else 0.0 if kind.is_floating_point else next(self.counts)
        result = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        self.bytes += storage.nbytes()
        self.most = max(self.most, self.bytes)
        weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, size: int) -> None:
        self.bytes -= size


def seen_queries(config: ModelConfig, clip: Clip) -> Iterator[int]:
    """The most queries of each plane that a camera sees."""
    encoder = TPVEncoder(config.encoder, config.grid.coarser(2), config.dim, len(config.backbone.widths))
    frame = clip.current
    for plane in encoder.planes:
        anchors = getattr(encoder, f"anchors_{plane}")
        size = frame.images.shape[-2:]
        seen = project_anchors(anchors, frame.K, frame.T_ego_cam, frame.camera_valid, size)[1]
        yield int(seen.sum(-1).max())


def clip_size(clip: Clip) -> int:
    """Bytes of a clip's images, poses and cues."""
    frames = {id(frame): frame for frame in (clip.current, *clip.history, *clip.sources, *clip.cues)}
    values = (getattr(frame, field.name) for frame in frames.values() for field in fields(frame))
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def compute(subject: Subject, clip: Clip) -> dict[str, int]:
    """Bytes that each part adds to what is kept until the backward pass, and the most at once."""
    config = subject.config
    memory = Memory(list(seen_queries(config.model, clip)))
    found: dict[str, int] = defaultdict(int)

    def added(name: str, function: Callable) -> Callable:
        def counted(*arguments, **named):
            before = memory.bytes
            result = function(*arguments, **named)
            found[name] += memory.bytes - before
            return result

        return counted

    memory.bytes = found["the clip"] = clip_size(clip)
    with threads.plain_passes(), FakeTensorMode(allow_non_fake_inputs=True), memory:
        model = added("weights", LetOccFlow)(config.model).train()
        if config.precision == "bfloat16":
            model.multiply_in_bfloat16("cpu")
        moments = added("AdamW's state", lambda: [torch.zeros_like(p) for p in model.parameters() for _ in range(2)])()
        now, past = (added(f"kept of the images {when}", model.encode) for when in ("now", "of the past"))
        model.encode = lambda frame: now(frame) if frame is clip.current else past(frame)
        for part in ("temporal", "refinement", "fields"):
            getattr(model, part).forward = added(f"kept of the {part}", getattr(model, part).forward)
        training.stage_losses = added("kept of rendering and losses", training.stage_losses)
        objective = training.StageObjective(model, subject.stage, config.history_gradient)
        total = objective(clip, 0, draws_of(clip))["total"]
        found["all of this, after the forward pass"] = memory.bytes
        total.backward()
        found["at most in a step"] = memory.most
        del moments
    return found


if __name__ == "__main__":
    main()
