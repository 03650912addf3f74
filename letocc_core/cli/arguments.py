"""Arguments that several commands take, and how their text is read."""

import argparse
from typing import Any

RECORDING = ("cameras", "base_frame", "fixed_frame", "odometry_topic", "lidar_topic", "slop", "body_masks")


def add_recording(p: argparse.ArgumentParser, default: str = "") -> None:
    """How a bag is to be read, the same for every command that takes one; `recording` gives what was said.

    Args:
        default: where the values come from that are not given; empty: they are those of `Recording`.
    """
    group = p.add_argument_group("how the bag is read", default or None)
    group.add_argument("--cameras", type=cameras, metavar="NAME,...", help="use only these cameras, the anchor first")
    group.add_argument("--base-frame", metavar="FRAME", help="ego frame, on the road (base_link)")
    group.add_argument("--fixed-frame", metavar="FRAME", help="frame in which the world stands still (odom)")
    group.add_argument("--odometry-topic", metavar="TOPIC", help="take the ego poses from this topic, not from /tf")
    group.add_argument("--lidar-topic", metavar="TOPIC", help="topic of the LiDAR (/points, or else the first)")
    group.add_argument(
        "--body-masks", metavar="DIR", help="masks of the vehicle's own body (`letocc bag mask`); none: no masks"
    )
    group.add_argument("--slop", type=float, metavar="S", help="largest distance of stamps in an image set, s (0.02)")


def recording(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_recording` that were given, by the names that `Recording` has."""
    return {name: value for name in RECORDING if (value := getattr(options, name)) is not None}


def cameras(text: str) -> tuple[str, ...]:
    """`front,left` as names."""
    names = tuple(name.strip().strip("/") for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of different names such as front,left")
    return names


def add_workers(p: argparse.ArgumentParser, what: str = "processes", default: int = 2) -> None:
    """How many share the work, and where: `run` of the command line sees to `--ray`."""
    p.add_argument("--workers", type=int, default=default, help=f"{what} (default: {default})")
    p.add_argument(
        "--ray", metavar="ADDRESS",
        help="share the work over a Ray cluster instead: HOST:6379, auto, or local for --workers processes of Ray here",
    )  # fmt: skip


NEEDS_ROS = "'letocc {name}' needs ROS 2 ({error}); source a ROS installation or this project's scripts/env.sh"


def classes(text: str) -> dict[str, tuple[str, ...]]:
    """`vehicle=car,truck;road=road` as a mapping."""
    found = dict(part.split("=", 1) for part in text.split(";") if part.count("=") == 1)
    if not found or len(found) != len(text.split(";")):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list such as 'vehicle=car,truck;road=road'")
    return {name.strip(): tuple(label.strip() for label in labels.split(",")) for name, labels in found.items()}


def shard(text: str) -> tuple[int, int]:
    """`2/8`, the second of eight parts, as two numbers."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a part such as 2/8")
    return int(part), int(parts)


def seed_range(text: str) -> range:
    """`9000-9007` (inclusive), or one number, as a range."""
    first, _, last = text.partition("-")
    try:
        return range(int(first), int(last or first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a range such as 9000-9007") from None
