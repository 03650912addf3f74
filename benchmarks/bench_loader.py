"""How many frames a second one core loads from a data set, by part, and how fast nuScenes' tables open.

python benchmarks/bench_loader.py                                # of a simulated frame of 6 cameras of 900 x 1600
python benchmarks/bench_loader.py --root /data/nuscenes          # the real one
python benchmarks/bench_loader.py --root /data/nuscenes --tables # only open its tables, without a kept index
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core

import cv2
import torch

from letocc_core.data.datasets.drive import DriveFrames
from letocc_core.data.datasets.nuscenes import NuScenes
from letocc_core.data.simulator.export import simulate_dataset
from letocc_core.frame import InputConfig
from letocc_core.stream.preprocess import rectify, to_tensors

FRAMES_A_CLIP = 5  # the current one, two of history, two sources


def seconds(call: Callable[[], object], repeats: int) -> float:
    """CPU time of one call, the fastest of `repeats` after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def open_tables(root: Path) -> None:
    """Time and memory of reading the tables anew."""
    wall, cpu = time.perf_counter(), time.process_time()
    data = NuScenes(root)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{data.tables}: {len(data.scenes)} scenes, {len(data.index.scene)} records of cameras and LiDAR in "
        f"{time.perf_counter() - wall:.1f} s ({time.process_time() - cpu:.1f} s of CPU), peak {peak:.2f} GiB"
    )


def load_frames(root: Path, size: tuple[int, int], repeats: int) -> None:
    """One line a part of loading a frame."""
    data = NuScenes(root)
    drive = data.drive(data.scenes[0])
    store = DriveFrames(drive, InputConfig(image_size=size), True, root)
    raw = drive.frame_set(0)
    fitted = rectify(raw, store.input)
    height, width = raw.images[0].shape[:2]
    print(f"{len(drive.cameras)} cameras of {height} x {width}, to {size[0]} x {size[1]}")
    parts = {
        "read and decode": lambda: drive.frame_set(0),
        "resize and crop": lambda: rectify(raw, store.input),
        "to tensors": lambda: to_tensors(fitted),
        "sweep": lambda: drive.sweep(0),
        "a frame with its sweep": lambda: store.frame(0),
        "a frame of history": lambda: store.frame(0, lidar=False),
    }
    times = {name: seconds(call, repeats) for name, call in parts.items()}
    for name, value in times.items():
        print(f"{name}: {1e3 * value:.1f} ms")
    clip = times["a frame with its sweep"] + (FRAMES_A_CLIP - 1) * times["a frame of history"]
    rate = len(drive.cameras) / times["a frame of history"]
    print(
        f"a core loads {rate:.0f} images, {1 / times['a frame of history']:.2f} frames, {1 / clip:.2f} clips a second"
    )


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a real nuScenes folder (default: a simulated frame)")
    parser.add_argument("--tables", action="store_true", help="only open the tables")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1408), help="px, height and width to load")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if options.tables:
        open_tables(options.root)
    elif options.root is not None:
        load_frames(options.root, tuple(options.size), options.repeats)
    else:
        with tempfile.TemporaryDirectory() as folder:
            simulate_dataset(Path(folder), "nuscenes", seconds=0.01, image_size=(900, 1600), labels=False, workers=0)
            load_frames(Path(folder), tuple(options.size), options.repeats)


if __name__ == "__main__":
    main()
