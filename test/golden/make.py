"""Makes `definitions.npz`: small random inputs, and what the written definitions give for them.

Plain loops over single numbers in double precision, straight from the formulas, with nothing of this library: slow, and easy
to check by eye. `python test/golden/make.py` writes the file again; a test holds the file to it.
"""

import math
from itertools import pairwise, product
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("definitions.npz")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def silog(predicted, measured, focus: float) -> float:
    """Eigen et al.: sqrt(mean d^2 - focus mean(d)^2), d the difference of logarithms."""
    d = [math.log(p) - math.log(m) for p, m in zip(predicted, measured, strict=True)]
    return math.sqrt(sum(x * x for x in d) / len(d) - focus * (sum(d) / len(d)) ** 2)


def depth_errors(true, predicted) -> list[float]:
    """Seven errors of the pixels whose true depth is between 0.1 and 80 m; predictions are clipped to that."""
    pairs = [(t, min(max(p, 0.1), 80.0)) for t, p in zip(true, predicted, strict=True) if 0.1 < t < 80]
    n = len(pairs)
    return [
        sum(abs(t - p) / t for t, p in pairs) / n,
        sum((t - p) ** 2 / t for t, p in pairs) / n,
        math.sqrt(sum((t - p) ** 2 for t, p in pairs) / n),
        math.sqrt(sum((math.log(t) - math.log(p)) ** 2 for t, p in pairs) / n),
        *(sum(max(t / p, p / t) < 1.25**k for t, p in pairs) / n for k in (1, 2, 3)),
    ]


def neus(sdf, beta: float) -> list[float]:
    """NeuS: alpha = max((S(f_i) - S(f_i+1)) / S(f_i), 0), each weight is alpha times what the ones before let through."""
    weights, left = [], 1.0
    for near, far in pairwise(sdf):
        alpha = max((sigmoid(near / beta) - sigmoid(far / beta)) / sigmoid(near / beta), 0.0)
        weights.append(left * alpha)
        left *= 1 - alpha
    return weights


def bilinear(plane, x: float, y: float) -> np.ndarray:
    """Features [dim] of a map [H, W, dim] at (x, y) in [0, 1] across it, faces included; zero beyond its pixels."""
    height, width, dim = plane.shape
    u, v = x * width - 0.5, y * height - 0.5
    out = np.zeros(dim)
    for i, j in product((math.floor(v), math.floor(v) + 1), (math.floor(u), math.floor(u) + 1)):
        if 0 <= i < height and 0 <= j < width:
            out += (1 - abs(v - i)) * (1 - abs(u - j)) * plane[i, j]
    return out


def attention(levels, places, weights) -> np.ndarray:
    """Deformable attention [Q, heads * dim] over maps [H, W, heads, dim], at places and weights [Q, heads, level, point]."""
    rows = []
    for q in range(places.shape[0]):
        heads = []
        for h in range(places.shape[1]):
            value = np.zeros(levels[0].shape[-1])
            for k, p in product(range(len(levels)), range(places.shape[3])):
                value += weights[q, h, k, p] * bilinear(levels[k][:, :, h], *places[q, h, k, p])
            heads.append(value)
        rows.append(np.concatenate(heads))
    return np.array(rows)


def dssim(a, b) -> np.ndarray:
    """(1 - SSIM) / 2, clipped to [0, 1], of images [h, w] in windows of 3 x 3; borders are mirrored."""
    height, width = a.shape
    out = np.zeros(a.shape)

    def mirrored(i: int, size: int) -> int:
        return -i if i < 0 else 2 * (size - 1) - i if i >= size else i

    for i, j in product(range(height), range(width)):
        around = [(mirrored(i + k, height), mirrored(j + m, width)) for k, m in product((-1, 0, 1), repeat=2)]
        x, y = [a[p] for p in around], [b[p] for p in around]
        mx, my = sum(x) / 9, sum(y) / 9
        vx, vy = sum(v * v for v in x) / 9 - mx * mx, sum(v * v for v in y) / 9 - my * my
        both = sum(v * w for v, w in zip(x, y, strict=True)) / 9 - mx * my
        ssim = (2 * mx * my + 0.01**2) * (2 * both + 0.03**2)
        ssim /= (mx * mx + my * my + 0.01**2) * (vx + vy + 0.03**2)
        out[i, j] = min(max((1 - ssim) / 2, 0), 1)
    return out


