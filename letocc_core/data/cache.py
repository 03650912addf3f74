"""Files that are computed once: written in one step, over several processes, and only those that are missing."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from tqdm import tqdm

from letocc_core.processes import in_order


def save(path: Path, arrays: Mapping[str, np.ndarray], compressed: bool = False) -> None:
    """Write an .npz in one step, so that a killed writer leaves nothing half-written under that name."""
    temporary = path.with_name(f".{path.stem}_{os.getpid()}.npz")
    write: Callable[..., None] = np.savez_compressed if compressed else np.savez
    write(temporary, **arrays)
    temporary.replace(path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one step, as `save` does."""
    temporary = path.with_name(f".{path.stem}_{os.getpid()}{path.suffix}")
    temporary.write_bytes(data)
    temporary.replace(path)


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name at the end: a kill on the way leaves nothing under that name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.", suffix=".tmp"))
    temporary.chmod(0o755)
    try:
        yield temporary
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_missing(
    what: str,
    unit: str,
    write: Callable[..., None],
    jobs: Mapping[Path, tuple],
    workers: int,
    shard: tuple[int, int] = (1, 1),
) -> int:
    """Let `write(path, *arguments)` make each file of `jobs` that is not there; returns how many it made.

    Prints what the first file says about time and space. An interrupted call goes on with what is missing.

    Args:
        workers: processes; `write` is sent to them by name. 0: this process.
        shard: (i, n) for the i-th of n callers, which share the work.
    """
    mine = dict(list(jobs.items())[shard[0] - 1 :: shard[1]])
    missing = [(path, arguments) for path, arguments in mine.items() if not path.exists()]
    if not missing:
        return 0
    for folder in {path.parent for path, _ in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(mine), initial=len(mine) - len(missing), desc=what, unit=unit, dynamic_ncols=True) as bar:
        bar.refresh()
        for i, seconds in enumerate(in_order(_timed, [(write, *job) for job in missing], workers)):
            if i == 0:
                bar.write(_estimate(what, missing[0][0], len(missing), seconds / max(workers, 1)), file=sys.stderr)
            bar.update()
    return len(missing)


def _timed(write: Callable[..., None], path: Path, arguments: tuple[Any, ...]) -> float:
    start = perf_counter()
    write(path, *arguments)
    return perf_counter() - start


def _estimate(what: str, first: Path, count: int, seconds: float) -> str:
    time, megabytes = timedelta(seconds=round(count * seconds)), count * first.stat().st_size / 1e6
    return f"{what}: {count} files to write, about {time} h and {megabytes:.0f} MB in {first.parent}"
