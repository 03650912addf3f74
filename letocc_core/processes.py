"""Work spread over processes, one thread each: more gets done than by one process of many threads. Or over a cluster."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar
from unittest.mock import patch

from letocc_core.errors import ConfigError

# numpy's BLAS, torch and OpenCV read these as they load, before any code of ours runs in the new process
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h

Result = TypeVar("Result")


def require_device(name: str, what: str = "--device") -> None:
    """Raise `ConfigError`, headed by `what` (the option or parameter), if this machine cannot use a device of torch."""
    if name == "cpu":
        return
    import torch

    try:
        device = torch.device(name)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():  # asks without taking memory
            raise RuntimeError(f"torch {torch.__version__} finds {torch.cuda.device_count()} CUDA devices")
        if device.type != "cuda":
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"{what} is '{name}', which this machine cannot use: {str(error).splitlines()[0]}; expected cpu, or cuda with a "
            "GPU and a torch that was built for it"
        ) from error


_gpus_a_task: int | None = None  # of Ray's; None: work is done by processes of this machine


@contextmanager
def on_ray(address: str, workers: int, device: str = "cpu") -> Iterator[None]:
    """Within, `single_threaded` gives tasks of the Ray cluster at `address` instead of processes of this machine.

    Args:
        workers: processes of a cluster that is started here (`local`); any other has its own.
        device: that tasks use: each has a GPU for itself unless it is cpu.

    Raises what `ray_tasks.connected` raises.
    """
    from letocc_core.ray_tasks import connected

    global _gpus_a_task
    with connected(address, workers):
        _gpus_a_task = int(device != "cpu")
        try:
            yield
        finally:
            _gpus_a_task = None


@contextmanager
def single_threaded(
    workers: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[Executor]:
    """A pool of `workers` spawned processes that use one thread each; work not begun when it closes is dropped.

    Within `on_ray`, as many of Ray's processes as it has.

    Args:
        initializer: called as `initializer(*initargs)` in each new process.
    """
    with patch.dict(os.environ, dict.fromkeys(THREADS, "1")):
        pool: Executor
        if _gpus_a_task is None:
            pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer, initargs)
        else:
            from letocc_core.ray_tasks import RayTasks

            inherited = {name: os.environ[name] for name in (*THREADS, "TQDM_DISABLE") if name in os.environ}
            pool = RayTasks(initializer, initargs, _gpus_a_task, inherited)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def in_order(function: Callable[..., Result], calls: Iterable[tuple], workers: int) -> Iterator[Result]:
    """What `function(*call)` returns for each of `calls`, by `workers` processes of one thread each; 0: by this one."""
    if workers == 0:
        yield from (function(*call) for call in calls)
        return
    with single_threaded(workers) as pool:
        yield from (job.result() for job in [pool.submit(function, *call) for call in calls])


def let_waiting_threads_sleep() -> None:
    """Threads of torch that wait for others sleep instead of spinning; to be called before torch is imported.

    They wait thousands of times a step. Where another program has a core, the one that all wait for gets none either.
    `OMP_WAIT_POLICY`, where it is set, counts instead.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def keep_freed_memory() -> None:
    """Let this process reuse large blocks of memory instead of handing each back to the system; glibc only.

    A step of training makes and frees hundreds of blocks of some MiB, and the system clears every page of a new one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
