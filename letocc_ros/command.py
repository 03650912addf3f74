"""What this package adds to the `letocc` command: `play` (entry point `letocc.commands`) and `view --live`."""

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from letocc_core.cli import INTERRUPTED, NEEDS_ROS, run, without_ros_arguments
from letocc_core.cli.arguments import add_recording
from letocc_core.ending import GRACE, interrupt_once, leave
from letocc_core.errors import LetOccError

if TYPE_CHECKING:
    from letocc_core.viz.viewers.logs import ViewOptions


def add_play(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand `play`."""
    about = "publish a bag over ROS 2 with /clock, where rosbag2 is not installed"
    _arguments(commands.add_parser("play", help=about))


def view_live(node: str, options: "ViewOptions") -> None:
    """`letocc view --live` (entry point `letocc.live`)."""
    try:
        from letocc_ros.view.live import view_live
    except ImportError as error:
        raise LetOccError(NEEDS_ROS.format(name="view --live", error=error)) from error

    view_live(node, options)


def main() -> None:
    """Entry of `ros2 run letocc_ros play`: the same without the `letocc` before it; to be interrupted is no failure."""
    parser = argparse.ArgumentParser(prog="play")
    _arguments(parser)
    options = parser.parse_args(without_ros_arguments(sys.argv[1:]))
    with suppress(ImportError):  # `run` says what is missing
        import letocc_ros.player  # noqa: F401
    interrupt_once(within=GRACE)
    status = run(options)
    leave(0 if status == INTERRUPTED else status)


def _arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("bag", type=Path)
    p.add_argument("--rate", type=float, default=1.0, help="speed relative to the recording (default: 1)")
    p.add_argument("--as-fast", action="store_true", help="as fast as the node takes it")
    p.add_argument("--loop", action="store_true", help="start again at the end")
    p.add_argument(
        "--wait",
        type=float,
        metavar="S",
        help="how long to wait for subscribers (10 s; with --as-fast, for a node: 100 s)",
    )
    add_recording(p, "cameras are played alone, with the topics that are named; the others are for what listens")
    p.set_defaults(run=_play)


def _play(options: argparse.Namespace) -> None:
    try:
        from letocc_ros.player import play
    except ImportError as error:
        raise LetOccError(NEEDS_ROS.format(name="play", error=error)) from error

    played = play(
        options.bag,
        rate=options.rate,
        as_fast=options.as_fast,
        loop=options.loop,
        wait=options.wait,
        cameras=options.cameras or (),
        topics=tuple(t for t in (options.odometry_topic, options.lidar_topic) if t),
    )
    unanswered = f", {played.unanswered} of them without an answer" if options.as_fast else ""
    print(f"played {options.bag}: {played.messages} messages, {played.sets} image sets{unanswered}")
