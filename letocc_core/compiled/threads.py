"""When the compiled loops serve, and how many threads share one."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

FAST = {"contract", "reassoc", "nsz", "arcp"}  # sums in any order; NaN and infinity stay what they are


_plain = False


@contextmanager
def plain_passes() -> Iterator[None]:
    """Within, PyTorch's own passes serve everywhere: as reference, and to compare what they cost."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def serves(*tensors: Tensor) -> bool:
    """Whether the compiled loops can take these tensors: float32 on the CPU, and nobody records the operations."""
    return not recorded(*tensors) and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def recorded(*tensors: Tensor) -> bool:
    """Whether PyTorch's own operations are wanted of these tensors: they are recorded, mapped, or asked for by `plain_passes`."""
    if _plain or torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return True
    return any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors)


def exporting() -> bool:
    """Whether a graph for another engine is being recorded."""
    return getattr(torch.compiler, "is_exporting", lambda: False)()  # torch from 2.7 on can tell


def flat(tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor in C order, as one row; a copy only if they do not lie like this."""
    return tensor.detach().reshape(-1).numpy()


def flags(masks: Tensor | None) -> np.ndarray:
    """The flags of a tensor as `flat` gives numbers; none where there is no tensor."""
    return np.zeros(0, np.bool_) if masks is None else flat(masks)


def shared(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    """Call `kernel(first, last, *arguments)` for parts of range(count), by as many threads as torch has."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        kernel(0, count, *arguments)
        return
    ends = [count * i // threads for i in range(threads + 1)]
    parts = [_pool(os.getpid()).submit(kernel, *part, *arguments) for part in pairwise(ends[1:])]
    kernel(0, ends[1], *arguments)
    for part in parts:
        part.result()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process; one that was forked makes its own."""
    return ThreadPoolExecutor(os.cpu_count(), "letocc")
