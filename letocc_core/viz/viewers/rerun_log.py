"""Answers over time for the Rerun viewer: into a file, or to a viewer that runs (extra `view`).

    with RerunLog([Path("run.rrd")]) as log:
        log.add(scene)

Below `world/ego`, whose transform is the vehicle's pose:

| entity | what |
| --- | --- |
| `voxels/height`, `voxels/speed`, `voxels/probability` | occupied voxels, coloured by what the name says |
| `hidden` | matter that is only guessed, behind a surface or where no camera looks; faint |
| `motion`, `objects` | arrows and boxes of what moves |
| `cameras/NAME/image`, `cameras/NAME/voxels` | image, and the occupied voxels that its pixels look at |
| `lidar`, `truth` | where there are any |

Beside it `depth/NAME` (m), `world/path`, `plots/latency` (ms), `plots/drops` and `plots/scores`.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from letocc_core.errors import DataError
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream import images
from letocc_core.stream.types import FrameSet
from letocc_core.viz import colours
from letocc_core.viz.overview import left_to_right
from letocc_core.viz.viewers.rerun_sdk import rerun_sdk
from letocc_core.viz.viewers.scene import (
    PALETTES,
    CameraVoxels,
    Scene,
    Voxels,
    guessed,
    layer_colours,
    look,
    reduced,
    surface,
    voxels_of,
)
from letocc_core.viz.voxels import EGO_BOX

APPLICATION = "letocc"
TIME = "time"  # the timeline: stamps of the image sets
RAYS = 112  # a row of an image, to look for voxels
JPEG_QUALITY = 85
ARROW_SECONDS = 1.0  # s; an arrow is as long as the way in this time
FAINT = 40  # alpha of what is only guessed, of 255
LEGEND = """
**Voxels by height**: ground brown, then violet (0.3 m) to yellow (4 m).

**By speed**: brown stands; violet (0.5 m/s) to orange (10 m/s).

**By probability**: violet (0) to yellow (1).

**Faint**: a guess, behind a surface or where no camera looks.

**Arrows**: the way in one second. **Boxes**: voxels that move together.

