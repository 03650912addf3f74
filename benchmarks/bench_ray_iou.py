"""How many rays a second RayIoU casts through grids of 200 x 200 x 16 voxels.

    python benchmarks/bench_ray_iou.py --threads 2

The protocol's rays from 8 origins, through the true occupancy of a simulated street, and through an empty grid, where
every ray crosses the whole of it. That the result is the plain traversal's is checked in test/test_metrics.py.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from letocc_core.data.truth import FREE
from letocc_core.evaluation.samples import simulated_street
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics.ray_iou import Rays

NUSCENES = GridSpec((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4), 0.4)


def main() -> None:
    """Print one line a grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--casts", type=int, default=40, help="casts of all rays a grid (default: 40)")
    options = parser.parse_args()
    origins = np.stack([np.linspace(-14, 14, 8), np.zeros(8), np.full(8, 1.8)], axis=1)
    rays = Rays.lidar(origins, NUSCENES)
    (sample,) = simulated_street(9000, "nuscenes", NUSCENES, (32, 56), [1.0])
    grids = {"street": sample.truth.occupancy != FREE, "empty": np.zeros(NUSCENES.shape, bool)}
    rays.cast(grids["empty"])  # compiles
    print(f"{len(rays.origins)} rays through {NUSCENES.shape}, {options.threads} threads")
    for name, occupied in grids.items():
        wall, cpu = measure(lambda occupied=occupied: rays.cast(occupied), options.casts, options.threads)
        count = options.casts * len(rays.origins) / 1e6
        print(f"{name}: {count / wall:.1f} million rays a second, {count / cpu:.1f} per second of one core")


def measure(job: Callable[[], object], times: int, threads: int) -> tuple[float, float]:
    """Wall-clock and CPU seconds of running `job` so many times over threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(job) for _ in range(times)]:
            future.result()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
