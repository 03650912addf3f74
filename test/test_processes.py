"""Spawned processes use one thread each, whatever the caller's environment says."""

import os

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
