"""Which voxels are occupied: IoU, precision and recall of regions, whether probabilities are right, and by class."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, UInt8

from letocc_core.data.truth import CLASS_NAMES, FREE, GROUND_CLASSES, Truth
from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.ray_casting import count_crossings

OBJECT_HEIGHT = 0.4  # m above base_link's ground: a LiDAR return higher than this counts as an object
CROSSINGS = 4  # LiDAR rays through a voxel in which none ends, from which on it is known to be free
RINGS = (0.0, 4.0, 8.0, 12.0, 16.0, 20.0, math.inf)  # m, horizontal distances from base_link
NEAR = 12.0  # m, end of the region `12m`
RING_NAMES = tuple(f"{a:g}-{b:g}m" if b < math.inf else f"{a:g}m+" for a, b in pairwise(RINGS))
REGIONS = ("mean", "all", "standing", f"{NEAR:g}m", "seen")
THRESHOLDS = np.append(np.arange(1, 100) / 100, [0.995, 0.999])  # that are tried
TENTHS = tuple(f"{10 * i}-{10 * i + 10}%" for i in range(10))


@dataclass(frozen=True)
class Shares:
    """Parts of wholes by name, such as one group of the results format; add those of all frames."""

    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # part, whole

    def __add__(self, other: "Shares") -> "Shares":
        names = [*self.counts, *(name for name in other.counts if name not in self.counts)]
        mine, theirs = ([of.counts.get(name, (0, 0)) for name in names] for of in (self, other))
        return Shares({n: (a[0] + b[0], a[1] + b[1]) for n, a, b in zip(names, mine, theirs, strict=True)})

    def summary(self) -> dict[str, float]:
        """Part over whole by name; without those of nothing."""
        return {name: part / whole for name, (part, whole) in self.counts.items() if whole}


@dataclass(frozen=True, eq=False)
class VoxelTruth:
    """What is known of the voxels of one frame."""

    occupied: Bool[np.ndarray, "X Y Z"]
    known: Bool[np.ndarray, "X Y Z"]  # some sensor's ray reaches the voxel: empty space, or the surface
    ground: Bool[np.ndarray, "X Y Z"]  # the ground itself, left out where only what stands on it counts
    everywhere: bool  # `occupied` holds where no ray reaches, too

    @classmethod
    def from_grid(cls, truth: Truth) -> "VoxelTruth":
        """Of a simulator's truth."""
        ground = np.isin(truth.occupancy, [CLASS_NAMES.index(c) for c in GROUND_CLASSES])
        return cls(truth.occupancy != FREE, truth.visible, ground, True)

    @classmethod
    def from_sweep(
        cls,
        points: Float[np.ndarray, "P 3"],
        origin: Float[np.ndarray, "3"],
        grid: GridSpec,
        observed: Bool[np.ndarray, "X Y Z"],
    ) -> "VoxelTruth":
        """Of a LiDAR sweep (m, ego axes; NaN rows are left out), in the voxels that cameras look at.

        A voxel in which a return lies is occupied; one that at least `CROSSINGS` rays cross and none ends in is free;
        nothing is known of the others. A ray that ends below `OBJECT_HEIGHT`, which is on the ground, counts only where it
        is higher than its end by a voxel: the ground that it meets is in what it grazes before. Ground: voxels that end
        below `OBJECT_HEIGHT`, and those that reach above it but hold returns below it alone.
        """
        points = points[np.isfinite(points).all(1)].astype(np.float64)
        occupied, high = grid.holding(points), grid.holding(points[points[:, 2] > OBJECT_HEIGHT])
        fall = np.maximum(origin[2] - points[:, 2], 1e-6)
        clear = np.where(
            points[:, 2] > OBJECT_HEIGHT, 1.0, np.clip(1 - grid.voxel_size / fall, 0, 1)
        )  # share of the way
        crossed = count_crossings(grid, origin, origin + clear[:, None] * (points - origin))
        top = grid.lower[2] + (np.arange(grid.shape[2]) + 1) * grid.voxel_size
        ground = (top <= OBJECT_HEIGHT + 1e-6) | (occupied & ~high)
        return cls(occupied, (occupied | (crossed >= CROSSINGS)) & observed, ground, False)

    def regions(
        self, grid: GridSpec, seen: Bool[np.ndarray, "X Y Z"] | None = None
    ) -> dict[str, Bool[np.ndarray, "X Y Z"]]:
        """The voxels that count, by the name of `REGIONS` and `RING_NAMES`; `seen`: those that an answer says are."""
        x, y, _ = grid.axes()
        distance = np.hypot(x.numpy()[:, None, None], y.numpy()[None, :, None])
        out = {"mean": self.known, "standing": self.known & ~self.ground, f"{NEAR:g}m": self.known & (distance < NEAR)}
        if self.everywhere:
            out["all"] = np.ones(grid.shape, bool)
        if seen is not None:
            out["seen"] = seen if self.everywhere else seen & self.known
        for name, (begin, end) in zip(RING_NAMES, pairwise(RINGS), strict=True):
            out[name] = self.known & (distance >= begin) & (distance < end)
        return out


