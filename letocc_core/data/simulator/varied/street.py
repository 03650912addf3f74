"""Renders a varied street (`varied.world`) seen by a varied robot (`varied.robots`)."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import cv2
import numpy as np
from jaxtyping import Int

from letocc_core.data.simulator import assets
from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.solids import Colour
from letocc_core.data.simulator.street import REACH, SKY, Scene, Street, _Hits, _Instant
from letocc_core.data.simulator.varied import paints, robots, scenery
from letocc_core.data.simulator.varied.paints import PAINTS, STYLES, Triangles, Wardrobe
from letocc_core.data.simulator.varied.robots import Variety
from letocc_core.data.simulator.varied.terrain import Strip, sheets
from letocc_core.data.simulator.varied.world import VariedWorld
from letocc_core.geometry.grid import GridSpec

T = TypeVar("T")
_GROUND_COLOURS = {
    "road": (0.4, 0.4, 0.41), "pavement": (0.56, 0.54, 0.51), "grass": (0.32, 0.38, 0.2), "yard": (0.47, 0.46, 0.44),
}  # fmt: skip


def open_street(
    seed: int, rig: Rig, grid: GridSpec | None = None, flow_interval: float = 0.05, variety: bool = False
) -> Street:
    """A street as of `Street`; with `variety` a varied one, seen by a robot that the rig is an example of."""
    return (VariedStreet if variety else Street)(seed, rig, grid, flow_interval)


class VariedStreet(Street):
    """As `Street`, of the varied kind; `rig` is that of its robot. `render(t)` depends on (seed, rig, t) alone.

    A set is what the cameras see when each fires, up to `robots.SPREAD` apart: images and depth are of that instant,
    and `T_ego_cam` leads from the camera then to the ego frame at the set's stamp, as the live node places images. LiDAR
    and voxels are of the stamp.
    """

    world: VariedWorld

    def __init__(self, seed: int, rig: Rig, grid: GridSpec | None = None, flow_interval: float = 0.05):
        self._varied_world = VariedWorld(seed)
        self.variety = Variety.draw(rig, seed, self._varied_world.weather == "dusk")
        self._latest: dict[tuple, Any] = {}  # what was found out of the last instants
        super().__init__(seed, self.variety.rig, grid, flow_interval)

    def _make_world(self) -> VariedWorld:
        return self._varied_world

    def _make_ground(self, centre):
        self._sheets = sheets(self.world.line, self.world.section, self.world.land, centre)
        return [(s.strip.label, s.vertices.astype(np.float32), s.triangles.astype(np.uint32)) for s in self._sheets]

    def _make_instants(self) -> list[_Instant]:
        names, offsets = self.rig.cameras, self.variety.offsets
        if not any(offsets):
            return [_Instant(slice(0, len(names)), self.rig, 0.0)]
        pairs = enumerate(zip(names, offsets, strict=True))
        return [_Instant(slice(i, i + 1), self.rig.only(name), offset) for i, (name, offset) in pairs]

    def _absent(self, t: float) -> np.ndarray:
        count = len(self.rig.cameras)
        if not self.variety.dropping:
            return np.zeros(count, bool)
        rng = np.random.default_rng([self.seed, 13, round(t * 1e6) % 2**32])
        absent = rng.random(count) < self.variety.dropping
        return absent & ~absent.all()

    # -- the own vehicle ------------------------------------------------------------------------------------------

    @cached_property
    def _own(self) -> tuple[np.ndarray, np.ndarray]:
        hits = self._own_hits
        shape = (len(self.rig.cameras), *self.rig.image_size)
        return (hits.thing != SKY).reshape(shape), hits.distance.reshape(shape)

    @cached_property
    def _own_hits(self) -> _Hits:
        """What the cameras' rays meet of the own vehicle, in ego axes; each camera sees its own part of it alone."""
        import open3d as o3d

        rays, T_ego_cam, found = self.rig.rays(), self.rig.T_ego_cam(), []
        for solid, directions, T in zip(self.variety.own, rays, T_ego_cam, strict=True):
            directions = (directions @ T[:3, :3].T).reshape(-1, 3)
            lines = np.concatenate([np.broadcast_to(T[:3, 3], directions.shape), directions], 1).astype(np.float32)
            scene = o3d.t.geometry.RaycastingScene(nthreads=1)
            if solid is not None:
                vertices, triangles = solid.vertices.astype(np.float32), solid.triangles.astype(np.uint32)
                scene.add_triangles(o3d.core.Tensor.from_numpy(vertices), o3d.core.Tensor.from_numpy(triangles))
            hit = {k: v.numpy() for k, v in scene.cast_rays(o3d.core.Tensor.from_numpy(lines), nthreads=1).items()}
            there = np.isfinite(hit["t_hit"])
            if there.mean() > robots.LARGEST_OWN:
                there[:] = False
            distance = np.where(there, hit["t_hit"], np.inf).astype(np.float32)
            points = lines[:, :3] + lines[:, 3:] * np.where(there, distance, 1)[:, None]
            normals = hit["primitive_normals"]
            found.append(
                (np.where(there, 0, SKY), distance, points, normals, hit["primitive_ids"], hit["primitive_uvs"])
            )
        return _Hits(*map(np.concatenate, zip(*found, strict=True)))

    # -- appearance -----------------------------------------------------------------------------------------------

    def _near_actors(self, t: float, T_world_ego: np.ndarray) -> list[tuple[int, np.ndarray]]:
        return self._remembered(("near", t), lambda: self._look_for_actors(t, T_world_ego))

    def _look_for_actors(self, t: float, T_world_ego: np.ndarray) -> list[tuple[int, np.ndarray]]:
        line, ego, near = self.world.line, self.world.ego_along(t), []
        for i, actor in enumerate(self.world.actors):
            along = actor.along(t)
            if 0 < along < line.length and abs(along - ego) < REACH:
                near.append((i, actor.pose(line, t)))
        return near

    def _actor_scene(self, t: float, T_world_ego: np.ndarray, seen_by: Rig | None = None) -> Scene:
        camera = None if seen_by is None else next(iter(seen_by.cameras))
        return self._remembered(("scene", t, camera), lambda: self._make_scene(t, T_world_ego, seen_by))

    def _make_scene(self, t: float, T_world_ego: np.ndarray, seen_by: Rig | None) -> Scene:
        near = self._near_actors(t, T_world_ego)
        if seen_by is not None:  # those in the picture, and those whose shadows may be
            offsets = [T[:2, 3] - T_world_ego[:2, 3] for _, T in near]
            shown = self._windows(t, seen_by)[0]
            kept = (np.hypot(*np.reshape(offsets, (-1, 2)).T) < 15) | (shown[:, 2:] > shown[:, :2]).all(1)
            near = [actor for actor, keep in zip(near, kept, strict=True) if keep]
        scene = self._scene([(*self._actor_meshes[i], T) for i, T in near])
        return scene, np.array([*(self._first_actor + i for i, _ in near), SKY])

    def _remembered(self, what: tuple, make: Callable[[], T]) -> T:
        """What `make` gives, the same object again for the same thing asked."""
        if what not in self._latest:
            if len(self._latest) > 40:
                self._latest.clear()
            self._latest[what] = make()
        return self._latest[what]

    def _may_show_actors(self, t: float, rig: Rig) -> np.ndarray | None:
        shown = np.zeros((len(rig.cameras), *rig.image_size), bool)
        for image, windows in zip(shown, self._windows(t, rig), strict=True):
            for u0, v0, u1, v1 in windows:
                image[v0:v1, u0:u1] = True
        return shown

    def _windows(self, t: float, rig: Rig) -> Int[np.ndarray, "N actors 4"]:
        """Part of each image outside which each near actor is not: first column and row, and those after the last ones.

        Of pinhole cameras; the whole image of others.
        """
        return self._remembered(("windows", t, *rig.cameras), lambda: self._make_windows(t, rig))

    def _make_windows(self, t: float, rig: Rig) -> np.ndarray:
        T_world_ego = self.pose(t)
        near = self._near_actors(t, T_world_ego)
        size = np.array(rig.image_size[::-1])
        boxes = [self._actor_corners[i] @ T[:3, :3].T + T[:3, 3] for i, T in near]
        corners = np.stack(boxes) if boxes else np.zeros((0, 8, 3))
        out = []
        for mount, K, T in zip(rig.cameras.values(), rig.intrinsics(), T_world_ego @ rig.T_ego_cam(), strict=True):
            seen = (corners - T[:3, 3]) @ T[:3, :3]
            before = seen[..., 2] > 0.05
            pixels = (seen @ K.T)[..., :2] / np.maximum(seen[..., 2:], 0.05)
            low, high = np.floor(pixels.min(1)) - 1, np.ceil(pixels.max(1)) + 2
            low[~before.any(1)], high[~before.any(1)] = size, 0
            somewhere = (before.any(1) & ~before.all(1)) | (mount.lens != "pinhole")
            low[somewhere], high[somewhere] = 0, size
            out.append(np.concatenate([np.clip(low, 0, size), np.clip(high, 0, size)], 1).astype(int))
        return np.stack(out)

    @cached_property
    def _actor_corners(self) -> list[np.ndarray]:
        """Corners [8, 3] (m) of the box around each actor, in its axes."""
        boxes = [(v.min(0), v.max(0)) for v, _ in self._actor_meshes]
        return [np.stack(np.meshgrid(*zip(*box, strict=True), indexing="ij"), -1).reshape(-1, 3) for box in boxes]

    def _prepare_colours(self) -> None:
        """Tables of all triangles, thing by thing: whose part each is, its corners and normal in the thing's axes."""
        parts: list[tuple[int, Colour, np.ndarray]] = []
        corners, owner, first = [], [], []
        count = 0
        rng = np.random.default_rng([self.seed, 14])
        for sheet in self._sheets:
            first.append(count)
            corners.append(sheet.along[sheet.triangles])
            owner.append(np.full(len(sheet.triangles), len(parts)))
            parts.append(self._ground_part(sheet.strip, rng))
            count += len(sheet.triangles)
        for asset in self.assets:
            first.append(count)
            for part in asset.parts:
                vertices, triangles = assets.part_mesh(part)
                corners.append(vertices[triangles])
                owner.append(np.full(len(triangles), len(parts)))
                style = np.pad(np.array(part.style, float), (0, STYLES - len(part.style)))
                parts.append((PAINTS.index(part.paint), part.colour or asset.colour, style))
                count += len(triangles)
        for solid in self.variety.own:  # one after the other, from thing number `len(self.assets)` of the ground's on
            first.append(count)
            if solid is not None:
                corners.append(solid.vertices[solid.triangles])
                owner.append(np.full(len(solid.triangles), len(parts)))
                count += len(solid.triangles)
        style = np.pad(np.array(robots.OWN_STYLE), (0, STYLES - len(robots.OWN_STYLE)))
        parts.append((PAINTS.index("body"), scenery.metal(rng), style))
        paint, colour, style = zip(*parts, strict=True)
        shift = rng.uniform(0, 50, (len(parts), 3))
        shift[: len(self._sheets)] = 0
        self._wardrobe = Wardrobe(
            np.array(paint, np.int32),
            np.array(colour, np.float32),
            np.array(style, np.float32),
            shift.astype(np.float32),
            rng.uniform(0.025, 0.07, len(parts)).astype(np.float32),
        )
        placed = np.concatenate(corners).astype(np.float32)
        faces = np.cross(placed[:, 1] - placed[:, 0], placed[:, 2] - placed[:, 0])
        faces /= np.maximum(np.linalg.norm(faces, axis=1, keepdims=True), 1e-12)
        self._triangles = Triangles(np.concatenate(owner).astype(np.int32), placed, faces)
        self._first_triangle = np.array(first)

    def _ground_part(self, strip: Strip, rng: np.random.Generator) -> tuple[int, Colour, np.ndarray]:
        lanes = self.world.lanes
        colour = np.array(_GROUND_COLOURS[strip.paint]) * rng.uniform(0.75, 1.2) + rng.normal(0, 0.01, 3)
        style = {
            "road": (
                lanes.lane,
                lanes.count,
                lanes.median,
                rng.choice([0, 1, 2, 3], p=[0.4, 0.25, 0.2, 0.15]),
                lanes.road,
                rng.uniform(60, 160) if rng.random() < 0.6 else 0.0,
                lanes.parking_width if rng.random() < 0.5 else 0.0,
                rng.uniform(0, 1),
            ),
            "pavement": (strip.inner, rng.choice([0.3, 0.5, 1.0, 1.5])),
            "yard": (float(rng.random() < 0.5),),
        }.get(strip.paint, ())
        return PAINTS.index(strip.paint), tuple(colour), np.pad(np.array(style, float), (0, STYLES - len(style)))

    def _colour(self, t: float, hits: _Hits, directions: np.ndarray, K: np.ndarray) -> np.ndarray:
        shape = directions.shape[:3]
        triangle = np.where(hits.thing == SKY, -1, self._first_triangle[self._row(hits.thing)] + hits.triangles)
        distance, uv, normal = hits.distance, hits.uv, hits.normals
        own, seen = self._own[0].ravel(), self._own_hits
        if own.any():
            camera = len(self._labels) - 1 + np.flatnonzero(own) // (shape[1] * shape[2])
            triangle[own] = self._first_triangle[camera] + seen.triangles[own]
            distance, uv, normal = distance.copy(), uv.copy(), normal.copy()
            distance[own], uv[own] = seen.distance[own], seen.uv[own]
            normal[own] = seen.normals[own] @ self.pose(t)[:3, :3].T
        sunlit = self._sunlit(t, hits, shape)
        fields = [
            x.reshape(shape[0], -1, *x.shape[1:]) for x in (triangle, uv, normal, distance, directions.reshape(-1, 3))
        ]
        cameras = list(zip(*fields, 1 / K[:, 0, 0], sunlit, strict=True))
        rng = np.random.default_rng([self.seed, 15, round(t * 1e6) % 2**32])
        things: tuple[Any, ...] = (self._triangles, self._wardrobe, self.world.daylight)
        images = []
        for of_camera, look, counted in zip(cameras, self.variety.looks, ~self._own[0], strict=True):
            radiance = paints.shade(*(*of_camera, *things))
            images.append(robots.develop(radiance.reshape(*shape[1:], 3), look, counted, rng))
        return np.stack(images)

    def _sunlit(self, t: float, hits: _Hits, shape: tuple[int, int, int]) -> np.ndarray:
        """Share of the sun that reaches what was met: float32 [N, H W], cast at every second pixel each way."""
        import open3d as o3d

        light = self.world.daylight
        lit = np.ones(shape, np.float32)
        points, met = hits.points.reshape(*shape, 3)[:, ::2, ::2], (hits.thing != SKY).reshape(shape)[:, ::2, ::2]
        direct = met.astype(np.float32)
        for instant in self._instants:
            cameras, at = instant.cameras, t + instant.offset
            start = points[cameras][met[cameras]] + 0.03 * light.sun_direction
            rays = np.concatenate([start, np.broadcast_to(light.sun_direction, start.shape)], 1).astype(np.float32)
            cast = o3d.core.Tensor.from_numpy(rays)
            blocked = self._static_scene.test_occlusions(cast, nthreads=1).numpy()
            scene, things = self._actor_scene(at, self.pose(at), instant.rig if instant.offset else None)
            if len(things) > 1:
                blocked = blocked | scene.test_occlusions(cast, nthreads=1).numpy()
            direct[cameras][met[cameras]] = ~blocked
        for full, half in zip(lit, direct, strict=True):
            cv2.warpAffine(
                half,
                np.array([[0.5, 0, 0], [0, 0.5, 0]]),
                (shape[2], shape[1]),
                dst=full,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
        return lit.reshape(shape[0], -1)
