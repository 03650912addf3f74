"""The node's parameters: one dataclass from which the ROS declarations, the YAML and the documentation are made."""

import array
import dataclasses
import difflib
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.validate_topic_name import validate_topic_name

from letocc_core.engines.backends import BACKENDS
from letocc_core.errors import ConfigError
from letocc_core.stream.assembler import AssemblerConfig
from letocc_core.stream.consumers.costmap import Band
from letocc_core.stream.topics import is_rectified

STREET_CAMERAS = (
    "camera_front",
    "camera_front_left",
    "camera_front_right",
    "camera_back",
    "camera_back_left",
    "camera_back_right",
)
SHIPPED_CHECKPOINT = Path("models") / "street.safetensors"  # below the package's share folder
TRANSPORTS = ("compressed", "raw")
RELIABILITIES = ("best_effort", "reliable")
VOXEL_COLOURS = ("height", "probability", "speed")


def _parameter(
    default: Any,
    description: str,
    unit: str = "",
    range: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """A dataclass field; `live` parameters may change while the node is active, the others when it is unconfigured."""
    metadata = {"description": description, "unit": unit, "range": range, "choices": choices, "live": live}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of `occ_flow_node`. Raises `ConfigError` for a value outside its range or choices."""

    checkpoint: str = _parameter("", "Checkpoint to run (.safetensors); empty: the shipped street model.")
    config: str = _parameter("", "Training YAML that the checkpoint must have been made with; empty: any.")
    device: str = _parameter("cpu", "Where the network runs: cpu, cuda, cuda:1, ...")
    backend: str = _parameter(
        "torch",
        "What computes the network: torch, torch_bfloat16 (on processors and GPUs that have it), or an engine that reads the "
        "graphs of `letocc export` beside the checkpoint.",
        choices=BACKENDS,
    )
    threads: int = _parameter(0, "CPU threads of the network; 0: as PyTorch chooses.", range=(0, 256))
    cameras: tuple[str, ...] = _parameter(
        ("",),
        "Camera namespaces: images on <camera>/<image_topic>[/compressed], intrinsics on <camera>/camera_info. "
        "A set of images is anchored on the first one. Empty: those that the checkpoint was trained with.",
    )
    image_topic: str = _parameter(
        "image_raw",
        "Name of the images below each camera's namespace. A name with `rect` in it, such as image_rect, means rectified "
        "images: P of camera_info holds for them, and they have no distortion.",
    )
    transport: str = _parameter("compressed", "How images come: compressed (JPEG, PNG) or raw.", choices=TRANSPORTS)
    image_reliability: str = _parameter(
        "best_effort",
        "QoS of the image subscriptions. best_effort works with every driver; reliable loses no image, but needs reliable drivers.",
        choices=RELIABILITIES,
    )
    body_masks: str = _parameter(
        "",
        "Folder of masks of the vehicle's own body: a PNG for each camera, white where the body is in the picture. White "
        "pixels give no evidence and see no voxel. Empty: those that the checkpoint was trained with; none: no masks.",
    )
    base_frame: str = _parameter(
        "",
        "Ego frame: x forward, y left, z up, on the road. Empty: that of the recordings that the checkpoint was trained on, "
        "or base_link.",
    )
    fixed_frame: str = _parameter(
        "", "Frame in which the world stands still. Empty: that of the checkpoint's recordings, or odom."
    )
    odometry_topic: str = _parameter(
        "",
        "Take the vehicle's pose in fixed_frame from this nav_msgs/Odometry topic, whatever /tf says. Empty: as in the "
        "checkpoint's recordings, or from /tf.",
    )
    slop: float = _parameter(
        0.0,
        "Largest distance of an image's stamp from the set's; 0: as in the checkpoint's recordings, or "
        f"{AssemblerConfig.slop:g} s, or what `recording` needs.",
        "s",
        (0, 1),
    )
    recording: str = _parameter(
        "",
        "Bag that is about to be played: where its cameras do not fire together and slop is 0, that which groups them is taken.",
    )
    max_wait: float = _parameter(
        AssemblerConfig.max_wait, "A set waits this long, in stamps, for missing cameras.", "s", (0, 10)
    )
    camera_timeout: float = _parameter(
        AssemblerConfig.camera_timeout,
        "A camera without images for this long, in stamps, counts as away: sets do not wait for it. While the first camera "
        "is away, the next one anchors the sets. 0: no camera ever counts as away.",
        "s",
        (0, 3600),
    )
    max_pose_wait: float = _parameter(
        AssemblerConfig.max_pose_wait, "A set waits this long, in stamps, for transforms and intrinsics.", "s", (0, 10)
    )
    max_extrapolation: float = _parameter(
        AssemblerConfig.max_extrapolation,
        "A transform may be extrapolated this far once max_pose_wait is over.",
        "s",
        (0, 1),
    )
    max_clock_lead: float = _parameter(
        1.0, "Images stamped further ahead of this node's clock are refused.", "s", (0, 1000000)
    )
    tf_duration: float = _parameter(AssemblerConfig.tf_duration, "How long transforms are kept.", "s", (0.1, 600))
    require_all: bool = _parameter(
        AssemblerConfig.require_all, "Drop sets in which a camera is missing instead of going on without it."
    )
    threshold: float = _parameter(
        0.0, "A voxel is occupied above this probability; 0: as the checkpoint says.", range=(0, 1), live=True
    )
    surface_threshold: float = _parameter(
        0.0,
        "And above this one where a camera's rays most probably end; 0: as the checkpoint says, 1: nowhere.",
        range=(0, 1),
        live=True,
    )
    min_speed: float = _parameter(
        0.5,
        "Matter slower than this stands still: it gets no motion line and belongs to no moving object.",
        "m/s",
        (0, 100),
        live=True,
    )
    min_object_voxels: int = _parameter(
        3, "Objects of fewer connected moving voxels are ignored.", range=(1, 100000), live=True
    )
    points_min_height: float = _parameter(
        -100.0, "~/points leaves out voxels below this height above base_frame.", "m", (-100, 100), live=True
    )
    points_max_height: float = _parameter(
        100.0, "~/points leaves out voxels above this height above base_frame.", "m", (-100, 100), live=True
    )
    costmap_min_height: float = _parameter(
        0.3, "~/costmap leaves out voxels below this height above base_frame.", "m", (-100, 100), live=True
    )
    costmap_max_height: float = _parameter(
        2.0, "~/costmap leaves out voxels above this height above base_frame.", "m", (-100, 100), live=True
    )
    costmap_bands: tuple[str, ...] = _parameter(
        ("",),
        "More costmaps from the same answer, each of a band of heights: `low 0.1 0.6` publishes ~/costmap_low, which shows "
        "what lies between 0.1 and 0.6 m above base_frame.",
    )
    costmap_frame: str = _parameter(
        "fixed_frame",
        "Frame of the costmaps. fixed_frame: their cells stand still in the world, as Nav2 wants them. base_frame: they move "
        "with the vehicle.",
        choices=("fixed_frame", "base_frame"),
        live=True,
    )
    costmap_moving: str = _parameter(
        "include",
        "Whether costmaps show matter faster than min_speed. With exclude its voxels count as free, so that walkers leave no "
        "trail.",
        choices=("include", "exclude"),
        live=True,
    )
    clearing_blind_range: float = _parameter(
        4.0,
        "Rays of ~/clearing start at base_frame. Up to this distance they pass through space that no camera sees, such as "
        "that around the vehicle itself.",
        "m",
        (0, 100),
        live=True,
    )
    believe_hidden: bool = _parameter(
        False,
        "Costmaps, ~/clearing, ~/points and ~/objects take hidden matter as the network believes it. Otherwise hidden cells "
        "are unknown, and hidden points and objects are left out.",
        live=True,
    )
    voxel_colour: str = _parameter(
        "height",
        "What the colour of a voxel in ~/markers shows: height, probability, or speed (0 to 10 m/s).",
        choices=VOXEL_COLOURS,
        live=True,
    )
    motion_colour: tuple[float, ...] = _parameter(
        (1.0, 0.2, 0.1), "Colour of motion lines and moving objects: red, green, blue, each 0 to 1.", live=True
    )
    publish_occupancy: bool = _parameter(True, "Publish ~/occupancy while someone listens.", live=True)
    publish_points: bool = _parameter(True, "Publish ~/points while someone listens.", live=True)
    publish_costmap: bool = _parameter(True, "Publish ~/costmap while someone listens.", live=True)
    publish_clearing: bool = _parameter(True, "Publish ~/clearing while someone listens.", live=True)
    publish_markers: bool = _parameter(True, "Publish ~/markers while someone listens.", live=True)
    publish_objects: bool = _parameter(False, "Publish ~/objects while someone listens.", live=True)
    snapshot_folder: str = _parameter("~/.ros/snapshots", "Where ~/save_snapshot writes.", live=True)
    autostart: bool = _parameter(True, "Configure and activate without being asked to by a lifecycle manager.")

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field.name, getattr(self, field.name), field.metadata)
        if (self.cameras != ("",) and not all(self.cameras)) or len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f"parameter 'cameras' is {list(self.cameras)}, expected one name or more, none twice")
        topics = {c: f"{c}/{self.image_topic}" for c in self.cameras if c} | {"odometry_topic": self.odometry_topic}
        for name, topic in topics.items():
            _check_topic(name, topic)
        if len(self.motion_colour) != 3 or not all(0 <= c <= 1 for c in self.motion_colour):
            raise ConfigError(
                f"parameter 'motion_colour' is {list(self.motion_colour)}, expected three numbers, 0 to 1"
            )
        for name in ("points", "costmap"):
            low, high = getattr(self, f"{name}_min_height"), getattr(self, f"{name}_max_height")
            if not low < high:
                raise ConfigError(
                    f"parameter '{name}_min_height' is {low} m, expected less than '{name}_max_height' ({high} m)"
                )

        _ = self.bands

    @property
    def bands(self) -> dict[str, Band]:
        """Bands of heights by the names of their topics: `costmap`, and `costmap_NAME` of each in `costmap_bands`."""
        found = {"costmap": Band(self.costmap_min_height, self.costmap_max_height)}
        for text in filter(None, self.costmap_bands):
            name, *numbers = text.split()
            try:
                lowest, highest = map(float, numbers)
            except ValueError:
                raise ConfigError(
                    f"parameter 'costmap_bands': '{text}', expected a band such as 'low 0.1 0.6'"
                ) from None
            topic = f"costmap_{name}"
            if topic in found or not re.fullmatch(r"\w+", name, re.ASCII):
                raise ConfigError(
                    f"parameter 'costmap_bands': '{text}': names are letters and digits, none of them twice"
                )
            found[topic] = Band(lowest, highest)
        return found

    @property
    def rectified(self) -> bool:
        """Whether the images are rectified before they come."""
        return is_rectified(self.image_topic)

    def images_of(self, camera: str) -> str:
        """The topic of a camera's images, relative to the node's namespace."""
        return f"{camera}/{self.image_topic}" + ("/compressed" if self.transport == "compressed" else "")

    @property
    def assembler(self) -> AssemblerConfig:
        """How messages become sets."""
        own = {f.name for f in dataclasses.fields(self)}
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(AssemblerConfig) if f.name in own}
        left_open = [name for name in ("base_frame", "fixed_frame", "slop") if not values[name]]  # see `resolved`
        values = {name: value for name, value in values.items() if name not in left_open}
        return AssemblerConfig(**values, odometry=bool(self.odometry_topic))


LEFT_OPEN = ("base_frame", "fixed_frame", "odometry_topic", "slop")  # what `resolved` settles; /diagnostics shows it


def resolved(p: NodeParameters, metadata: Mapping[str, Any], slop: float = 0.0) -> NodeParameters:
    """The same with what was left open taken from the recordings that a checkpoint was trained on, or else the usual names.

    Args:
        metadata: of the checkpoint (`letocc_core.checkpoint.read_metadata`).
        slop: s, in place of the checkpoint's; 0: that.
    """
    trained = (metadata.get("config", {}).get("data") or {}).get("bag") or {}
    usual = {"base_frame": AssemblerConfig.base_frame, "fixed_frame": AssemblerConfig.fixed_frame}
    usual |= {"odometry_topic": "", "slop": AssemblerConfig.slop}
    trained = trained | ({"slop": slop} if slop else {})
    found = {name: getattr(p, name) or trained.get(name) or value for name, value in usual.items()}
    cameras = p.cameras if any(p.cameras) else tuple(metadata.get("cameras", ())) or STREET_CAMERAS
    return dataclasses.replace(p, cameras=cameras, **found)


def declare(node: Node) -> NodeParameters:
    """Declare every parameter with type, range and description, and read them.

    Raises `ConfigError` for a value outside its range or choices or that is no number where one is expected, rclpy's
    exceptions for one of another type.
    """
    for field in dataclasses.fields(NodeParameters):
        node.declare_parameter(field.name, _plain(field.default), descriptor(field))
    return read(node)


def read(node: Node, changes: Sequence[Parameter] = ()) -> NodeParameters:
    """The parameters as they are, or as they would be after `changes`. Raises `ConfigError`."""
    values = {f.name: node.get_parameter(f.name).value for f in dataclasses.fields(NodeParameters)}
    return from_mapping(values | {p.name: p.value for p in changes})


def from_mapping(values: Mapping[str, Any]) -> NodeParameters:
    """The parameters that these values, as ROS or YAML holds them, set; others are left out. Raises `ConfigError`."""
    known = {f.name: f for f in dataclasses.fields(NodeParameters)}
    return NodeParameters(**{name: _value(known[name], value) for name, value in values.items() if name in known})


def _value(field: dataclasses.Field, value: Any) -> Any:
    """What ROS holds as the dataclass has it: lists as tuples, whole numbers as floats where floats are meant."""
    if not _is_float(field):
        return tuple(value) if isinstance(value, (list, array.array)) else value
    if isinstance(field.default, tuple):
        items = value if isinstance(value, (list, tuple, array.array)) else [None]
        return tuple(_number(field, item, value) for item in items)
    return _number(field, value, value)


def _number(field: dataclasses.Field, item: Any, given: Any) -> float:
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        kind = "numbers" if isinstance(field.default, tuple) else "a number"
        raise ConfigError(f"parameter '{field.name}' is {given!r}, expected {kind}")
    return float(item)


def _is_float(field: dataclasses.Field) -> bool:
    return isinstance(field.default[0] if isinstance(field.default, tuple) else field.default, float)


def unknown(node: Node) -> list[str]:
    """A sentence for every parameter that was given, in a file or on the command line, and that the node has not.

    Before or after they are declared.
    """
    given = getattr(node, "_parameter_overrides", {})  # rclpy has no public name for them
    known = [f.name for f in dataclasses.fields(NodeParameters)]
    names = [name for name in given if name not in known and not node.has_parameter(name)]
    names = [name for name in names if not name.startswith("qos_overrides.")]
    near = {name: difflib.get_close_matches(name, known, n=1) for name in names}
    others = "`ros2 param list` names those that there are"
    return [
        f"parameter '{name}' is unknown and has no effect; " + (f"did you mean '{like[0]}'?" if like else others)
        for name, like in near.items()
    ]


def fixed_while_configured(changes: list[Parameter]) -> list[str]:
    """Those of the changed parameters that a configured node cannot take."""
    live = {f.name for f in dataclasses.fields(NodeParameters) if f.metadata["live"]}
    known = {f.name for f in dataclasses.fields(NodeParameters)}
    return [p.name for p in changes if p.name in known - live]


def descriptor(field: dataclasses.Field) -> ParameterDescriptor:
    """What `ros2 param describe` shows."""
    meta = field.metadata
    out = ParameterDescriptor(
        description=meta["description"] + (f" Unit: {meta['unit']}." if meta["unit"] else ""),
        additional_constraints="; ".join(_constraints(meta)),
    )
    out.dynamic_typing = _is_float(field)  # for whole numbers; what is no number is refused as the values are read
    if meta["range"] and isinstance(field.default, float):
        low, high = map(float, meta["range"])
        out.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif meta["range"]:
        low, high = meta["range"]
        out.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return out


def _constraints(meta: Mapping[str, Any]) -> Iterator[str]:
    if meta["choices"]:
        yield f"one of {', '.join(meta['choices'])}"
    yield "can change while active" if meta["live"] else "can change only while unconfigured"


def defaults() -> dict[str, Any]:
    """Default of every parameter, as YAML has it."""
    return {f.name: _plain(f.default) for f in dataclasses.fields(NodeParameters)}


def yaml_text() -> str:
    """The whole of config/occ_flow.yaml: every parameter with its default, and its meaning above it."""
    lines = ["# Parameters of occ_flow_node, at their defaults: copy the file and change what differs on your robot."]
    lines += ["# Made by: python -m letocc_ros.parameters yaml", "/**:", "  ros__parameters:"]
    for field in dataclasses.fields(NodeParameters):
        lines += textwrap.wrap(_meaning(field), 112, initial_indent="    # ", subsequent_indent="    # ")
        value = yaml.safe_dump(_plain(field.default), default_flow_style=True, width=1000).removesuffix("\n")
        lines.append(f"    {field.name}: {value.removesuffix('...').strip()}")
    return "\n".join(lines) + "\n"


def markdown_table() -> str:
    """The table of the README. Made by: python -m letocc_ros.parameters table"""
    return "\n".join(["| parameter | type | default | meaning |", "| --- | --- | --- | --- |", *_rows()])


def _rows() -> Iterator[str]:
    for field in dataclasses.fields(NodeParameters):
        default = _plain(field.default)
        kind = f"{_kind(default[0])} list" if isinstance(default, list) else _kind(default)
        shown = ", ".join(map(str, default)) if isinstance(default, list) else str(default)
        yield f"| `{field.name}` | {kind} | {shown or '(empty)'} | {_meaning(field)} |".replace("<", "\\<")


def _kind(value: Any) -> str:
    return "string" if isinstance(value, str) else type(value).__name__


def _meaning(field: dataclasses.Field) -> str:
    """Description, limits and unit in one line."""
    meta, text = field.metadata, field.metadata["description"]
    if meta["range"]:
        text += f" {meta['range'][0]} to {meta['range'][1]} {meta['unit']}".rstrip() + "."
    elif meta["unit"]:
        text += f" Unit: {meta['unit']}."
    return text + (" Can change while active." if meta["live"] else "")


def _check(name: str, value: Any, meta: Any) -> None:
    if meta["range"] and not meta["range"][0] <= value <= meta["range"][1]:
        low, high = meta["range"]
        raise ConfigError(f"parameter '{name}' is {value}, expected {low} to {high} {meta['unit']}".rstrip())
    if meta["choices"] and value not in meta["choices"]:
        raise ConfigError(f"parameter '{name}' is '{value}', expected one of {', '.join(meta['choices'])}")


def _check_topic(name: str, topic: str) -> None:
    try:
        if topic:
            validate_topic_name(topic)
    except InvalidTopicNameException as error:
        raise ConfigError(f"'{name}': '{topic}' is not a topic name: {error}") from error


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    print({"yaml": yaml_text, "table": markdown_table}[sys.argv[1]]().rstrip("\n"))