def score_occupancy(
    truth: VoxelTruth,
    predicted: Bool[np.ndarray, "X Y Z"],
    grid: GridSpec,
    seen: Bool[np.ndarray, "X Y Z"] | None = None,
) -> dict[str, Shares]:
    """`iou`, `precision` and `recall` of one frame by region, and each `_by_distance`."""
    kinds = ("iou", "precision", "recall")
    groups: dict[str, dict[str, tuple[int, int]]] = {f"{k}{end}": {} for end in ("", "_by_distance") for k in kinds}
    kind = truth.occupied + 2 * predicted.astype(np.uint8)
    for name, region in truth.regions(grid, seen).items():
        _, missed, false, both = np.bincount(kind[region], minlength=4).tolist()
        end = "_by_distance" if name in RING_NAMES else ""
        groups[f"iou{end}"][name] = both, both + missed + false
        groups[f"precision{end}"][name] = both, both + false
        groups[f"recall{end}"][name] = both, both + missed
    return {group: Shares(counts) for group, counts in groups.items()}


def score_sight(
    truth: VoxelTruth, seen: Bool[np.ndarray, "X Y Z"], observed: Bool[np.ndarray, "X Y Z"]
) -> dict[str, Shares]:
    """`sight` of one frame: whether a ray reaches in truth what an answer says is seen, among what cameras look at.

    `precision`: share of what is said to be seen that is reached; `recall`: share of what is reached that is said to be
    seen; `share`: of the voxels that cameras look at, those said to be seen.
    """
    reached, said = truth.known & observed, seen & observed
    both, of_said, of_reached, of_all = (int(v.sum()) for v in (reached & said, said, reached, observed))
    return {"sight": Shares({"precision": (both, of_said), "recall": (both, of_reached), "share": (of_said, of_all)})}


