"""The `letocc` command: a module a group of subcommands. Each imports what it needs when it runs: `--help` answers at once.

A package beside this one adds commands of its own by entry points of the group `letocc.commands`, each a function that
takes the subparsers; `letocc_ros` adds `play` that way.
"""

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import EntryPoint, entry_points

from letocc_core.cli.arguments import NEEDS_ROS
from letocc_core.cli.bench import add_bench
from letocc_core.cli.cues import add_cues
from letocc_core.cli.evaluate import add_eval, add_replay, add_results, add_view
from letocc_core.cli.export import add_export
from letocc_core.cli.failures import BUG, explain, is_interrupt, print_anything
from letocc_core.cli.recordings import add_bag, add_simulate
from letocc_core.cli.train import add_ablation, add_data, add_reproduce, add_train
from letocc_core.ending import interrupt_once
from letocc_core.errors import LetOccError
from letocc_core.processes import let_waiting_threads_sleep, on_ray, require_device

__all__ = ["INTERRUPTED", "NEEDS_ROS", "main", "node_main", "run", "without_ros_arguments"]
COMMANDS: tuple[Callable, ...] = (
    add_simulate,
    add_train,
    add_reproduce,
    add_export,
    add_eval,
    add_ablation,
    add_results,
    add_replay,
    add_view,
    add_bag,
    add_data,
    add_cues,
    add_bench,
)
INTERRUPTED = 130  # exit status, as a shell has it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status. Errors of ours are printed without a traceback."""
    let_waiting_threads_sleep()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if hasattr(options, "overrides"):  # key=value may also stand behind the options
        options.overrides += [item for item in rest if "=" in item and not item.startswith("-")]
        rest = [item for item in rest if item not in options.overrides]
    if rest:
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    options.command_line = shlex.join(["letocc", *arguments])
    return run(options)


def run(options: argparse.Namespace) -> int:
    """Call `options.run` with them; returns the exit status. Only a bug shows its traceback."""
    print_anything()
    try:
        if getattr(options, "device", None):
            require_device(options.device)
        with _workers(options):
            return options.run(options) or 0
    except BrokenPipeError:  # what reads our output has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if is_interrupt(error):
            print("letocc: interrupted", file=sys.stderr)
            return INTERRUPTED
        line = str(error) if isinstance(error, LetOccError) else explain(error, getattr(options, "out", None))
        if line is None:
            traceback.print_exc()
        print(BUG if line is None else f"letocc: {line}", file=sys.stderr)
        return 1


def _workers(options: argparse.Namespace) -> AbstractContextManager[None]:
    """Where the command's processes run: on this machine, or with `--ray` on a cluster."""
    if getattr(options, "ray", None) is None:
        return nullcontext()
    return on_ray(options.ray, options.workers, getattr(options, "device", "cpu"))


def node_main(subcommand: str) -> int:
    """Entry of `ros2 run letocc_ros <subcommand>`: the same command, less the arguments that ROS adds.

    To be interrupted is no failure there: launch would report that the process has died.
    """
    interrupt_once()
    try:
        status = main([subcommand, *without_ros_arguments(sys.argv[1:])])
    except KeyboardInterrupt:  # before the command has begun
        return 0
    return 0 if status == INTERRUPTED else status


def without_ros_arguments(arguments: Sequence[str]) -> list[str]:
    """All before `--ros-args`."""
    return list(arguments[: arguments.index("--ros-args")] if "--ros-args" in arguments else arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="letocc", description="Camera-only 3D occupancy and motion, learned without 3D labels."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    # by name: a pip package and a colcon workspace may both have one
    for entry in {entry.name: entry for entry in entry_points(group="letocc.commands")}.values():
        _add_installed(commands, entry)
    return parser


def _add_installed(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", entry: EntryPoint) -> None:
    """A command of another package; where that cannot be imported, the command says so when it is called."""
    try:
        entry.load()(commands)
    except ImportError as error:
        message = NEEDS_ROS.format(name=entry.name, error=error)

        def refuse(options: argparse.Namespace) -> None:
            raise LetOccError(message)

        p = commands.add_parser(entry.name, help="comes with the ROS 2 package, which is not installed here")
        p.add_argument("arguments", nargs="*")
        p.set_defaults(run=refuse)
