"""Seconds, operations and bytes of named parts of a computation; a part's own figures are without those inside of it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

REST = "rest"
Place = tuple[str, Any, str]  # name of a part, then the object and attribute that hold its function


@dataclass
class Parts:
    """Clock and counters; `around` puts functions under names for as long as it is entered."""

    clock: Callable[[], float] = time.perf_counter
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    flops: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    bytes: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _open: list[str] = field(default_factory=lambda: [REST])
    _since: float = 0.0

    @property
    def current(self) -> str:
        return self._open[-1]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs within belongs to this part, less the parts entered meanwhile."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """What is measured: time outside of it counts for nothing, time within but in no part for the rest."""
        self._since = self.clock()
        yield
        self._turn()

    @contextmanager
    def around(self, places: Iterable[Place]) -> Iterator[None]:
        """Functions at these places run as parts."""
        replaced = []
        try:
            for name, holder, attribute in places:
                own = attribute in vars(holder)
                function = getattr(holder, attribute)
                replaced.append((holder, attribute, function if own else None))
                setattr(holder, attribute, self._named(name, function))
            yield
        finally:
            for holder, attribute, function in reversed(replaced):
                if function is None:
                    delattr(holder, attribute)
                else:
                    setattr(holder, attribute, function)

    def _named(self, name: str, function: Callable) -> Callable:
        def call(*arguments, **named):
            with self.part(name):
                return function(*arguments, **named)

        return call

    def _turn(self) -> None:
        now = self.clock()
        self.seconds[self.current] += now - self._since
        self._since = now


def timed_runs(
    parts: Parts, step: Callable[[], object], rounds: int, places: Iterable[Place] = ()
) -> list[dict[str, float]]:
    """Seconds of each part of a step in each round, after one that is not counted."""
    runs = []
    with parts.around(places):
        for _ in range(rounds + 1):
            parts.seconds.clear()
            with parts.whole():
                step()
            runs.append(dict(parts.seconds))
    return runs[1:]


class Work(TorchDispatchMode):
    """Adds up the operations of products and convolutions (a multiply-add is two), and the bytes that operators read and write."""

    def __init__(self, parts: Parts):
        super().__init__()
        self.parts = parts

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        named = named or {}
        packet = function._overloadpacket
        if packet not in flop_registry:
            with self:
                whole = function.decompose(*arguments, **named)
            if whole is not NotImplemented:
                return whole
        result = function(*arguments, **named)
        given = [t for t in tree_leaves((arguments, named)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if not function.is_view:
            self.parts.bytes[self.parts.current] += sum(t.nbytes for t in given + made)
        if packet in flop_registry:
            self.parts.flops[self.parts.current] += flop_registry[packet](*arguments, **named, out_val=result)
        return result


@dataclass(frozen=True)
class Row:
    """One part's share of a run."""

    name: str
    seconds: float  # median over the runs
    flops: float = 0.0
    bytes: float = 0.0


def rows_of(runs: list[dict[str, float]], counted: Parts | None = None) -> list[Row]:
    """Medians over runs, the longest part first, the rest last."""
    names = sorted({name for run in runs for name in run}, key=lambda n: (n == REST, -_median(runs, n)))
    flops, moved = (counted.flops, counted.bytes) if counted else ({}, {})
    return [Row(n, _median(runs, n), flops.get(n, 0.0), moved.get(n, 0.0)) for n in names]


def _median(runs: list[dict[str, float]], name: str) -> float:
    return float(np.median([run.get(name, 0.0) for run in runs]))


def clock_of(threads: int, device: torch.device) -> Callable[[], float]:
    """CPU time on one thread, where others may use the machine as well; else wall time, of a GPU when it has finished."""
    if device.type == "cuda":

        def finished() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return finished
    return time.process_time if threads == 1 else time.perf_counter