def crossing(origin, direction, low) -> tuple[float, float] | None:
    """Where a ray enters and leaves the unit cube with this lower corner; None if it misses it or has it behind."""
    enter, leave = 0.0, math.inf
    for o, d, a in zip(origin, direction, low, strict=True):
        first, second = sorted(((a - o) / d, (a + 1 - o) / d))
        enter, leave = max(enter, first), min(leave, second)
    return (enter, leave) if enter < leave else None


def first_voxel(occupied, origin, direction) -> tuple[float, tuple[int, int, int], bool]:
    """Distance to the exit of the first occupied voxel, the voxel, True; without one those of the last voxel, False."""
    met = {}
    for voxel in product(*map(range, occupied.shape)):
        if (found := crossing(origin, direction, voxel)) is not None:
            met[voxel] = found
    if not met:
        return -1.0, (0, 0, 0), False
    full = [v for v in met if occupied[v]]
    voxel = min(full, key=lambda v: met[v][0]) if full else max(met, key=lambda v: met[v][1])
    return met[voxel][1], voxel, bool(full)


def ray_counts(truth, prediction, size: float) -> list[list[float]]:
    """True, predicted and (at 1, 2, 4 m) matched rays of one class, among the rays that hit something in truth."""
    pairs = [(t, p) for t, p in zip(truth, prediction, strict=True) if t[2]]
    matched = [sum(p[2] and abs(p[0] - t[0]) * size < limit for t, p in pairs) for limit in (1, 2, 4)]
    return [[len(pairs)], [sum(p[2] for _, p in pairs)], matched]


def make() -> dict[str, np.ndarray]:
    """All arrays, by name."""
    rng = np.random.default_rng(2024)
    out: dict[str, np.ndarray] = {
        "beta": np.array([0.05, 0.2, 0.5]),
        "focus": np.array(0.85),
        "voxel_size": np.array(0.7),
    }

    out["measured"] = rng.uniform(1, 60, 40)
    out["predicted"] = out["measured"] * np.exp(rng.normal(0.1, 0.3, 40))
    out["silog"] = np.array(silog(out["predicted"], out["measured"], 0.85))

    out["true_depth"] = np.concatenate([rng.uniform(0.2, 79, 40), [0.05, 0.0, 81.0, 79.0, 0.15]])
    out["depth"] = out["true_depth"] * np.exp(rng.normal(0, 0.4, 45)) + 0.01
    out["depth_errors"] = np.array(depth_errors(out["true_depth"], out["depth"]))

    out["sdf"] = np.cumsum(rng.normal(-0.08, 0.15, (3, 12)), axis=1) + 0.6
    out["weights"] = np.array([neus(f, b) for f, b in zip(out["sdf"], out["beta"], strict=True)])

    levels = [rng.normal(0, 1, (h, w, 2, 3)) for h, w in ((4, 5), (2, 3))]
    out["levels"] = np.array([(4, 5), (2, 3)])
    out["value"] = np.concatenate([x.reshape(-1, 2, 3) for x in levels])
    out["places"] = rng.uniform(-0.1, 1.1, (6, 2, 2, 3, 2))
    shares = rng.uniform(0, 1, (6, 2, 2, 3))
    out["shares"] = shares / shares.sum((2, 3), keepdims=True)
    out["attended"] = attention(levels, out["places"], out["shares"])

    out["image"], out["other"] = (rng.uniform(0, 1, (5, 6)) for _ in range(2))
    out["dssim"] = dssim(out["image"], out["other"])

    for name in ("occupied", "guessed"):
        out[name] = rng.uniform(0, 1, (6, 5, 4)) < 0.15
    out["origins"] = rng.uniform(0.01, 0.99, (60, 3)) * (6, 5, 4)
    ways = rng.uniform(0.5, 5.5, (60, 3)) * (1, 0.8, 0.6) - out["origins"]
    out["directions"] = ways / np.linalg.norm(ways, axis=1, keepdims=True)
    rays = list(zip(out["origins"], out["directions"], strict=True))
    truth, guess = ([first_voxel(out[name], *ray) for ray in rays] for name in ("occupied", "guessed"))
    for name, found in (("occupied", truth), ("guessed", guess)):
        for i, part in enumerate(("distance", "voxel", "hit")):
            out[f"{name}_{part}"] = np.array([hit[i] for hit in found])
    true, predicted, matched = ray_counts(truth, guess, 0.7)
    out |= {"rays_true": np.array(true), "rays_predicted": np.array(predicted), "rays_matched": np.array(matched)}
    return out


if __name__ == "__main__":
    np.savez_compressed(FILE, **make())
    print(FILE)