@dataclass(frozen=True, eq=False)
class ProbabilityCounts:
    """Known voxels by the probability that was given to them: what another threshold would give, and whether it is right."""

    voxels: Float[np.ndarray, "B"]  # by the number of `THRESHOLDS` that the probability exceeds
    occupied: Float[np.ndarray, "B"]  # those of them that are
    probability: Float[np.ndarray, "B"]  # their probabilities, summed
    missed: int = 0  # occupied ones that no camera looks at: free at any threshold

    @classmethod
    def none(cls) -> "ProbabilityCounts":
        """Of no voxel."""
        return cls(*np.zeros((3, len(THRESHOLDS) + 1)))

    @classmethod
    def of(
        cls,
        truth: VoxelTruth,
        probability: Float[np.ndarray, "X Y Z"],
        observed: Bool[np.ndarray, "X Y Z"],
    ) -> "ProbabilityCounts":
        """Counts of one frame; `observed`: voxels that cameras look at."""
        counted = truth.known & observed
        p, occupied = probability[counted], truth.occupied[counted]
        bins = np.searchsorted(THRESHOLDS, p)

        def count(weights: np.ndarray | None) -> np.ndarray:
            return np.bincount(bins, weights, minlength=len(THRESHOLDS) + 1).astype(np.float64)

        missed = int(np.count_nonzero(truth.occupied & truth.known & ~observed))
        return cls(count(None), count(occupied), count(p), missed)

    def __add__(self, other: "ProbabilityCounts") -> "ProbabilityCounts":
        return ProbabilityCounts(
            self.voxels + other.voxels,
            self.occupied + other.occupied,
            self.probability + other.probability,
            self.missed + other.missed,
        )

    def at_thresholds(self) -> dict[str, Float[np.ndarray, "T"]]:
        """`iou`, `precision` and `recall` among the known voxels, at each of `THRESHOLDS`; NaN where undefined."""
        predicted, both = (np.cumsum(values[::-1])[::-1][1:] for values in (self.voxels, self.occupied))
        true = self.occupied.sum() + self.missed
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"iou": both / (true + predicted - both), "precision": both / predicted, "recall": both / true}

    def best(self) -> tuple[float, float] | None:
        """The threshold of the highest IoU, and that IoU; None where nothing is occupied."""
        iou = self.at_thresholds()["iou"]
        if not (iou > 0).any():
            return None
        best = int(np.nanargmax(iou))
        return float(THRESHOLDS[best]), float(iou[best])

    def calibration(self) -> Float[np.ndarray, "10 3"]:
        """By tenth of probability: voxels, their mean probability, share of them that is occupied; NaN for no voxel."""
        tenth = np.minimum(np.searchsorted(np.arange(1, 10) / 10, np.append(THRESHOLDS, 1.0)), 9)
        voxels, occupied, probability = (
            np.bincount(tenth, values, minlength=10) for values in (self.voxels, self.occupied, self.probability)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([voxels, probability / voxels, occupied / voxels], axis=1)

    def tables(self) -> dict[str, list[list[str]]]:
        """Cells by heading: what each of some thresholds and the best one give, and whether probabilities are right."""
        at, best = self.at_thresholds(), self.best()
        rows = [(i, t) for i, t in enumerate(THRESHOLDS) if i % 5 == 4 or i >= 99 or (best and t == best[0])]
        scan = [
            [f"{t:g}{' (best)' if best and t == best[0] else ''}", *(f"{at[k][i]:.3f}" for k in at)] for i, t in rows
        ]
        calibration = [
            [name, f"{voxels:.0f}", f"{mean:.3f}", f"{share:.3f}"]
            for name, (voxels, mean, share) in zip(TENTHS, self.calibration(), strict=True)
        ]
        return {
            "Known voxels, by the threshold of occupancy": [["threshold", *at], *scan],
            "Known voxels that cameras look at, by what is said": [
                ["said", "voxels", "mean", "occupied"],
                *calibration,
            ],
        }

    def summary(self) -> dict[str, float]:
        """`best_threshold`, `best_iou`, `calibration_error`, and by tenth the share that is occupied; without undefined ones.

        The error is the mean over voxels of the difference between a tenth's mean probability and its occupied share.
        """
        out: dict[str, float] = {}
        if (best := self.best()) is not None:
            out["best_threshold"], out["best_iou"] = best
        voxels, mean, share = self.calibration().T
        if voxels.any():
            out["calibration_error"] = float(np.nansum(np.abs(mean - share) * voxels) / voxels.sum())
        return out | {name: float(s) for name, s in zip(TENTHS, share, strict=True) if not np.isnan(s)}


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """Voxels of all frames by class, occupied as a whole first; IoU, precision and recall from their sums.

    SelfOcc's figures: IoU, precision and recall of occupied against free; mIoU, the mean over classes (free excluded) of
    TP / (TP + FP + FN). A class that is neither in truth nor predicted is left out of that mean.
    """

    true: Float[np.ndarray, "_"] = field(default_factory=lambda: np.zeros(1))
    predicted: Float[np.ndarray, "_"] = field(default_factory=lambda: np.zeros(1))
    both: Float[np.ndarray, "_"] = field(default_factory=lambda: np.zeros(1))

    @classmethod
    def of(
        cls,
        true: UInt8[np.ndarray, "X Y Z"],
        predicted: UInt8[np.ndarray, "X Y Z"],
        counted: Bool[np.ndarray, "X Y Z"],
        free: int,
        classes: int = 0,
    ) -> "LabelCounts":
        """Counts of one frame at the `counted` voxels.

        Args:
            true, predicted: labels; `free` is empty, whatever else is occupied.
            classes: labels 0 to `classes` - 1 are counted one by one besides; 0: none of them.
        """
        t, p = true[counted], predicted[counted]

        def counts(values: np.ndarray) -> np.ndarray:
            return np.array([values.size, *np.bincount(values, minlength=256)[:classes]], np.float64)

        occupied = np.count_nonzero((t != free) & (p != free))
        matched = counts(t[(t == p) & (t != free)])
        matched[0] = occupied
        return cls(counts(t[t != free]), counts(p[p != free]), matched)

    def __add__(self, other: "LabelCounts") -> "LabelCounts":
        return LabelCounts(self.true + other.true, self.predicted + other.predicted, self.both + other.both)

    def per_class(self) -> Float[np.ndarray, "C"]:
        """IoU of each class; NaN for one that is neither in truth nor predicted."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.both / (self.true + self.predicted - self.both))[1:]

    def summary(self) -> dict[str, float]:
        """`iou`, `precision`, `recall` of what is occupied, `miou` where classes were counted; without undefined ones."""
        both, true, predicted = self.both[0], self.true[0], self.predicted[0]
        values = {
            "iou": both / (true + predicted - both) if true + predicted else None,
            "precision": both / predicted if predicted else None,
            "recall": both / true if true else None,
        }
        ious = self.per_class()
        if not np.isnan(ious).all():
            values["miou"] = np.nanmean(ious)
        return {k: float(v) for k, v in values.items() if v is not None}
