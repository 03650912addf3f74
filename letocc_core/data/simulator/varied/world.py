"""Varied streets: hills, lanes, verges, districts of houses, halls, gardens and lots, weather, and traffic in all lanes."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8

from letocc_core.data.simulator.assets import Asset
from letocc_core.data.simulator.path import CentreLine
from letocc_core.data.simulator.varied import scenery
from letocc_core.data.simulator.varied.paints import Light
from letocc_core.data.simulator.varied.terrain import Hills, Land, Profile, Section, Strip
from letocc_core.data.simulator.world import LENGTH, Actor, Placed, World, _footprint, _speeds
from letocc_core.data.truth import CLASS_NAMES

STEEPEST = 0.06  # rise over run that hills reach in places, in the steepest streets
WEATHER = {"clear": 0.34, "low sun": 0.14, "cloudy": 0.3, "hazy": 0.12, "dusk": 0.1}  # and its share of the streets
WALLS = np.array(  # colours of houses
    [
        (0.84, 0.82, 0.78), (0.74, 0.68, 0.58), (0.62, 0.61, 0.6), (0.56, 0.36, 0.29), (0.72, 0.58, 0.4),
        (0.8, 0.74, 0.6), (0.62, 0.66, 0.7), (0.4, 0.39, 0.38), (0.66, 0.46, 0.38), (0.6, 0.63, 0.54), (0.48, 0.3, 0.25),
    ]
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class LandActor(Actor):
    """A moving thing on the land."""

    land: Land = field(kw_only=True)
    upright: bool = field(default=False, kw_only=True)  # people stay so; vehicles lean with the road

    def pose(self, line: CentreLine, t: float) -> Float[np.ndarray, "4 4"]:
        return self.land.lifted(super().pose(line, t), self.upright)


@dataclass(frozen=True)
class Lanes:
    """Where things are across the street, m from its middle to either side."""

    lane: float  # width of a lane
    count: int  # lanes a direction
    median: float  # half the width of what divides the directions
    cycling: float | None  # middle of the cycle lane
    parking: float | None  # middle of the parking lane
    parking_width: float
    road: float  # edge of the road
    verge: float  # outer edge of the grass beside it; `road` where there is none
    pavement: float  # outer edge of the pavement
    kerb: float  # its height

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Lanes":
        count = int(rng.choice([1, 2, 3], p=[0.62, 0.3, 0.08]))
        lane = rng.uniform(2.8, 3.6)
        median = rng.uniform(0.5, 2.0) if rng.random() < (0.35 if count > 1 else 0.06) else 0.0
        edge = median + count * lane + rng.uniform(0.1, 0.5)
        cycling, parking, width = None, None, 0.0
        if rng.random() < 0.4:
            cycling, edge = edge + 0.75, edge + 1.5
        if rng.random() < 0.65:
            width = rng.uniform(2.1, 2.5)
            parking, edge = edge + width / 2, edge + width
        verge = edge + (rng.uniform(0.8, 2.5) if rng.random() < 0.3 else 0.0)
        pavement = verge + rng.uniform(1.3, 4.0)
        return cls(lane, count, median, cycling, parking, width, edge, verge, pavement, rng.uniform(0.06, 0.18))

    def middle(self, number: int) -> float:
        """m to the middle of a lane, the innermost is 0."""
        return self.median + (number + 0.5) * self.lane

    def section(self, land: str, raised: bool) -> Section:
        """The strips of ground; the median is `raised`, or the road goes through."""
        strips = []
        if raised and self.median > 0:
            strips.append(Strip(0, self.median, self.kerb, "ground", "grass"))
        strips.append(Strip(strips[-1].outer if strips else 0, self.road, 0.0, "road", "road"))
        if self.verge > self.road:
            strips.append(Strip(self.road, self.verge, self.kerb, "ground", "grass"))
        strips.append(Strip(self.verge, self.pavement, self.kerb, "kerb", "pavement"))
        return Section(tuple(strips), Strip(self.pavement, np.inf, -0.05, "ground", land))


class VariedWorld(World):
    """One varied street; everything follows from the seed."""

    def __init__(self, seed: int):
        rng = np.random.default_rng([seed, 11])
        self.lanes = Lanes.random(rng)
        self.line = CentreLine.random(rng, LENGTH, max(14.0, self.lanes.pavement + 3))
        hills = Hills.random(rng, STEEPEST * rng.choice([0.1, 0.4, 1.0], p=[0.35, 0.35, 0.3]))
        profile = Profile.random(np.random.default_rng([seed, 16]), self.lanes.road, self.lanes.pavement)
        self.land = Land(hills, profile, self.line)
        self.section = self.lanes.section(rng.choice(["grass", "yard"], p=[0.55, 0.45]), rng.random() < 0.6)
        self.ego_speed = _speeds(rng) * rng.uniform(0.7, 1.5)
        self._travelled = np.concatenate([[0.0], np.cumsum(self.ego_speed) * 0.02])
        self._ego_lane = int(rng.integers(self.lanes.count))
        self.weather = str(rng.choice(list(WEATHER), p=list(WEATHER.values())))
        self.daylight = weather(rng, self.weather)
        self.statics = [*self._roadside(rng), *self._parked_cars(rng)]
        self.actors = [*self._streams(rng), *self._walkers(rng)]

    def T_world_ego(self, t: float) -> Float[np.ndarray, "4 4"]:
        """base_link, on the road in its lane, leaning with the road."""
        return self.land.lifted(self.line.pose(self.ego_along(t), -self.lanes.middle(self._ego_lane)), upright=False)

    def ground(self, points: Float[np.ndarray, "n 2"]) -> tuple[UInt8[np.ndarray, "n"], Float[np.ndarray, "2 n"]]:
        strip = self.section.strip(np.abs(self.line.across(points)[0]))
        labels = np.array([CLASS_NAMES.index(s.label) for s in self.section.all], np.uint8)
        heights = np.array([s.height for s in self.section.all])
        return labels[strip], np.stack([self.land.height(points), heights[strip]])

    # -- what stands ----------------------------------------------------------------------------------------------

    def _roadside(self, rng: np.random.Generator) -> list[Placed]:
        """On either side one district after the other, and trees, lamps, signs and clutter along the kerb."""
        out: list[Placed] = []
        trees = [scenery.tree(rng) for _ in range(8)]
        colours = WALLS[rng.permutation(len(WALLS))[:6]]
        edge = self.lanes.pavement
        for side in (-1, 1):
            s = 5.0
            while s < LENGTH - 10:
                kind = rng.choice(["town", "villa", "hall", "lot", "park"], p=[0.34, 0.24, 0.14, 0.12, 0.16])
                until = min(s + rng.uniform(35, 110), LENGTH - 5)
                setback = {"town": rng.uniform(0.3, 3), "villa": rng.uniform(3, 8), "hall": rng.uniform(2, 10)}.get(
                    kind, 0
                )
                if kind in ("town", "villa", "hall"):
                    palette = colours[rng.integers(0, 6, 2)]
                    gap = {"town": 0.8, "villa": 6.0, "hall": 8.0}[kind]
                    at = s
                    while at < until:
                        house = scenery.house(rng, kind, palette[rng.integers(2)])
                        length, depth, _ = house.parts[0].size
                        d = edge + setback + depth / 2 + rng.uniform(0, 0.8)
                        out += self._standing(house, at + length / 2, side * d, edge + 0.2, side < 0)
                        at += length + rng.exponential(gap)
                if kind == "lot":
                    out += self._lot(rng, s, until, side)
                if kind != "town" and rng.random() < 0.75:  # what bounds gardens, yards and lots
                    out += self._row(rng, [scenery.wall, scenery.fence, scenery.hedge][rng.integers(3)], s, until, side)
                green = {"town": 0.0, "villa": 0.12, "hall": 0.03, "lot": 0.02, "park": 0.3}[kind]
                for _ in range(rng.poisson(green * (until - s))):
                    d = side * (edge + rng.uniform(1.0, 22.0 if kind == "park" else 6.0))
                    plant = trees[rng.integers(8)] if rng.random() < 0.6 else scenery.bush(rng)
                    out += self._standing(plant, rng.uniform(s, until), d, edge, rng.random() < 0.5, overhangs=True)
                s = until
            out += self._along_kerb(rng, trees, side)
            out += self._behind(rng, trees, side)
        return out

    def _behind(self, rng: np.random.Generator, trees: list[Asset], side: int) -> list[Placed]:
        """Houses and trees farther off, seen through the gaps."""
        out, s = [], rng.uniform(0, 20)
        while s < LENGTH:
            d = side * (self.lanes.pavement + rng.uniform(32, 60))
            if rng.random() < 0.5:
                far = scenery.house(rng, rng.choice(["town", "villa"]), WALLS[rng.integers(len(WALLS))])
            else:
                far = trees[rng.integers(8)]
            out += self._standing(far, s, d, self.lanes.pavement + 20, side < 0)
            s += rng.uniform(8, 30)
        return out

    def _along_kerb(self, rng: np.random.Generator, trees: list[Asset], side: int) -> list[Placed]:
        lanes, out = self.lanes, []
        post = (scenery.lamp, scenery.mast)[rng.integers(2)]
        kinds: list[tuple[Callable[[np.random.Generator], Asset], float, float]] = [
            (post, rng.uniform(18, 45), 0.5),
            (scenery.sign, rng.uniform(12, 50), 0.4),
            (scenery.signals, rng.uniform(60, 300), 0.4),
            (scenery.clutter, rng.uniform(6, 40), 0.5),
        ]
        if rng.random() < 0.6:
            kinds.append((lambda r: trees[r.integers(8)], rng.uniform(7, 30), 0.8))
        for make, spacing, inset in kinds:
            s = rng.uniform(0, spacing)
            while s < LENGTH:
                d = side * (lanes.road + inset + rng.uniform(-0.1, 0.1))
                out += self._standing(make(rng), s, d, lanes.road + 0.1, side < 0, overhangs=True)
                s += rng.uniform(0.6, 1.5) * spacing
        return out

    def _row(
        self, rng: np.random.Generator, make: Callable[[np.random.Generator], Asset], s: float, until: float, side: int
    ) -> list[Placed]:
        """Walls, fences or hedges one after the other, with gates."""
        out, d = [], side * (self.lanes.pavement + rng.uniform(0.7, 1.2))
        seed = int(rng.integers(2**31))
        while s < until:
            piece = make(np.random.default_rng(seed))  # one after the other the same
            length = piece.parts[0].size[0]
            out += self._standing(piece, s + length / 2, d, self.lanes.pavement + 0.15, side < 0)
            s += length + (rng.uniform(2, 6) if rng.random() < 0.25 else 0.05)
        return out

    def _lot(self, rng: np.random.Generator, s: float, until: float, side: int) -> list[Placed]:
        """Rows of parked vehicles beside the street, across it."""
        out = []
        for row in range(rng.integers(1, 4)):
            d, at, full = self.lanes.pavement + 4 + 7.5 * row, s + 3, rng.uniform(0.2, 0.9)
            while at < until - 3:
                if rng.random() < full:
                    turn = np.pi / 2 * rng.choice([-1, 1]) + rng.normal(0, 0.03)
                    out += self._leaning(self._vehicle(rng), at, side * (d + rng.normal(0, 0.2)), turn)
                at += rng.uniform(2.6, 2.9)
        return out

    def _parked_cars(self, rng: np.random.Generator) -> list[Placed]:
        """Along the kerb: rows with free places, none at all on some sides."""
        out: list[Placed] = []
        if self.lanes.parking is None:
            return out
        for side in (-1, 1):
            density = rng.choice([0.0, 0.25, 0.6, 0.92], p=[0.12, 0.28, 0.35, 0.25])
            s = 4.0
            while s < LENGTH - 8:
                vehicle = self._vehicle(rng, 0.05)
                length = 2 * max(abs(p.centre[0]) + p.size[0] / 2 for p in vehicle.parts)
                if rng.random() < density:
                    d = side * (self.lanes.parking + rng.normal(0, 0.08))
                    out += self._leaning(vehicle, s + length / 2, d, np.pi * ((side > 0) ^ (rng.random() < 0.1)))
                s += length + rng.uniform(0.5, 1.8)
        return out

    def _standing(
        self, asset: Asset, s: float, d: float, clear: float, reverse: bool, overhangs: bool = False
    ) -> list[Placed]:
        """An upright thing at (s, d) on the lowest ground below it, unless a bend brings it within `clear` of the middle.

        Only the first part of what `overhangs` must keep clear.
        """
        T = self.line.pose(s, d, reverse)
        parts = asset.parts[:1] if overhangs else asset.parts
        corners = (np.array([[x, y, 0, 1] for p in parts for x, y in _footprint(p)]) @ T.T)[:, :2]
        if self.line.distance(corners).min() < clear:
            return []
        T[2, 3] = self.ground(corners)[1].sum(0).min()
        return [Placed(asset, T)]

    def _leaning(self, asset: Asset, s: float, d: float, turn: float) -> list[Placed]:
        """A vehicle that stands, `turn` rad from the street's direction, leaning with the land."""
        T = self.line.pose(s, d)
        T[:2, :2] = T[:2, :2] @ [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        T[2, 3] = self.ground(T[None, :2, 3])[1][1, 0]
        corners = (np.array([[x, y, 0, 1] for p in asset.parts for x, y in _footprint(p)]) @ T.T)[:, :2]
        if self.line.distance(corners).min() < self.lanes.median + self.lanes.count * self.lanes.lane:
            return []
        return [Placed(asset, self.land.lifted(T, upright=False))]

    # -- what moves -----------------------------------------------------------------------------------------------

    def _vehicle(self, rng: np.random.Generator, lorries: float = 0.02) -> Asset:
        kind = rng.random()
        return scenery.lorry(rng) if kind < lorries else scenery.van(rng) if kind < lorries + 0.1 else scenery.car(rng)

    def _streams(self, rng: np.random.Generator) -> list[Actor]:
        """Vehicles in every lane, cyclists beside them."""
        out: list[Actor] = []
        for behind in (False, True):  # the ego vehicle's own lane: it keeps its distance
            if rng.random() < 0.7:
                gap = rng.uniform(9, 30) * (-1 if behind else 1)
                sway, phase = rng.uniform(0, 1.5), rng.uniform(0, 6)
                vehicle = self._vehicle(rng, 0.12)
                gap += np.sign(gap) * max(0.0, vehicle.radius - 2.5)
                along = lambda t, g=gap, a=sway, p=phase: self.ego_along(t) + g + a * np.sin(0.4 * t + p)  # noqa: E731
                out.append(self._actor(vehicle, along, -self.lanes.middle(self._ego_lane), False))
        for number in range(self.lanes.count):
            for side in (-1, 1):
                if side < 0 and number == self._ego_lane:
                    continue
                jam = rng.random() < 0.15
                speed = rng.uniform(0, 0.5) if jam else rng.uniform(3, 13)
                s, busy = rng.uniform(-100, 25), rng.uniform(14, 60)
                while s < LENGTH + 150:  # one speed a lane, so that none overtakes
                    vehicle = self._vehicle(rng, 0.1)
                    s += vehicle.radius
                    out.append(self._moving(vehicle, s, speed, side * self.lanes.middle(number), side > 0))
                    s += vehicle.radius + (rng.uniform(1.5, 5) if jam else rng.uniform(0.5, 1.6) * busy)
        beside = self.lanes.cycling or self.lanes.median + self.lanes.count * self.lanes.lane - 0.2
        for side in (-1, 1):
            speed, s = rng.uniform(2.5, 6), rng.uniform(0, 80)
            lane_free = self.lanes.cycling is not None or self.lanes.lane > 3.3
            while s < LENGTH and lane_free:
                out.append(self._moving(scenery.cyclist(rng), s, speed, side * beside, side > 0))
                s += rng.uniform(12, 90)
        return out

    def _walkers(self, rng: np.random.Generator) -> list[Actor]:
        out: list[Actor] = []
        spacing, lanes = rng.uniform(6, 50), self.lanes
        for side in (-1, 1):
            for reverse, share in ((False, 0.3), (True, 0.7)):
                speed, s = rng.uniform(0.9, 1.7), rng.uniform(0, spacing)
                d = side * (lanes.verge + 0.9 + share * max(lanes.pavement - lanes.verge - 1.3, 0.0))
                while s < LENGTH:
                    out.append(self._moving(scenery.pedestrian(rng), s, speed, d, reverse, lanes.kerb, upright=True))
                    s += rng.uniform(0.3, 1.8) * spacing + 1
        return out

    def _moving(
        self, asset: Asset, s: float, speed: float, d: float, reverse: bool, z: float = 0.0, upright: bool = False
    ) -> LandActor:
        direction = -1 if reverse else 1
        return self._actor(asset, lambda t: s + direction * speed * t, d, reverse, z, upright)

    def _actor(
        self,
        asset: Asset,
        along: Callable[[float], float],
        d: float,
        reverse: bool,
        z: float = 0.0,
        upright: bool = False,
    ) -> LandActor:
        return LandActor(asset, along, d, reverse, z, land=self.land, upright=upright)


def weather(rng: np.random.Generator, kind: str) -> Light:
    """Sun and sky of a kind of `WEATHER`."""
    elevation = np.radians(rng.uniform(6, 18) if kind == "low sun" else rng.uniform(28, 68))
    azimuth = rng.uniform(0, 2 * np.pi)
    sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    colours = {  # zenith, horizon, cloud, sun, ambient
        "clear": ((0.14, 0.3, 0.65), (0.62, 0.74, 0.88), (0.95, 0.95, 0.97), (1.75, 1.6, 1.35), (0.36, 0.44, 0.56)),
        "low sun": ((0.16, 0.26, 0.5), (0.95, 0.75, 0.55), (0.85, 0.66, 0.56), (1.4, 0.95, 0.55), (0.34, 0.36, 0.42)),
        "cloudy": ((0.72, 0.75, 0.8), (0.85, 0.87, 0.9), (0.6, 0.62, 0.66), (0.0, 0.0, 0.0), (0.78, 0.8, 0.84)),
        "hazy": ((0.5, 0.58, 0.7), (0.85, 0.85, 0.85), (0.9, 0.9, 0.9), (0.7, 0.66, 0.58), (0.6, 0.62, 0.66)),
        "dusk": ((0.04, 0.06, 0.13), (0.3, 0.22, 0.2), (0.12, 0.11, 0.13), (0.0, 0.0, 0.0), (0.09, 0.1, 0.14)),
    }[kind]
    zenith, horizon, cloud, sunlight, ambient = (np.array(c, np.float32) for c in colours)
    cover = {"clear": rng.uniform(0, 0.5), "cloudy": rng.uniform(0.5, 0.9)}.get(kind, rng.uniform(0.1, 0.6))
    overcast = sunlight.max() < 0.1
    return Light(
        zenith,
        horizon * np.float32(rng.uniform(0.9, 1.2)),
        cloud,
        float(cover),
        float(overcast),
        np.array([0.05, 0.05, 0.9975], np.float32) if overcast else sun.astype(np.float32),
        sunlight * np.float32(rng.uniform(0.7, 1.2)),
        ambient,
        float(rng.uniform(0.002, 0.006) if kind == "hazy" else rng.uniform(0.0003, 0.0015)),
        float(rng.uniform(0.02, 0.14)),
        float(rng.uniform(0, 1000)),
        float(rng.uniform(0.4, 1.0) if kind in ("cloudy", "dusk") and rng.random() < 0.3 else 0.0),
        float(kind == "dusk"),
    )
