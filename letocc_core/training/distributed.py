"""One run over several processes, GPUs and machines, as `torchrun` or `accelerate launch` start them."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import TypeVar

import torch
from torch import nn

from letocc_core.errors import ConfigError

LONGEST_WAIT = timedelta(days=2)  # of the others, while one process of each machine prepares the data

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """The processes of a run, and which one this is."""

    device: torch.device
    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine

    @property
    def leads(self) -> bool:
        """This process writes the files and prints; the others only compute."""
        return self.rank == 0

    def from_leader(self, value: Callable[[], Value]) -> Value:
        """The leader's value, in every process; the others do not compute it."""
        if self.size == 1:
            return value()
        box: list = [value() if self.leads else None]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Means over the processes, for each name over those that have it."""
        if self.size == 1:
            return dict(values)
        every: list = [None] * self.size
        torch.distributed.all_gather_object(every, dict(values))
        found = {name: [v[name] for v in every if name in v] for v in every for name in v}
        return {name: sum(numbers) / len(numbers) for name, numbers in found.items()}

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """One process of each machine goes first, so that what it writes to disk is there for the others."""
        if self.size > 1 and self.local_rank > 0:
            torch.distributed.barrier()
        yield
        if self.size > 1 and self.local_rank == 0:
            torch.distributed.barrier()

    def parallel(self, module: nn.Module) -> nn.Module:
        """`module` with gradients that are averaged over the processes as the backward pass yields them."""
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True, gradient_as_bucket_view=True)

    @staticmethod
    def apart(module: nn.Module) -> AbstractContextManager[None]:
        """While it lasts, the gradients of a `parallel` module add up in each process."""
        return module.no_sync() if isinstance(module, nn.parallel.DistributedDataParallel) else nullcontext()


@contextmanager
def joined(device: str) -> Iterator[World]:
    """This process's place in the run that a launcher's environment variables describe; without these, a world of one.

    Args:
        device: `cpu`, or `cuda`: each process then takes the GPU with its number on the machine.

    Raises:
        ConfigError: several processes were told to share one GPU.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(torch.device(device))
        return
    rank, local_rank = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK"))
    own = torch.device(device)
    if own.type == "cuda":
        if own.index is not None:
            raise ConfigError(
                f"--device {device}: {size} processes on one GPU; give --device cuda, so that each has its own"
            )
        own = torch.device("cuda", local_rank)
        torch.cuda.set_device(own)
    # Imported after the group is there, as DistributedDataParallel would, its default arguments keep the group alive, and
    # a thread of gloo that frees a tensor while the interpreter ends aborts the process.
    import_module("torch.distributed.nn")
    torch.distributed.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    try:
        yield World(own, rank, size, local_rank)
    finally:
        torch.distributed.destroy_process_group()
