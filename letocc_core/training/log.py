"""What a training run writes as it goes: losses, curves, a progress bar, and what its steps took."""

import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from letocc_core.frame import Clip
from letocc_core.training.config import StageConfig
from letocc_core.training.distributed import World


class StageLog:
    """What the leading process writes of a stage as it goes: losses, curves, a bar."""

    def __init__(self, folder: Path, stage: StageConfig, step: int):
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        self.folder, self.stage = folder, stage
        self.losses = (folder / "losses.jsonl").open("a", encoding="utf-8")
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self.bar = tqdm(total=stage.steps, initial=step, unit="step", desc=stage.name, dynamic_ncols=True)

    def write(self, step: int, losses: dict[str, float], waiting_share: float) -> None:
        self.losses.write(json.dumps({"stage": self.stage.name, "step": step, **losses}) + "\n")
        self.losses.flush()
        for term, value in {**losses, "waiting_for_data": waiting_share}.items():
            self.writer.add_scalar(f"{self.stage.name}/{term}", value, step)
        self.bar.update()
        self.bar.set_postfix({k: f"{v:.3f}" for k, v in losses.items() if k != "learning_rate"}, refresh=False)

    def close(self, clock: "Clock", world: World) -> None:
        """Also print what the stage took, and add it to `stages.jsonl`."""
        for opened in (self.losses, self.writer, self.bar):
            opened.close()
        took = {
            "stage": self.stage.name,
            "processes": world.size,
            "seconds_per_step": round(clock.seconds_per_step, 4),
            "waiting_for_data": round(clock.waiting_share, 4),
            "peak_memory_gib": round(peak_memory(world.device), 3),
        }
        with (self.folder / "stages.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(took) + "\n")
        pace = f"{clock.seconds_per_step:.3f} s a step, of which {clock.waiting_share:.1%} waiting for data"
        pace = pace if clock.steps > 0 else "too few steps to time"
        print(f"{self.stage.name}: {pace}; peak memory {took['peak_memory_gib']:.2f} GiB", file=sys.stderr)


class Clock:
    """Time of the steps of a stage, and how much of it was spent waiting for data.

    The first step is left out: it starts the loader's processes.
    """

    def __init__(self):
        self.steps, self.seconds, self.waited = -1, 0.0, 0.0
        self._waited, self._start = 0.0, time.perf_counter()

    def timed(self, loader: Iterable[Clip]) -> Iterator[Clip]:
        """The loader's batches; the time until each is there counts as waiting."""
        batches = iter(loader)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def step_done(self) -> None:
        now = time.perf_counter()
        if self.steps >= 0:
            self.seconds += now - self._start
            self.waited += self._waited
        self.steps += 1
        self._waited, self._start = 0.0, now

    @property
    def seconds_per_step(self) -> float:
        return self.seconds / max(self.steps, 1)

    @property
    def waiting_share(self) -> float:
        return self.waited / self.seconds if self.seconds else 0.0


def peak_memory(device: torch.device) -> float:
    """GiB: the most that tensors took on the GPU, or that this process had in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
