"""Renders a street: images by ray casting (Open3D), and the truth of everything in them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from letocc_core.data.simulator import assets, texture
from letocc_core.data.simulator.occupancy import OccupancyTruth
from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.world import KERB, PAVEMENT, ROAD, World
from letocc_core.data.truth import CLASS_NAMES, FREE, MOVABLE_CLASSES, Truth
from letocc_core.geometry.calibration import Calibration
from letocc_core.geometry.grid import GridSpec

EPOCH_NS = 1_700_000_000_000_000_000  # stamp of time 0
SKY = np.iinfo(np.int64).max  # index of "nothing hit"
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
    T_ego_cam: np.ndarray  # [N, 4, 4] m
    T_world_ego: np.ndarray  # [4, 4] m
    lidar_origin: np.ndarray  # [3] m, ego axes
    lidar: np.ndarray | None = None  # float32 [P, 3] m, ego axes
    lidar_velocity: np.ndarray | None = None  # float32 [P, 2] m/s, of the matter relative to the world, ego axes
    truth: Truth | None = None
    T_world_ego_next: np.ndarray | None = None  # [4, 4] m, pose at the frame that truth.flow_forward leads to
    flow_interval: float | None = None  # s until then


@dataclass(frozen=True, eq=False)
class _Hits:
    """What rays met: the thing's index (SKY: nothing), the distance in ray lengths, the point and the face's normal."""

    thing: Int[np.ndarray, "n"]
    distance: Float[np.ndarray, "n"]
    points: Float[np.ndarray, "n 3"]  # m, world
    normals: Float[np.ndarray, "n 3"]  # world


class Street:
    """A seeded street seen by a rig. `render(t)` depends on (seed, rig, t) alone.

    Args:
        rig: cameras and LiDAR, at the image size to render.
        grid: where occupancy truth is wanted; None: images and depth only.
        flow_interval: s to the next and the previous frame, for the truth of optical flow.
    """

    def __init__(self, seed: int, rig: Rig, grid: GridSpec | None = None, flow_interval: float = 0.05):
        self.seed, self.rig, self.grid, self.flow_interval = seed, rig, grid, flow_interval
        self.world = World(seed)
        centre = self.world.T_world_ego(0.0)[:2, 3]
        self.ground = _ground_meshes(self.world.line.points, self.world.line.heading, centre)
        near = [p for p in self.world.statics if np.hypot(*(p.T_world[:2, 3] - centre)) < REACH + 60]
        self.statics = [(p.asset, p.T_world) for p in near]
        self.assets = [a for a, _ in self.statics] + [a.asset for a in self.world.actors]
        colours = [self.world.ground_colour, (0.36,) * 3, (0.55, 0.53, 0.5), *(a.colour for a in self.assets)]
        labels = ["ground", "road", "kerb", *(a.label for a in self.assets)]
        self._colours = np.array([*colours, (0, 0, 0)], np.float32)
        self._labels = np.array([*(CLASS_NAMES.index(label) for label in labels), FREE], np.uint8)
        self._first_actor = len(self.ground) + len(self.statics)
        self._static_scene = self._scene([(v, t, np.eye(4)) for v, t in self.ground] + [
            (*assets.mesh(a), T) for a, T in self.statics
        ])  # fmt: skip
        self._actor_meshes = [assets.mesh(a.asset) for a in self.world.actors]
        self._offsets = np.random.default_rng([seed, 2]).uniform(0, 50, (len(labels) + 1, 3)).astype(np.float32)
        self._offsets[: len(self.ground)] = 0

    @cached_property
    def _occupancy(self) -> OccupancyTruth:
        return OccupancyTruth(self.grid, self.world, self.statics)

    def pose(self, t: float) -> Float[np.ndarray, "4 4"]:
        """base_link in the world at time t (s)."""
        return self.world.T_world_ego(t)

    def render(self, t: float, truth: bool = True, lidar: bool | None = None) -> SimFrame:
        """The image set at time t (s); `truth` adds Truth, `lidar` a sweep (both by default)."""
        T_world_ego = self.pose(t)
        T_ego_cam, K = self.rig.T_ego_cam(), self.rig.intrinsics()
        poses = self._thing_poses(t)
        dynamic = self._actor_scene(t, poses, T_world_ego)
        directions = self._rays(T_world_ego @ T_ego_cam)
        origins = np.broadcast_to((T_world_ego @ T_ego_cam)[:, None, None, :3, 3], directions.shape)
        hits = self._cast(dynamic, origins, directions)
        shape = directions.shape[:3]
        labels = self._labels[self._row(hits.thing)].reshape(shape)
        movable = np.isin(labels, [CLASS_NAMES.index(c) for c in MOVABLE_CLASSES])
        origin = self.rig.lidar_origin
        result = {
            "stamp_ns": EPOCH_NS + round(t * 1e9),
            "images": self._colour(t, hits, directions, poses, K),
            "movable": movable,
            "semantics": labels,
            "K": K,
            "calibrations": self.rig.calibrations(),
            "T_ego_cam": T_ego_cam,
            "T_world_ego": T_world_ego,
            "lidar_origin": origin,
        }
        if self.rig.lidar and (truth if lidar is None else lidar):
            result["lidar"], result["lidar_velocity"] = self._sweep(t, dynamic, T_world_ego, origin)
        if truth:
            result["truth"] = self._truth(t, dynamic, hits, labels, movable, poses, T_ego_cam, T_world_ego, origin)
            result["T_world_ego_next"] = self.pose(t + self.flow_interval)
            result["flow_interval"] = self.flow_interval
        return SimFrame(**result)

    def _truth(self, t, dynamic, hits, labels, movable, poses, T_ego_cam, T_world_ego, origin) -> Truth:
        """Truth of one frame from what the camera rays met."""
        shape = labels.shape
        depth = np.where(hits.thing == SKY, np.inf, hits.distance).reshape(shape).astype(np.float32)
        flow = [self._flow(t, sign * self.flow_interval, hits, poses, T_ego_cam, shape) for sign in (1, -1)]
        if self.grid is None:
            empty = np.zeros((0, 0, 0), np.uint8)
            return Truth(depth, *flow, movable, labels, empty, np.zeros((0, 0, 0, 2), np.float32), empty.astype(bool))
        actors = [
            (a.asset, T, self._velocity(i, t))
            for i, (a, T) in enumerate(zip(self.world.actors, poses[self._first_actor :], strict=False))
            if self._occupancy.is_near(a.asset, T, T_world_ego)
        ]
        occupancy, velocity = self._occupancy.at(T_world_ego, actors)
        visible = self._occupancy.visible(depth, self.rig)
        hidden = np.nonzero(~visible)
        if self.rig.lidar:
            visible[hidden] = self._lidar_reaches(dynamic, self._occupancy.centres[hidden], T_world_ego, origin)
        return Truth(depth, *flow, movable, labels, occupancy, velocity, visible)

    # -- geometry -------------------------------------------------------------------------------------------------

    def _scene(self, meshes):
        """Open3D scene of (vertices, triangles, pose); the geometry id is the position in the list."""
        import open3d as o3d

        scene = o3d.t.geometry.RaycastingScene(nthreads=1)
        for vertices, triangles, T in meshes:
            placed = (vertices @ T[:3, :3].T + T[:3, 3]).astype(np.float32)
            scene.add_triangles(o3d.core.Tensor(placed), o3d.core.Tensor(triangles.astype(np.uint32)))
        return scene

    def _actor_scene(self, t: float, poses: np.ndarray, T_world_ego: np.ndarray):
        """Scene of the actors near the ego vehicle, and the thing that each of its geometries is."""
        near, meshes = [], []
        for i, actor in enumerate(self.world.actors):
            T = poses[self._first_actor + i]
            on_the_line = 0 < actor.along(t) < self.world.line.length
            if on_the_line and np.hypot(*(T[:2, 3] - T_world_ego[:2, 3])) < REACH:
                near.append(self._first_actor + i)
                meshes.append((*self._actor_meshes[i], T))
        return self._scene(meshes), np.array([*near, SKY])

    def _cast(self, dynamic, origins: np.ndarray, directions: np.ndarray) -> _Hits:
        """The nearest of what is still and what moves."""
        import open3d as o3d

        rays = np.concatenate([origins.reshape(-1, 3), directions.reshape(-1, 3)], 1).astype(np.float32)
        scene, things = dynamic
        still = self._static_scene.cast_rays(o3d.core.Tensor(rays), nthreads=1)
        distance, normals = still["t_hit"].numpy(), still["primitive_normals"].numpy()
        ids = still["geometry_ids"].numpy().astype(np.int64)
        thing = np.where(np.isfinite(distance), ids, SKY)
        if len(things) > 1:
            moving = scene.cast_rays(o3d.core.Tensor(rays), nthreads=1)
            nearer = moving["t_hit"].numpy() < distance
            index = moving["geometry_ids"].numpy()[nearer].astype(np.int64)
            distance, thing, normals = distance.copy(), thing.copy(), normals.copy()
            distance[nearer] = moving["t_hit"].numpy()[nearer]
            normals[nearer] = moving["primitive_normals"].numpy()[nearer]
            thing[nearer] = things[index]
        reach = np.where(thing == SKY, 1.0, distance).astype(np.float32)
        return _Hits(thing, distance, rays[:, :3] + rays[:, 3:] * reach[:, None], normals)

    def _rays(self, T_world_cam: np.ndarray) -> Float[np.ndarray, "N H W 3"]:
        """The rig's rays in world axes."""
        return np.einsum("nhwj,nij->nhwi", self.rig.rays(), T_world_cam[:, :3, :3], optimize=True)

    def _row(self, thing: np.ndarray) -> np.ndarray:
        return np.minimum(thing, len(self._labels) - 1)

    def _thing_poses(self, t: float) -> Float[np.ndarray, "things 4 4"]:
        """World pose of everything, the sky last."""
        still = [np.eye(4)] * len(self.ground) + [T for _, T in self.statics]
        return np.stack([*still, *(a.pose(self.world.line, t) for a in self.world.actors), np.eye(4)])

    def _velocity(self, i: int, t: float, step: float = 0.02) -> Float[np.ndarray, "2"]:
        """World velocity (m/s) of an actor, by central difference."""
        actor = self.world.actors[i]
        before, after = (actor.pose(self.world.line, t + sign * step) for sign in (-1, 1))
        return (after[:2, 3] - before[:2, 3]) / (2 * step)

    # -- appearance -----------------------------------------------------------------------------------------------

    def _colour(self, t, hits: _Hits, directions, poses, K) -> np.ndarray:
        """Texture, light, sky, exposure and sensor noise: uint8 [N, H, W, 3]."""
        shape = directions.shape[:3]
        row = self._row(hits.thing)
        local = self._local(hits.points, row, poses) + self._offsets[row]
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

    def _flow(self, t, dt, hits: _Hits, poses, T_ego_cam, shape) -> np.ndarray:
        """Optical flow (px) to the frame at t + dt; NaN for the sky and what ends up behind the camera."""
        row = self._row(hits.thing)
        moved = hits.points
        moving = row >= self._first_actor
        step = np.eye(4)[None].repeat(len(poses), 0)
        later = self._thing_poses(t + dt)
        step[self._first_actor :] = later[self._first_actor :] @ np.linalg.inv(poses[self._first_actor :])
        moved = moved.copy()
        chosen = step[row[moving]].astype(np.float32)
        moved[moving] = np.einsum("nij,nj->ni", chosen[:, :3, :3], moved[moving]) + chosen[:, :3, 3]
        T_cam_world = np.linalg.inv(self.pose(t + dt) @ T_ego_cam)
        seen = np.einsum("nij,npj->npi", T_cam_world[:, :3, :3], moved.reshape(shape[0], -1, 3), optimize=True)
        seen += T_cam_world[:, None, :3, 3]
        pixels, reach = self.rig.project(seen)
        v, u = np.mgrid[: shape[1], : shape[2]]
        flow = pixels - np.stack([u.ravel(), v.ravel()], -1)
        flow[(reach < 0.1) | (hits.thing == SKY).reshape(shape[0], -1)] = np.nan
        return flow.reshape(*shape, 2).astype(np.float32)

    def _sweep(self, t, dynamic, T_world_ego, origin) -> tuple[np.ndarray, np.ndarray]:
        """LiDAR returns in ego axes [P, 3] (m) and the velocity of what they hit [P, 2] (m/s)."""
        mount = self.rig.lidar
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
        speeds = np.zeros((len(self._labels), 2))
        for i in np.unique(hits.thing[kept & (hits.thing >= self._first_actor)]) - self._first_actor:
            speeds[self._first_actor + i] = self._velocity(int(i), t)
        return points, (speeds[self._row(hits.thing[kept])] @ R[:2, :2]).astype(np.float32)

    def _lidar_reaches(self, dynamic, points: np.ndarray, T_world_ego, origin) -> np.ndarray:
        """Which points (m, ego axes) the LiDAR sees, within its vertical field of view."""
        offsets = points - origin
        distance = np.linalg.norm(offsets, axis=1)
        elevation = np.degrees(np.arcsin(np.clip(offsets[:, 2] / distance, -1, 1)))
        reached = (elevation >= self.rig.lidar.lowest) & (elevation <= self.rig.lidar.highest)
        start = T_world_ego[:3, :3] @ origin + T_world_ego[:3, 3]
        directions = (offsets[reached] / distance[reached, None]) @ T_world_ego[:3, :3].T
        hits = self._cast(dynamic, np.broadcast_to(start, directions.shape), directions)
        reached[reached] = hits.distance >= distance[reached] - 0.5 * self.grid.voxel_size
        return reached


def _ground_meshes(points: np.ndarray, heading: np.ndarray, centre: np.ndarray):
    """Open ground, road and pavement with kerbs: (vertices [V, 3] m, triangles [F, 3]) of each."""
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
    return [(v.astype(np.float32), t.astype(np.uint32)) for v, t in (ground, road, pavement)]