**Orange box**: the vehicle. **Grey points**: LiDAR, for comparison only.
"""


class RerunLog:
    """Sends scenes to files, to a viewer that runs, or to both; a context manager.

    Args:
        files: `.rrd` files to write.
        connect: URL of a running viewer or its server, such as `rerun+http://127.0.0.1:9876/proxy`.

    Raises `MissingDependencyError` without rerun-sdk, `DataError` for a file that cannot be written.
    """

    def __init__(self, files: Sequence[Path] = (), connect: str | None = None):
        self._rr = rerun_sdk()
        self._stream = self._rr.RecordingStream(APPLICATION)
        self._stream.set_log_tick_enabled(False)
        self._stream.set_log_time_enabled(False)
        sinks: list[Any] = [] if connect is None else [self._rr.GrpcSink(connect)]
        sinks += [self._file(path) for path in files]
        self._stream.set_sinks(*sinks)
        self._shown: set[str] = set()  # cameras whose last image is still to be seen
        self._last_place: np.ndarray | None = None
        self._count = 0
        self._layout: tuple[tuple[str, ...], bool] = ((), False)  # cameras from left to right, whether there is a truth

    def _file(self, path: Path) -> Any:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("wb").close()
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error}") from error
        return self._rr.FileSink(str(path))

    def __enter__(self) -> "RerunLog":
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.flush()
        self._stream.disconnect()

    def add(self, scene: Scene) -> None:
        """Log one set at its stamp."""
        rr, answer = self._rr, scene.answer
        if not self._count:
            self._log_static(answer.grid)
        self._lay_out(scene)
        self._stream.set_time(TIME, timestamp=np.datetime64(answer.stamp_ns, "ns"))
        self._stream.set_time("set", sequence=self._count)
        self._count += 1
        self._log("world/ego", _transform(rr, scene.T_world_ego))
        self._log_path(scene.T_world_ego[:3, 3])
        size = answer.grid.voxel_size
        voxels = voxels_of(answer, surface(answer))
        for shown in PALETTES:
            self._log(f"world/ego/voxels/{shown}", _boxes(rr, voxels, size, voxels.colours(shown)))
        behind = voxels_of(answer, guessed(answer))
        faint = np.column_stack([behind.colours("height"), np.full(len(behind.index), FAINT, np.uint8)])
        self._log("world/ego/hidden", _boxes(rr, behind, size, faint))
        self._log_motion(scene)
        if scene.frame_set is not None:
            self._log_cameras(scene, reduced(scene.frame_set))
        if scene.lidar is not None:
            self._log("world/ego/lidar", rr.Points3D(scene.lidar, colors=colours.FAINT, radii=rr.Radius.ui_points(1.5)))
        if scene.truth is not None:
            true = voxels_of(scene.truth, scene.truth.occupied)
            self._log("world/ego/truth", _boxes(rr, true, size, true.colours("height")))
        self._log_plots(scene)

    def _log(self, entity: str, *values: Any, static: bool = False) -> None:
        self._stream.log(entity, *values, static=static)

    def _lay_out(self, scene: Scene) -> None:
        """Tell the viewer its layout, and again when images or truth come that were not there before."""
        frame_set, cameras = scene.frame_set, self._layout[0]
        if frame_set is not None:
            cameras = tuple(scene.cameras[i] for i in left_to_right(frame_set.T_ego_cam))
        layout = (cameras, self._layout[1] or scene.truth is not None)
        if not self._count or layout != self._layout:
            self._stream.send_blueprint(blueprint(*layout))
        self._layout = layout

    def _log_static(self, grid: GridSpec) -> None:
        """What never changes."""
        rr = self._rr
        self._log("world", rr.ViewCoordinates.FLU, static=True)
        self._log("legend", rr.TextDocument(LEGEND, media_type=rr.MediaType.MARKDOWN), static=True)
        vehicle = rr.Boxes3D(
            mins=[EGO_BOX[0]], sizes=[np.subtract(EGO_BOX[1], EGO_BOX[0])], colors=[colours.EGO], fill_mode="solid"
        )
        self._log("world/ego/vehicle", vehicle, static=True)
        layers = [(0, "none", (0, 0, 0, 0))]
        heights = grid.lower[2] + (np.arange(grid.shape[2]) + 0.5) * grid.voxel_size
        for i, (height, colour) in enumerate(zip(heights, layer_colours(grid), strict=True)):
            layers.append((i + 1, f"{height:.1f} m", tuple(colour.tolist())))
        self._log("world/ego/cameras", rr.AnnotationContext(layers), static=True)

    def _log_path(self, place: np.ndarray) -> None:
        """The way since the set before; the view shows all of them."""
        if self._last_place is not None:
            way = self._rr.LineStrips3D([[self._last_place, place]], colors=[colours.EGO], radii=0.08)
            self._log("world/path", way)
        self._last_place = place

    def _log_motion(self, scene: Scene) -> None:
        rr, objects = self._rr, scene.objects
        ways = np.array([(*item.velocity, 0.0) for item in objects]).reshape(-1, 3) * ARROW_SECONDS
        tops = np.array([np.add(i.position, (0, 0, i.size[2] / 2)) for i in objects]).reshape(-1, 3)
        tint = colours.direction_colours(ways[:, :2]) if len(objects) else np.zeros((0, 3), np.uint8)
        self._log("world/ego/motion", rr.Arrows3D(vectors=ways, origins=tops, colors=tint, radii=0.12))
        boxes = rr.Boxes3D(
            centers=[i.position for i in objects],
            sizes=[i.size for i in objects],
            quaternions=[rr.Quaternion(xyzw=(0, 0, np.sin(i.heading / 2), np.cos(i.heading / 2))) for i in objects],
            colors=tint,
            labels=[f"{np.hypot(*i.velocity):.1f} m/s" for i in objects],
            show_labels=False,
        )
        self._log("world/ego/objects", boxes)

    def _log_cameras(self, scene: Scene, small: FrameSet) -> None:
        rr = self._rr
        stride = max(2, -(-max(image.shape[1] for image in small.images if image is not None) // RAYS))
        found = look(scene.answer, small, stride)
        for i, name in enumerate(scene.cameras):
            entity, image, calibration = f"world/ego/cameras/{name}", small.images[i], small.calibrations[i]
            seen = found[i]
            if image is None or calibration is None or seen is None:
                if name in self._shown:
                    self._log(entity, rr.Clear(recursive=True))
                    self._log(f"depth/{name}", rr.Clear(recursive=False))
                self._shown.discard(name)
                continue
            self._shown.add(name)
            height, width = image.shape[:2]
            pinhole = rr.Pinhole(image_from_camera=calibration.K, resolution=(width, height), image_plane_distance=1.5)
            self._log(entity, _transform(rr, small.T_ego_cam[i]), pinhole)
            data = images.encode(image, "jpeg", JPEG_QUALITY)
            self._log(f"{entity}/image", rr.EncodedImage(contents=data, media_type="image/jpeg"))
            self._log_seen(entity, name, seen, stride, (height, width))

    def _log_seen(self, entity: str, name: str, seen: CameraVoxels, stride: int, size: tuple[int, int]) -> None:
        rr = self._rr
        layer = seen.layer.repeat(stride, axis=0).repeat(stride, axis=1)[: size[0], : size[1]]
        self._log(f"{entity}/voxels", rr.SegmentationImage(layer, opacity=0.45))
        millimetres = np.nan_to_num(1000 * seen.depth).clip(0, 65535).astype(np.uint16)
        shown = rr.DepthImage(millimetres, meter=1000.0, colormap="inferno", depth_range=(0, 1000 * colours.FARTHEST))
        self._log(f"depth/{name}", shown)

    def _log_plots(self, scene: Scene) -> None:
        for stage, seconds in scene.answer.seconds.items():
            self._log(f"plots/latency/{stage}", self._rr.Scalars(1e3 * seconds))
        for reason, count in scene.dropped.items():
            self._log(f"plots/drops/{reason}", self._rr.Scalars(count))
        for name, value in scene.figures.items():
            self._log(f"plots/scores/{name}", self._rr.Scalars(value))


def blueprint(cameras: Sequence[str], truth: bool) -> Any:
    """How the viewer is laid out at first: images, depths, voxels with a tab for each colouring, plots."""
    rr = rerun_sdk()
    rrb = rr.blueprint
    pictures = [
        rrb.Spatial2DView(
            origin=f"world/ego/cameras/{name}", contents=["$origin/image", "$origin/voxels"], name=_title(name)
        )
        for name in cameras
    ]
    depths = [rrb.Spatial2DView(origin=f"depth/{name}", name=f"depth {_title(name)}") for name in cameras]
    spaces = [_space(rr, shown, f"voxels/{shown}", hidden=True) for shown in PALETTES]
    if truth:
        spaces.append(_space(rr, "truth", "truth", hidden=False))
    plots = [
        rrb.TimeSeriesView(origin=f"plots/{kind}", name=title)
        for kind, title in (("latency", "time of a set (ms)"), ("drops", "dropped"), ("scores", "scores"))
    ]
    side = rrb.Vertical(*plots, rrb.TextDocumentView(origin="legend", name="colours"))
    body = rrb.Horizontal(rrb.Tabs(*spaces, active_tab=0), side, column_shares=[3, 1])
    rows = [rrb.Horizontal(*pictures), rrb.Horizontal(*depths), body] if cameras else [body]
    return rrb.Blueprint(
        rrb.Vertical(*rows, row_shares=[1, 1, 4] if cameras else [1]),
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
        rrb.TimePanel(state="collapsed", timeline=TIME, loop_mode="all"),
        auto_views=False,
    )


def _space(rr: ModuleType, name: str, voxels: str, hidden: bool) -> Any:
    """A 3D view that goes along with the vehicle, looking ahead from behind and above it."""
    rrb = rr.blueprint
    entities = [voxels, "vehicle", "motion", "objects", "lidar", *(("hidden",) if hidden else ())]
    past = rrb.VisibleTimeRanges(
        timeline=TIME, start=rrb.TimeRangeBoundary.infinite(), end=rrb.TimeRangeBoundary.cursor_relative()
    )
    return rrb.Spatial3DView(
        origin="world/ego",
        name=name,
        contents=[*(f"+ world/ego/{entity}" for entity in entities), "+ world/path"],
        overrides={"world/path": past},
        background=colours.SKY,
        line_grid=False,
        eye_controls=rrb.EyeControls3D(position=(-30.0, 6.0, 22.0), look_target=(6.0, 0.0, 0.0)),
    )


def _boxes(rr: ModuleType, voxels: Voxels, size: float, tint: np.ndarray) -> Any:
    half = np.full((1, 3), size / 2, np.float32)
    return rr.Boxes3D(centers=voxels.centres, half_sizes=half, colors=tint, fill_mode="solid")


def _transform(rr: ModuleType, T: np.ndarray) -> Any:
    return rr.Transform3D(translation=T[:3, 3], mat3x3=T[:3, :3])


def _title(camera: str) -> str:
    return camera.removeprefix("camera_").replace("_", " ")
