"""Spawned processes use one thread each, whatever the caller's environment says; waiting threads and freed memory."""

import os
import subprocess
import sys

import pytest

from letocc_core.processes import THREADS, single_threaded


def threads(_: int) -> tuple[int, int, dict[str, str]]:
    import cv2
    import torch

    return torch.get_num_threads(), cv2.getNumThreads(), {name: os.environ[name] for name in THREADS}


def test_workers_use_one_thread_and_the_caller_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENCV_FOR_THREADS_NUM", raising=False)
    with single_threaded(1) as pool:
        [found] = pool.map(threads, [0])
    assert found == (1, 1, dict.fromkeys(THREADS, "1"))
    assert os.environ["OMP_NUM_THREADS"] == "3" and "OPENCV_FOR_THREADS_NUM" not in os.environ


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_reused():
    """Blocks of 40 MiB, ten times: their pages are asked of the system once."""
    script = """
import resource
import numpy as np
from letocc_core.processes import keep_freed_memory

keep_freed_memory()
np.ones(5 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(5 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2 * 40 * 2**20 / os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="what GNU's OpenMP prints")
@pytest.mark.parametrize(("given", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE")])
def test_threads_of_the_command_sleep_while_they_wait(given: dict[str, str], policy: str):
    """As torch's OpenMP says itself; the user's own setting counts."""
    script = "import sys\nfrom letocc_core.cli import main\ntry: main(['--help'])\nexcept SystemExit: import torch"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | given | {"OMP_DISPLAY_ENV": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr
