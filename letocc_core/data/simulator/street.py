"""Renders a street: images by ray casting (Open3D), and the truth of everything in them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt

from letocc_core.data.simulator import assets, texture
from letocc_core.data.simulator.occupancy import OccupancyTruth
from letocc_core.data.simulator.rig import LidarMount, Rig
from letocc_core.data.simulator.world import KERB, PAVEMENT, ROAD, World
from letocc_core.data.truth import CLASS_NAMES, FREE, MOVABLE_CLASSES, Truth
from letocc_core.errors import DataError
from letocc_core.geometry.calibration import Calibration
from letocc_core.geometry.grid import GridSpec

EPOCH_NS = 1_700_000_000_000_000_000  # stamp of time 0
SKY = np.iinfo(np.int64).max  # index of "nothing hit"
Scene = tuple[Any, np.ndarray]  # Open3D's scene for rays, and the thing that each of its geometries is
REACH = 120.0  # m from the ego vehicle beyond which nothing is built


@dataclass(frozen=True, eq=False)
class SimFrame:
    """One rendered image set and what is known about it. Ego axes are those of this frame."""

    stamp_ns: int
    images: np.ndarray  # uint8 [N, H, W, 3] RGB
    movable: np.ndarray  # bool [N, H, W]
    semantics: np.ndarray  # uint8 [N, H, W]: index into CLASS_NAMES, FREE = sky
    K: np.ndarray  # [N, 3, 3] px
    calibrations: tuple[Calibration, ...]  # the same, with the cameras' lenses
    T_ego_cam: np.ndarray  # [N, 4, 4] m, from each camera when it fired to the ego frame at `stamp_ns`
    T_world_ego: np.ndarray  # [4, 4] m
    camera_valid: np.ndarray  # bool [N]: False where a camera gave no image; that is all zeros
    own: np.ndarray  # bool [N, H, W]: pixels that show the ego vehicle itself
    lidar_origin: np.ndarray  # [3] m, ego axes
    lidar: np.ndarray | None = None  # float32 [P, 3] m, ego axes
    lidar_velocity: np.ndarray | None = None  # float32 [P, 2] m/s, of the matter relative to the world, ego axes
    truth: Truth | None = None
    T_world_ego_next: np.ndarray | None = None  # [4, 4] m, pose at the frame that truth.flow_forward leads to
    flow_interval: float | None = None  # s until then

    @property
    def returns(self) -> Float[np.ndarray, "P 3"]:
        """The sweep (m) from the sensor; raises `DataError` for a frame without one."""
        if self.lidar is None:
            raise DataError(f"the frame at {self.stamp_ns} ns was rendered without LiDAR; expected a rig that has one")
        return self.lidar - self.lidar_origin.astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Hits:
    """What rays met: the thing's index (SKY: nothing), the distance in ray lengths, the point and the face's normal."""

    thing: Int[np.ndarray, "n"]
    distance: Float[np.ndarray, "n"]
    points: Float[np.ndarray, "n 3"]  # m, world
    normals: Float[np.ndarray, "n 3"]  # world
    triangles: UInt[np.ndarray, "n"]  # of the thing's mesh
    uv: Float[np.ndarray, "n 2"]  # where on the triangle: weights of its second and third corner


@dataclass(frozen=True, eq=False)
class _Instant:
    """Cameras of a set that fire together."""

    cameras: slice
    rig: Rig  # of those alone
    offset: float  # s after the set's stamp


class Street:
    """A seeded street seen by a rig. `render(t)` depends on (seed, rig, t) alone.

    Args:
        rig: cameras and LiDAR, at the image size to render.
        grid: where occupancy truth is wanted; None: images and depth only.
        flow_interval: s to the next and the previous frame, for the truth of optical flow.
    """

    def __init__(self, seed: int, rig: Rig, grid: GridSpec | None = None, flow_interval: float = 0.05):
        self.seed, self.rig, self.grid, self.flow_interval = seed, rig, grid, flow_interval
        self.world = self._make_world()
        centre = self.world.T_world_ego(0.0)[:2, 3]
        self.ground = self._make_ground(centre)
        near = [p for p in self.world.statics if np.hypot(*(p.T_world[:2, 3] - centre)) < REACH + 60]
        self.statics = [(p.asset, p.T_world) for p in near]
        self.assets = [a for a, _ in self.statics] + [a.asset for a in self.world.actors]
        labels = [*(label for label, _, _ in self.ground), *(a.label for a in self.assets)]
        self._labels = np.array([*(CLASS_NAMES.index(label) for label in labels), FREE], np.uint8)
        self._first_actor = len(self.ground) + len(self.statics)
        self._static_scene = self._scene([(v, t, np.eye(4)) for _, v, t in self.ground] + [
            (*assets.mesh(a), T) for a, T in self.statics
        ])  # fmt: skip
        self._actor_meshes = [assets.mesh(a.asset) for a in self.world.actors]
        self._instants = self._make_instants()
        self._prepare_colours()

    # -- what kinds of streets differ in ---------------------------------------------------------------------------

    def _make_world(self) -> World:
        return World(self.seed)

    def _make_ground(self, centre: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Class, vertices [V, 3] (m, world) and triangles [F, 3] of each kind of ground."""
        return _ground_meshes(self.world.line.points, self.world.line.heading, centre)

    def _make_instants(self) -> list[_Instant]:
        """The cameras by when they fire."""
        return [_Instant(slice(None), self.rig, 0.0)]

    def _prepare_colours(self) -> None:
        """What `_colour` needs to know of every thing."""
        colours = [self.world.ground_colour, (0.36,) * 3, (0.55, 0.53, 0.5), *(a.colour for a in self.assets)]
        self._colours = np.array([*colours, (0, 0, 0)], np.float32)
        self._offsets = np.random.default_rng([self.seed, 2]).uniform(0, 50, (len(self._labels), 3)).astype(np.float32)
        self._offsets[: len(self.ground)] = 0

    def _absent(self, t: float) -> np.ndarray:
        """Cameras that give no image at time t: bool [N]."""
        return np.zeros(len(self.rig.cameras), bool)

    @cached_property
    def _own(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels that show the ego vehicle itself, and how many ray lengths away: bool and float32 [N, H, W]."""
        shape = (len(self.rig.cameras), *self.rig.image_size)
        return np.zeros(shape, bool), np.full(shape, np.inf, np.float32)

    # -- rendering ------------------------------------------------------------------------------------------------

    @cached_property
    def _occupancy(self) -> OccupancyTruth:
        assert self.grid is not None  # `_truth` asks for it only then
        return OccupancyTruth(self.grid, self.world, self.statics)

    def pose(self, t: float) -> Float[np.ndarray, "4 4"]:
        """base_link in the world at time t (s)."""
        return self.world.T_world_ego(t)

    def render(self, t: float, truth: bool = True, lidar: bool | None = None) -> SimFrame:
        """The image set at time t (s); `truth` adds Truth, `lidar` a sweep (both by default)."""
        T_world_ego = self.pose(t)
        T_ego_cam, K = self._T_ego_cam(t), self.rig.intrinsics()
        absent = self._absent(t)
        directions = self._rays(T_world_ego @ T_ego_cam)
        hits = self._see(t, T_world_ego @ T_ego_cam, directions, absent)
        shape = directions.shape[:3]
        labels = self._labels[self._row(hits.thing)].reshape(shape)
        movable = np.isin(labels, [CLASS_NAMES.index(c) for c in MOVABLE_CLASSES])
        images = self._colour(t, hits, directions, K)
        images[absent] = 0
        stamp_ns = EPOCH_NS + round(t * 1e9)
        result: dict[str, Any] = {
            "stamp_ns": stamp_ns,
            "images": images,
            "movable": movable,
            "semantics": labels,
            "K": K,
            "calibrations": self.rig.calibrations(),
            "T_ego_cam": T_ego_cam,
            "T_world_ego": T_world_ego,
            "camera_valid": ~absent,
            "own": self._own[0],
            "lidar_origin": self.rig.lidar_origin,
        }
        mount = self.rig.lidar if (truth if lidar is None else lidar) else None
        if mount or truth:
            dynamic = self._actor_scene(t, T_world_ego)
            if mount:
                result["lidar"], result["lidar_velocity"] = self._sweep(t, mount, dynamic, T_world_ego)
            if truth:
                result["truth"] = self._truth(t, dynamic, hits, labels, movable, T_ego_cam, T_world_ego, absent)
                result["T_world_ego_next"] = self.pose(t + self.flow_interval)
                result["flow_interval"] = self.flow_interval
        return SimFrame(**result)

    def _truth(
        self,
        t: float,
        dynamic: Scene,
        hits: _Hits,
        labels: np.ndarray,
        movable: np.ndarray,
        T_ego_cam: np.ndarray,
        T_world_ego: np.ndarray,
        absent: np.ndarray,
    ) -> Truth:
        """Truth of one frame from what the camera rays met."""
        shape = labels.shape
        depth = np.where(hits.thing == SKY, np.inf, hits.distance).reshape(shape).astype(np.float32)
        forward, backward = (self._flow(t, sign * self.flow_interval, hits, shape) for sign in (1, -1))
        if self.grid is None:
            empty = np.zeros((0, 0, 0), np.uint8)
            still = np.zeros((0, 0, 0, 2), np.float32)
            return Truth(depth, forward, backward, movable, labels, empty, still, empty.astype(bool))
        actors = [
            (self.world.actors[i].asset, T, self._velocity(i, t))
            for i, T in self._near_actors(t, T_world_ego)
            if self._occupancy.is_near(self.world.actors[i].asset, T, T_world_ego)
        ]
        occupancy, velocity = self._occupancy.at(T_world_ego, actors)
        sight = np.where(self._own[0], self._own[1], depth)
        sight[absent] = 0
        visible = self._occupancy.visible(sight, self.rig, T_ego_cam)
        hidden = np.nonzero(~visible)
        if self.rig.lidar:
            centres = self._occupancy.centres[hidden]
            visible[hidden] = self._lidar_reaches(self.rig.lidar, dynamic, centres, T_world_ego)
        return Truth(depth, forward, backward, movable, labels, occupancy, velocity, visible)

    # -- geometry -------------------------------------------------------------------------------------------------

    def _scene(self, meshes):
        """Open3D scene of (vertices, triangles, pose); the geometry id is the position in the list."""
        import open3d as o3d

        scene = o3d.t.geometry.RaycastingScene(nthreads=1)
        for vertices, triangles, T in meshes:
            placed = (vertices @ T[:3, :3].T + T[:3, 3]).astype(np.float32)
            scene.add_triangles(
                o3d.core.Tensor.from_numpy(placed), o3d.core.Tensor.from_numpy(triangles.astype(np.uint32))
            )
        return scene

    def _T_ego_cam(self, t: float) -> Float[np.ndarray, "N 4 4"]:
        """From each camera when it fires to the ego frame at time t."""
        T_ego_world = np.linalg.inv(self.pose(t))
        moved = [T_ego_world @ self.pose(t + i.offset) if i.offset else np.eye(4) for i in self._instants]
        return np.concatenate(
            [
                T @ i.rig.T_ego_cam() if i.offset else i.rig.T_ego_cam()
                for i, T in zip(self._instants, moved, strict=True)
            ]
        )

    def _see(self, t: float, T_world_cam: np.ndarray, directions: np.ndarray, absent: np.ndarray) -> _Hits:
        """What the rays of all cameras meet, each camera's when it fires; nothing where one shows its own vehicle."""
        origins = np.broadcast_to(T_world_cam[:, None, None, :3, 3], directions.shape)
        found = []
        for i in self._instants:
            T_world_ego = self.pose(t + i.offset)
            dynamic = self._actor_scene(t + i.offset, T_world_ego, i.rig if i.offset else None)
            shown = self._may_show_actors(t + i.offset, i.rig)
            found.append(self._cast(dynamic, origins[i.cameras], directions[i.cameras], shown))
        hits = found[0] if len(found) == 1 else _Hits(*map(np.concatenate, zip(*map(_fields, found), strict=True)))
        hits.thing[(self._own[0] | absent[:, None, None]).ravel()] = SKY
        return hits

    def _actor_scene(self, t: float, T_world_ego: np.ndarray, seen_by: Rig | None = None) -> Scene:
        """Scene of the actors near the ego vehicle, and the thing that each of its geometries is.

        Args:
            seen_by: what only other cameras see may be left out.
        """
        near = self._near_actors(t, T_world_ego)
        meshes = [(*self._actor_meshes[i], T) for i, T in near]
        return self._scene(meshes), np.array([*(self._first_actor + i for i, _ in near), SKY])

    def _near_actors(self, t: float, T_world_ego: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Number and pose of the actors near the ego vehicle."""
        line, near = self.world.line, []
        for i, actor in enumerate(self.world.actors):
            if 0 < actor.along(t) < line.length:
                T = actor.pose(line, t)
                if np.hypot(*(T[:2, 3] - T_world_ego[:2, 3])) < REACH:
                    near.append((i, T))
        return near

    def _may_show_actors(self, t: float, rig: Rig) -> np.ndarray | None:
        """Pixels outside which these cameras show nothing that moves: bool [N, H, W]; None: not known."""
        return None

    def _cast(
        self, dynamic: Scene, origins: np.ndarray, directions: np.ndarray, asked: np.ndarray | None = None
    ) -> _Hits:
        """The nearest of what is still and what moves; rays that are not `asked` meet only the former."""
        import open3d as o3d

        rays = np.concatenate([origins.reshape(-1, 3), directions.reshape(-1, 3)], 1).astype(np.float32)
        scene, things = dynamic
        still = {
            k: v.numpy() for k, v in self._static_scene.cast_rays(o3d.core.Tensor.from_numpy(rays), nthreads=1).items()
        }
        distance, normals, triangles, uv = (
            still[k] for k in ("t_hit", "primitive_normals", "primitive_ids", "primitive_uvs")
        )
        thing = np.where(np.isfinite(distance), still["geometry_ids"].astype(np.int64), SKY)
        tried = np.arange(len(rays)) if asked is None else np.flatnonzero(asked)
        if len(things) > 1 and len(tried):
            chosen = rays if asked is None else rays[tried]
            moving = {k: v.numpy() for k, v in scene.cast_rays(o3d.core.Tensor.from_numpy(chosen), nthreads=1).items()}
            nearer = np.flatnonzero(moving["t_hit"] < distance[tried])
            rows = tried[nearer]
            distance, thing, normals, triangles, uv = (x.copy() for x in (distance, thing, normals, triangles, uv))
            distance[rows] = moving["t_hit"][nearer]
            normals[rows] = moving["primitive_normals"][nearer]
            triangles[rows] = moving["primitive_ids"][nearer]
            uv[rows] = moving["primitive_uvs"][nearer]
            thing[rows] = things[moving["geometry_ids"][nearer].astype(np.int64)]
        reach = np.where(thing == SKY, 1.0, distance).astype(np.float32)
        return _Hits(thing, distance, rays[:, :3] + rays[:, 3:] * reach[:, None], normals, triangles, uv)

    def _rays(self, T_world_cam: np.ndarray) -> Float[np.ndarray, "N H W 3"]:
        """The rig's rays in world axes."""
        return np.einsum("nhwj,nij->nhwi", self.rig.rays(), T_world_cam[:, :3, :3], optimize=True)

    def _row(self, thing: np.ndarray) -> np.ndarray:
        return np.minimum(thing, len(self._labels) - 1)

    def _actor_poses(self, t: float) -> Float[np.ndarray, "actors 4 4"]:
        """World pose of everything that moves."""
        poses = [a.pose(self.world.line, t) for a in self.world.actors]
        return np.stack(poses) if poses else np.zeros((0, 4, 4))

    def _thing_poses(self, t: float) -> Float[np.ndarray, "things 4 4"]:
        """World pose of everything, the sky last."""
        still = [np.eye(4)] * len(self.ground) + [T for _, T in self.statics]
        return np.concatenate([np.stack(still), self._actor_poses(t), np.eye(4)[None]])

    def _velocity(self, i: int, t: float, step: float = 0.02) -> Float[np.ndarray, "3"]:
        """World velocity (m/s) of an actor, by central difference."""
        actor = self.world.actors[i]
        before, after = (actor.pose(self.world.line, t + sign * step) for sign in (-1, 1))
        return (after[:3, 3] - before[:3, 3]) / (2 * step)

    # -- appearance -----------------------------------------------------------------------------------------------

    def _colour(self, t: float, hits: _Hits, directions: np.ndarray, K: np.ndarray) -> np.ndarray:
        """Texture, light, sky, exposure and sensor noise: uint8 [N, H, W, 3]."""
        shape = directions.shape[:3]
        row = self._row(hits.thing)
        local = self._local(hits.points, row, self._thing_poses(t)) + self._offsets[row]
        footprint = (hits.distance.reshape(shape) / K[:, 0, 0, None, None].astype(np.float32)).ravel()
        surface = self._colours[row] * texture.noise(local, np.minimum(footprint, 1e3).astype(np.float32))[:, None]
        lit = 0.62 + 0.45 * np.abs(hits.normals @ self.world.light.astype(np.float32))
        surface *= lit[:, None] * np.float32(self.world.brightness)
        up = directions.reshape(-1, 3)[:, 2] / np.linalg.norm(directions.reshape(-1, 3), axis=1)
        sky = np.array([0.62, 0.74, 0.92]) + (0.35 - np.clip(up, 0, 1))[:, None] * np.array([0.35, 0.25, 0.1])
        image = np.where((hits.thing == SKY)[:, None], sky * self.world.brightness, surface).reshape(*shape, 3)
        rng = np.random.default_rng([self.seed, 3, round(t * 1e6) % 2**32])
        exposure = 1 + 0.06 * np.sin(0.7 * t + np.arange(shape[0]) * 1.3) + rng.normal(0, 0.01, shape[0])
        image = image * exposure[:, None, None, None].astype(np.float32)
        image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(0.008)
        return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)

    def _local(self, points: np.ndarray, row: np.ndarray, poses: np.ndarray) -> np.ndarray:
        """World points in the axes of the thing that each lies on, so that texture moves with it."""
        inverse = np.linalg.inv(poses).astype(np.float32)[row]
        return np.einsum("nij,nj->ni", inverse[:, :3, :3], points.astype(np.float32)) + inverse[:, :3, 3]

    # -- truth ----------------------------------------------------------------------------------------------------

    def _flow(self, t: float, dt: float, hits: _Hits, shape: tuple[int, int, int]) -> np.ndarray:
        """Optical flow (px) to the frame at t + dt; NaN for the sky and what ends up behind the camera."""
        unknown = (hits.thing == SKY).reshape(shape)
        thing, points = self._row(hits.thing).reshape(shape), hits.points.reshape(*shape, 3)
        v, u = np.mgrid[: shape[1], : shape[2]]
        flow = np.empty((*shape, 2), np.float32)
        for instant in self._instants:
            cameras, at = instant.cameras, t + instant.offset
            moved = self._moved(points[cameras], thing[cameras], at, dt)
            T_cam_world = np.linalg.inv(self.pose(at + dt) @ instant.rig.T_ego_cam())
            seen = np.einsum("nij,npj->npi", T_cam_world[:, :3, :3], moved.reshape(len(moved), -1, 3), optimize=True)
            seen += T_cam_world[:, None, :3, 3]
            pixels, reach = instant.rig.project(seen)
            pixels -= np.stack([u.ravel(), v.ravel()], -1)
            pixels[(reach < 0.1) | unknown[cameras].reshape(len(moved), -1)] = np.nan
            flow[cameras] = pixels.reshape(flow[cameras].shape)
        return flow

    def _moved(self, points: np.ndarray, thing: np.ndarray, t: float, dt: float) -> np.ndarray:
        """World points [..., 3] on things [...] at time t, where they are at t + dt."""
        moving = (thing >= self._first_actor) & (thing < len(self._labels) - 1)
        now, later = self._actor_poses(t), self._actor_poses(t + dt)
        step = (later @ np.linalg.inv(now))[thing[moving] - self._first_actor].astype(np.float32)
        moved = points.copy()
        moved[moving] = np.einsum("nij,nj->ni", step[:, :3, :3], moved[moving]) + step[:, :3, 3]
        return moved

    def _sweep(
        self, t: float, mount: LidarMount, dynamic: Scene, T_world_ego: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """LiDAR returns in ego axes [P, 3] (m) and the velocity of what they hit [P, 2] (m/s)."""
        origin = self.rig.lidar_origin
        elevation = np.radians(np.linspace(mount.lowest, mount.highest, mount.beams))
        azimuth = np.arange(mount.columns) * (2 * np.pi / mount.columns)
        e, a = (x.ravel() for x in np.meshgrid(elevation, azimuth, indexing="ij"))
        local = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], 1)
        R, start = T_world_ego[:3, :3], T_world_ego[:3, :3] @ origin + T_world_ego[:3, 3]
        hits = self._cast(dynamic, np.broadcast_to(start, local.shape), local @ R.T)
        kept = (hits.thing != SKY) & (hits.distance < mount.range)
        rng = np.random.default_rng([self.seed, 4, round(t * 1e6) % 2**32])
        ranges = hits.distance[kept] + rng.normal(0, 0.02, kept.sum())
        points = (origin + local[kept] * ranges[:, None]).astype(np.float32)
        speeds = np.zeros((len(self._labels), 3))
        for i in np.unique(hits.thing[kept & (hits.thing >= self._first_actor)]) - self._first_actor:
            speeds[self._first_actor + i] = self._velocity(int(i), t)
        return points, (speeds[self._row(hits.thing[kept])] @ R)[:, :2].astype(np.float32)

    def _lidar_reaches(
        self, mount: LidarMount, dynamic: Scene, points: np.ndarray, T_world_ego: np.ndarray
    ) -> np.ndarray:
        """Which points (m, ego axes) the LiDAR sees, within its vertical field of view."""
        origin = self.rig.lidar_origin
        offsets = points - origin
        distance = np.linalg.norm(offsets, axis=1)
        elevation = np.degrees(np.arcsin(np.clip(offsets[:, 2] / distance, -1, 1)))
        reached = (elevation >= mount.lowest) & (elevation <= mount.highest)
        start = T_world_ego[:3, :3] @ origin + T_world_ego[:3, 3]
        directions = (offsets[reached] / distance[reached, None]) @ T_world_ego[:3, :3].T
        hits = self._cast(dynamic, np.broadcast_to(start, directions.shape), directions)
        reached[reached] = hits.distance >= distance[reached] - 0.5 * self._occupancy.grid.voxel_size
        return reached


def _ground_meshes(
    points: np.ndarray, heading: np.ndarray, centre: np.ndarray
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Open ground, road and pavement with kerbs: class, vertices [V, 3] (m) and triangles [F, 3] of each."""
    left = np.stack([-np.sin(heading), np.cos(heading)], 1)

    def strip(a: float, za: float, b: float, zb: float, first: int) -> tuple[np.ndarray, np.ndarray]:
        edges = [np.column_stack([points + left * d, np.full(len(points), z)]) for d, z in ((a, za), (b, zb))]
        i = np.arange(len(points) - 1)
        n = len(points)
        faces = np.concatenate([np.stack([i, i + n, i + 1], 1), np.stack([i + 1, i + n, i + n + 1], 1)])
        return np.concatenate(edges), faces + first

    far = 400.0
    square = np.array([[centre[0] + x, centre[1] + y, -0.02] for x in (-far, far) for y in (-far, far)])
    ground = (square, np.array([[0, 2, 1], [1, 2, 3]]))
    road = strip(ROAD, 0.0, -ROAD, 0.0, 0)
    strips, first = [], 0
    for side in (-1, 1):
        for a, za, b, zb in ((ROAD, 0, ROAD, KERB), (ROAD, KERB, PAVEMENT, KERB), (PAVEMENT, KERB, PAVEMENT, -0.02)):
            strips.append(strip(side * a, za, side * b, zb, first))
            first += 2 * len(points)
    pavement = tuple(np.concatenate(x) for x in zip(*strips, strict=True))
    kinds = {"ground": ground, "road": road, "kerb": pavement}
    return [(label, v.astype(np.float32), t.astype(np.uint32)) for label, (v, t) in kinds.items()]


def _fields(hits: _Hits) -> tuple[np.ndarray, ...]:
    return tuple(vars(hits).values())
