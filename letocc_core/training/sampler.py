"""Which clips a step of training takes, and which of them this process: functions of the seed and the step alone."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from letocc_core.errors import ConfigError


def mix(*numbers: int) -> int:
    """One 63-bit seed from several small numbers."""
    value = 0
    for number in numbers:
        value = (value * 6364136223846793005 + number * 1442695040888963407 + 1) % 2**63
    return value


def shares(batch_size: int, rank: int = 0, processes: int = 1, at_once: int | None = None) -> list[range]:
    """Positions in the whole batch of the clips of one process, in parts that it takes one after the other.

    Args:
        at_once: clips of a part; None: all of the process's.

    Raises:
        ConfigError: the batch cannot be shared out evenly.
    """
    own, rest = divmod(batch_size, processes)
    part = own if at_once is None else at_once
    if rest or part < 1 or own % part:
        raise ConfigError(
            f"batch_size {batch_size} cannot be shared out evenly among {processes} processes"
            + (f" in parts of {at_once}" if at_once is not None else "")
            + "; give a multiple"
        )
    return [range(first, first + part) for first in range(rank * own, (rank + 1) * own, part)]


class StepSampler(Sampler[list[int]]):
    """Indices of clips, part after part and step after step, shuffled epoch by epoch and starting at any step."""

    def __init__(self, size: int, batch_size: int, seed: int, start: int, stop: int, parts: Sequence[range] = ()):
        """
        Args:
            size: clips of the data set.
            start, stop: steps.
            parts: positions in the batch, as `shares` gives them; none: the whole batch at once.

        Raises:
            ConfigError: there is no clip.
        """
        if size < 1:
            raise ConfigError("data: the data set holds no clip; see the counts that its loader reported")
        self.size, self.batch_size, self.seed, self.start, self.stop = size, batch_size, seed, start, stop
        self.parts = list(parts) or [range(batch_size)]

    def __len__(self) -> int:
        return (self.stop - self.start) * len(self.parts)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, []
        for step in range(self.start, self.stop):
            for part in self.parts:
                indices = []
                for position in (step * self.batch_size + p for p in part):
                    if position // self.size != epoch:
                        epoch = position // self.size
                        generator = torch.Generator().manual_seed(mix(self.seed, 7, epoch))
                        order = torch.randperm(self.size, generator=generator).tolist()
                    indices.append(order[position % self.size])
                yield indices
