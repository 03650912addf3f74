"""How many image sets a second the simulator renders, with all truths and as training renders them.

python benchmarks/bench_simulator.py --workers 2
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core

from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.varied.street import open_street
from letocc_core.geometry.grid import GridSpec


def render(seed: int, sets: int, size: tuple[int, int], truth: bool, variety: bool) -> tuple[float, float]:
    """Seconds to build a street and to render `sets` image sets of it, after one to warm up."""
    start = time.perf_counter()
    street = open_street(seed, Rig.load("nuscenes").resized(*size), GridSpec(), variety=variety)
    street.render(0.0, truth=truth)
    built = time.perf_counter()
    for i in range(1, sets + 1):
        street.render(0.05 * i, truth=truth)
    return built - start, time.perf_counter() - built


def main() -> None:
    """Print one line for each kind of rendering."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each (default: 2)")
    parser.add_argument("--sets", type=int, default=20, help="image sets a process (default: 20)")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 224), help="px, height and width")
    parser.add_argument("--variety", action="store_true", help="varied streets, of 5 to 7 cameras")
    options = parser.parse_args()
    print(f"6 cameras of {options.size[0]} x {options.size[1]}, {options.workers} processes, {os.cpu_count()} cores")
    for name, truth in (("all truths", True), ("images and movable mask", False)):
        with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
            settings = (options.sets, tuple(options.size), truth, options.variety)
            jobs = [pool.submit(render, s, *settings) for s in range(options.workers)]
            times = [job.result() for job in jobs]
        rate = sum(options.sets / rendered for _, rendered in times)
        print(f"{name}: {rate:.1f} sets/s; first set of a street {max(built for built, _ in times):.1f} s")


if __name__ == "__main__":
    main()
