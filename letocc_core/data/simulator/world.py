"""Seeded streets: a road with kerbs, what stands along it, traffic in its lanes, and how the ego vehicle drives."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from letocc_core.data.simulator import assets
from letocc_core.data.simulator.assets import Asset, Part
from letocc_core.data.simulator.path import CentreLine
from letocc_core.data.simulator.solids import Solid
from letocc_core.data.truth import CLASS_NAMES

LENGTH = 420.0  # m of street; the ego vehicle starts in the middle
ROAD = 6.0  # m, half its width: two lanes, cyclists, parked vehicles
PAVEMENT = 9.0  # m, to its outer edge
KERB = 0.12  # m, height of the pavement
LANE, CYCLE, PARKED, WALK = 1.75, 3.6, 5.0, 7.5  # m, |d| of lane centres, cyclists, parked vehicles, pedestrians
TIME_STEP, LONGEST = 0.02, 40.0  # s, of the ego vehicle's motion
_GROUND = np.array([CLASS_NAMES.index(name) for name in ("road", "kerb", "ground")], np.uint8)


@dataclass(frozen=True, eq=False)
class Placed:
    """A static thing."""

    asset: Asset
    T_world: Float[np.ndarray, "4 4"]


@dataclass(frozen=True, eq=False)
class Actor:
    """A moving thing: where it is along the street at a time, at a fixed distance from the centre line."""

    asset: Asset
    along: Callable[[float], float]  # s (m) at time t (s)
    d: float  # m
    reverse: bool  # drives against the direction of the centre line
    z: float = 0.0  # m, pavement or road

    def pose(self, line: CentreLine, t: float) -> Float[np.ndarray, "4 4"]:
        T = line.pose(self.along(t), self.d, self.reverse)
        T[2, 3] = self.z
        return T


class World:
    """One street; everything follows from the seed."""

    def __init__(self, seed: int):
        rng = np.random.default_rng([seed, 1])
        self.line = CentreLine.random(rng, LENGTH)
        self.ego_speed = _speeds(rng)
        self._travelled = np.concatenate([[0.0], np.cumsum(self.ego_speed) * TIME_STEP])
        self.light = _unit(np.array([*rng.uniform(-1, 1, 2), rng.uniform(0.6, 1.5)]))
        self.brightness = rng.uniform(0.75, 1.1)
        self.ground_colour = np.array([rng.uniform(0.3, 0.5), rng.uniform(0.35, 0.5), rng.uniform(0.2, 0.35)])
        self.statics = [*self._roadside(rng), *self._parked(rng)]
        self.actors = [*self._traffic(rng), *self._pedestrians(rng)]

    def ego_along(self, t: float) -> float:
        """s (m) of the ego vehicle."""
        times = np.arange(len(self._travelled)) * TIME_STEP
        return self.line.length / 2 + float(np.interp(t + 2.0, times, self._travelled)) - self._start

    def T_world_ego(self, t: float) -> Float[np.ndarray, "4 4"]:
        """base_link, on the road in the right-hand lane."""
        return self.line.pose(self.ego_along(t), -LANE)

    def ground(self, points: Float[np.ndarray, "n 2"]) -> tuple[UInt8[np.ndarray, "n"], Float[np.ndarray, "2 n"]]:
        """Class of the ground at world points (m), and its height: that of the land, and of a kerb above it.

        In these streets all counts as flat.
        """
        distance = self.line.distance(points)
        kind = np.select([distance < ROAD, distance < PAVEMENT], [0, 1], 2)
        return _GROUND[kind], np.zeros((2, len(points)))

    @property
    def _start(self) -> float:
        return float(self._travelled[int(2.0 / TIME_STEP)])  # time 0 is two seconds into the table

    def _roadside(self, rng: np.random.Generator) -> list[Placed]:
        """Buildings, trees, hedges, poles and signs on both sides, where the street leaves room for them."""
        out = []
        setback, gap = rng.uniform(0.5, 8), rng.uniform(0.5, 10)
        greenery, clutter = rng.uniform(5, 25), rng.uniform(8, 25)
        for side in (-1, 1):
            s = 5.0
            while s < LENGTH - 5:
                house = assets.building(rng)
                length, depth, _ = house.parts[0].size
                d = PAVEMENT + setback + depth / 2 + rng.uniform(0, 2)
                out += self._fitting(house, s + length / 2, side * d, PAVEMENT, side < 0)
                s += length + rng.exponential(gap) + 0.5
            for make, spacing, near, far in (
                (assets.tree, greenery, 8.4, 11.0),
                (assets.hedge, greenery * 1.5, 9.3, 11.0),
                (assets.pole, clutter, 6.5, 6.8),
                (assets.sign, clutter, 6.5, 6.9),
            ):
                s = rng.uniform(0, spacing)
                while s < LENGTH:
                    out += self._fitting(make(rng), s, side * rng.uniform(near, far), ROAD, False)
                    s += rng.uniform(0.5, 1.6) * spacing
        return out

    def _parked(self, rng: np.random.Generator) -> list[Placed]:
        out = []
        density = rng.uniform(0.1, 0.75)
        for side in (-1, 1):
            s = 4.0
            while s < LENGTH - 6:
                if rng.random() < density:
                    vehicle = assets.lorry(rng) if rng.random() < 0.06 else assets.car(rng)
                    length = 2 * vehicle.radius
                    d = side * (PARKED + rng.uniform(-0.1, 0.1) - (0.4 if vehicle.label == "lorry" else 0))
                    out += self._fitting(vehicle, s + length / 2, d, 3.4, side > 0)
                    s += length + rng.uniform(0.5, 2)
                else:
                    s += rng.uniform(3, 12)
        return out

    def _fitting(self, asset: Asset, s: float, d: float, clear: float, reverse: bool) -> list[Placed]:
        """The thing at (s, d), unless a bend of the street brings it nearer than `clear` to the centre line."""
        T = self.line.pose(s, d, reverse)
        corners = np.array([[x, y, 0, 1] for p in asset.parts for x, y in _footprint(p)]) @ T.T
        if self.line.distance(corners[:, :2]).min() < clear:
            return []
        return [Placed(asset, T)]

    def _traffic(self, rng: np.random.Generator) -> list[Actor]:
        out = []
        for behind in (False, True):  # the ego vehicle's own lane: it keeps its distance
            if rng.random() < 0.7:
                gap = rng.uniform(13, 26) * (-1 if behind else 1)
                sway, phase = rng.uniform(0, 2.5), rng.uniform(0, 6)
                along = lambda t, g=gap, a=sway, p=phase: self.ego_along(t) + g + a * np.sin(0.4 * t + p)  # noqa: E731
                out.append(Actor(self._vehicle(rng), along, -LANE, False))
        speed, s = rng.uniform(3, 12), rng.uniform(0, 25)
        while s < LENGTH + 150 and rng.random() < 0.95:  # oncoming: one speed, so that none overtakes
            out.append(self._steady(self._vehicle(rng), s, speed, LANE, True))
            s += rng.uniform(14, 45)
        for side in (-1, 1):
            speed, s = rng.uniform(2.5, 6), rng.uniform(0, 60)
            while s < LENGTH:
                out.append(self._steady(assets.cyclist(rng), s, speed, side * CYCLE * 0.98, side > 0))
                s += rng.uniform(15, 80)
        return out

    def _pedestrians(self, rng: np.random.Generator) -> list[Actor]:
        out, spacing = [], rng.uniform(6, 40)
        for side in (-1, 1):
            for reverse, d in ((False, WALK - 0.45), (True, WALK + 0.45)):
                speed, s = rng.uniform(0.9, 1.7), rng.uniform(0, spacing)
                while s < LENGTH:
                    out.append(self._steady(assets.pedestrian(rng), s, speed, side * d, reverse, KERB))
                    s += rng.uniform(0.3, 1.8) * spacing + 1
        return out

    def _vehicle(self, rng: np.random.Generator) -> Asset:
        return assets.lorry(rng) if rng.random() < 0.15 else assets.car(rng)

    def _steady(self, asset: Asset, s: float, speed: float, d: float, reverse: bool, z: float = 0.0) -> Actor:
        direction = -1 if reverse else 1
        return Actor(asset, lambda t: s + direction * speed * t, d, reverse, z)


def _speeds(rng: np.random.Generator) -> Float[np.ndarray, "n"]:
    """Speed of the ego vehicle (m/s) every TIME_STEP: it cruises, and in some streets stops and starts again."""
    times = np.arange(int(LONGEST / TIME_STEP)) * TIME_STEP
    speed = np.full(len(times), rng.uniform(3, 9)) * (1 + 0.15 * np.sin(0.3 * times + rng.uniform(0, 6)))
    if rng.random() < 0.25:
        stop, pause, braking = rng.uniform(2, 10), rng.uniform(1, 4), 2.5
        after = np.clip((times - stop - pause) / braking, 0, 1)
        speed *= np.clip((stop - times) / braking, 0, 1) + after
    return speed


def _footprint(part: Part | Solid) -> list[tuple[float, float]]:
    (x, y, _), (a, b, _) = part.centre, part.size
    return [(x + i * a / 2, y + j * b / 2) for i in (-1, 0, 1) for j in (-1, 0, 1)]


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)
