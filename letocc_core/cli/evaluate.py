"""Commands that measure and show: `eval`, `results`, `replay`, `view`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from letocc_core.cli.arguments import NEEDS_ROS, add_recording, add_workers, recording, seed_range
from letocc_core.errors import LetOccError

if TYPE_CHECKING:
    from letocc_core.viz.viewers.logs import ViewOptions

OF_CHECKPOINT = "what is not given is as in the recordings that the checkpoint was trained on"


def add_eval(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    p = commands.add_parser("eval", help="measure a checkpoint against truth and baselines, or fill the papers' tables")
    p.add_argument("checkpoint", type=Path)
    p.add_argument(
        "overrides", nargs="*", metavar="key=value", help="with --table: data.root=..., protocol.threshold=0.1"
    )
    p.add_argument("--table", action="append", metavar="NAME", help="a table of the papers, or all; may be repeated")
    p.add_argument(
        "--dataset", metavar="D", help="data set for --table: nuscenes, kitti_odometry, ... (default: its own)"
    )
    p.add_argument("--data", default="simulator", help="'simulator' or a bag (default: simulator)")
    p.add_argument("--seeds", type=seed_range, default=range(9000, 9008), help="streets (default: 9000-9007)")
    p.add_argument("--frames", type=seed_range, help="with a bag: score only these sets, for example 45-59")
    p.add_argument(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="with a bag: labelled objects (.npz) to compare velocities with",
    )
    p.add_argument("--json", type=Path, help="write the result to this file")
    add_workers(p)
    p.add_argument(
        "--thresholds", action="store_true", help="print the scores at other thresholds, and the calibration"
    )
    p.add_argument("--choose-threshold", action="store_true", help="write the best one into the checkpoint")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    add_recording(p, OF_CHECKPOINT)
    p.set_defaults(run=_eval)


def _eval(options: argparse.Namespace) -> None:
    if options.table:
        _eval_tables(options)
        return
    if options.overrides or options.dataset:
        raise LetOccError(
            "key=value and --dataset go with --table NAME; without a table, --data says what to measure on"
        )
    given = recording(options)
    if given and options.data == "simulator":
        raise LetOccError(f"--{next(iter(given)).replace('_', '-')} applies to bags only; name one: --data BAG")
    if options.boxes and options.data == "simulator":
        raise LetOccError("--boxes applies to bags only; name one: --data BAG")
    from letocc_core.evaluation.checkpoint import evaluate_checkpoint

    evaluate_checkpoint(
        options.checkpoint,
        data=options.data,
        seeds=options.seeds,
        frames=options.frames,
        json=options.json,
        workers=options.workers,
        command=options.command_line,
        thresholds=options.thresholds,
        choose_threshold=options.choose_threshold,
        device=options.device,
        reading=given,
        boxes=options.boxes,
    )


def _eval_tables(options: argparse.Namespace) -> None:
    from letocc_core.evaluation.tables.run import TableRequest, evaluate_tables

    evaluate_tables(
        TableRequest(
            options.checkpoint,
            tuple(options.table),
            options.dataset and options.dataset.replace("-", "_"),
            tuple(options.overrides),
            options.frames,
            options.json,
            options.command_line,
        )
    )


def add_results(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    p = commands.add_parser("results", help="write the page of results from result files")
    p.add_argument("page", type=Path, help="YAML file that says what it shows, for example docs/results.yaml")
    p.set_defaults(run=_results)


def _results(options: argparse.Namespace) -> None:
    from letocc_core.evaluation.results_page import write_page

    print(write_page(options.page))


def add_replay(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    p = commands.add_parser("replay", help="run a bag through the pipeline, offline and without ROS, and report on it")
    p.add_argument("bag", type=Path)
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", type=Path)
    which.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="two checkpoints, side by side")
    p.add_argument("--out", type=Path, default=Path("out/replay"), help="folder to write to (default: out/replay)")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    p.add_argument(
        "--backend", default="torch", metavar="NAME",
        help="torch, torch_bfloat16, or onnxruntime, openvino, tensorrt by the graphs of `letocc export` beside the "
        "checkpoint (default: torch)",
    )  # fmt: skip
    add_recording(p, OF_CHECKPOINT)
    _add_viewers(p)
    p.add_argument("--view", dest="window", action="store_true", help="watch it in Rerun's window")
    p.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> None:
    from letocc_core.evaluation.replay import replay_to_folder

    checkpoints = options.compare or [options.checkpoint]
    replay_to_folder(
        options.bag,
        checkpoints,
        options.out,
        options.device,
        options.command_line,
        recording(options),
        _view_options(options),
        options.backend,
    )


def _add_viewers(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--save", type=Path, action="append", default=[], metavar="FILE",
        help="write a file for a viewer: .rrd for Rerun, .mcap for Foxglove and Lichtblick, .gif for any; may be repeated",
    )  # fmt: skip
    p.add_argument("--web", action="store_true", help="serve Rerun's page on this machine, for a browser")


def _view_options(options: argparse.Namespace) -> "ViewOptions":
    from letocc_core.viz.viewers.logs import ViewOptions

    return ViewOptions(tuple(options.save), options.window, options.web)


def add_view(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    p = commands.add_parser("view", help="look at the answers of a running node, a bag, a snapshot or a file of --save")
    p.add_argument(
        "path", type=Path, nargs="?", metavar="PATH",
        help="file for Rerun (.rrd), bag of answers, or what the node's ~/save_snapshot wrote (.npz)",
    )  # fmt: skip
    p.add_argument("--live", action="store_true", help="show what a running node answers; takes no PATH")
    p.add_argument("--node", default="/occ_flow_node", help="with --live: name of the node (default: /occ_flow_node)")
    p.add_argument("--truth", type=Path, metavar="BAG", help="with a bag of answers: the recording that was answered")
    _add_viewers(p)
    p.add_argument(
        "--window", action="store_true", help="with a snapshot: open Rerun's window (all else opens it anyway)"
    )
    p.add_argument(
        "--checkpoint", type=Path, help="with a snapshot: the model that answered (default: the one that it names)"
    )
    p.add_argument("--out", type=Path, help="with a snapshot: picture to write (default: beside it)")
    p.add_argument("--show", action="store_true", help="with a snapshot: open the picture as well")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    p.set_defaults(run=_view)


def _view(options: argparse.Namespace) -> int:
    if options.live == (options.path is not None):
        raise LetOccError("view takes either a PATH or --live")
    if options.live:
        return _view_live(options)
    if options.path.suffix == ".npz":
        return _view_snapshot(options)
    if options.path.suffix == ".rrd":
        from letocc_core.viz.viewers.rerun_viewer import show_recording

        show_recording(options.path, options.web)
        return 0
    from letocc_core.evaluation.view import show_answers

    options.window |= not (options.web or options.save)
    show_answers(options.path, _view_options(options), options.truth)
    return 0


def _view_live(options: argparse.Namespace) -> int:
    """By the ROS package, where it is installed (entry point `view` of the group `letocc.live`)."""
    from importlib.metadata import entry_points

    options.window |= not (options.web or options.save)
    try:
        entry, *_ = entry_points(group="letocc.live", name="view")
        view_live = entry.load()
    except (ImportError, ValueError) as error:
        raise LetOccError(NEEDS_ROS.format(name="view --live", error=error)) from error
    view_live(options.node, _view_options(options))
    return 0


def _view_snapshot(options: argparse.Namespace) -> int:
    from letocc_core.evaluation.view import show_snapshot, view_snapshot

    if options.web or options.window or options.save:
        show_snapshot(options.path, _view_options(options))
    out = options.out or options.path.with_suffix(".png")
    difference = view_snapshot(options.path, out, options.checkpoint, options.device)
    print(f"{out}\ncomputed again offline: {difference}")
    if options.show:
        from PIL import Image

        Image.open(out).show()
    return 0 if difference.equal else 1
