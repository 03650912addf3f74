"""The `letocc` command. Each subcommand imports what it needs when it runs, so that `--help` answers at once."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from letocc_core.errors import LetOccError
from letocc_core.processes import let_waiting_threads_sleep

FORMATS = ("bag", "nuscenes", "kitti-odometry", "kitti-tracking")  # that `letocc simulate` writes


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
    try:
        return options.run(options) or 0
    except LetOccError as error:
        print(f"letocc: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("letocc: interrupted", file=sys.stderr)
        return 130


def node_main(subcommand: str) -> int:
    """Entry of `ros2 run letocc_ros <subcommand>`: the same command, less the arguments that ROS adds."""
    arguments = sys.argv[1:]
    if "--ros-args" in arguments:
        arguments = arguments[: arguments.index("--ros-args")]
    return main([subcommand, *arguments])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="letocc", description="Camera-only 3D occupancy and motion, learned without 3D labels."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_simulate(commands)
    _add_train(commands)
    _add_reproduce(commands)
    _add_eval(commands)
    _add_ablation(commands)
    _add_results(commands)
    _add_replay(commands)
    _add_view(commands)
    _add_play(commands)
    _add_bag(commands)
    _add_data(commands)
    _add_cues(commands)
    return parser


def _add_train(commands) -> None:
    p = commands.add_parser("train", help="train a model from a configuration", description="Train a model.")
    p.add_argument("config", type=Path, help="YAML file, for example config/street.yaml")
    p.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to it: stages.0.steps=100; data=BAG: train on it"
    )
    p.add_argument("--out", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    p.add_argument(
        "--resume", nargs="?", type=Path, const=Path("latest"), metavar="RUN", help="go on with this run, or the newest"
    )
    p.add_argument("--init", type=Path, metavar="CHECKPOINT", help="start from these weights")
    p.add_argument("--stage", metavar="NAME", help="train this stage of the configuration alone, for example motion")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    p.add_argument("--loader-workers", type=int, default=1, help="processes that load clips (default: 1)")
    p.add_argument(
        "--clips-at-once", type=int, metavar="N", help="of a process's share of a batch, to save memory (default: all)"
    )
    p.add_argument("--threads", type=int, help="CPU threads of the training process (default: as torch chooses)")
    p.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    import torch

    from letocc_core import config as configuration
    from letocc_core.data.clips import with_bags
    from letocc_core.train import TrainConfig, train

    if options.threads:
        torch.set_num_threads(options.threads)
    config = configuration.load(TrainConfig, options.config, [with_bags(item) for item in options.overrides])
    if options.stage is not None:
        config = config.only_stage(options.stage)
    resume = options.resume
    if resume == Path("latest"):
        resume = options.out / options.config.stem / "latest"
    folder = train(
        config,
        name=options.config.stem,
        out=options.out,
        resume=resume,
        init=options.init,
        device=options.device,
        loader_workers=options.loader_workers,
        clips_at_once=options.clips_at_once,
        command=options.command_line,
    )
    if os.environ.get("RANK", "0") == "0":  # one line, however many processes torchrun started
        print(folder / "model.safetensors")


def _add_reproduce(commands) -> None:
    p = commands.add_parser("reproduce", help="compute a training step again that was not finite")
    p.add_argument("batch", type=Path, help="file that training left behind")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    p.set_defaults(run=_reproduce)


def _reproduce(options: argparse.Namespace) -> None:
    from letocc_core.reproduce import reproduce

    for name, value in reproduce(options.batch, options.device).items():
        print(f"{name}: {value}")


def _add_ablation(commands) -> None:
    p = commands.add_parser("ablation", help="train and measure variants of one configuration")
    p.add_argument("rows", type=Path, help="YAML file of the variants, for example config/ablation/rows.yaml")
    p.add_argument("names", nargs="*", metavar="ROW", help="which of them (default: all that have no result yet)")
    p.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    p.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of results (default: docs/results)")
    p.add_argument("--workers", type=int, default=2, help="variants at a time, one thread each (default: 2)")
    p.set_defaults(run=_ablation)


def _ablation(options: argparse.Namespace) -> None:
    from letocc_core.ablation import ablate

    for path in ablate(options.rows, options.names, options.runs, options.out, options.workers):
        print(path)


def _add_simulate(commands) -> None:
    p = commands.add_parser("simulate", help="write simulated streets as bags with their truth, or as a data set")
    p.add_argument("--out", type=Path, required=True, help="folder to write to: a bag a street, or a data set's root")
    p.add_argument(
        "--format", choices=FORMATS, default="bag", help="bag, or the layout of a data set on disk (default: bag)"
    )
    p.add_argument("--seed", type=int, default=0, help="seed of the first street (default: 0)")
    p.add_argument("--scenes", type=int, default=1, help="streets, with consecutive seeds (default: 1)")
    p.add_argument("--seconds", type=float, default=5.0, help="length of each (default: 5)")
    p.add_argument("--rig", help="nuscenes, kitti, or a YAML file (default: kitti for its formats, else nuscenes)")
    p.add_argument("--rate", type=float, help="image sets a second of a bag (default: 20); data sets have their own")
    p.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="px of the images (default: the rig's)"
    )
    p.add_argument("--workers", type=int, default=2, help="processes that render (default: 2)")
    p.set_defaults(run=_simulate)


def _simulate(options: argparse.Namespace) -> None:
    common = {
        "out": options.out,
        "seed": options.seed,
        "scenes": options.scenes,
        "seconds": options.seconds,
        "image_size": options.size,
        "workers": options.workers,
    }
    if options.format == "bag":
        from letocc_core.data.simulator.recording import simulate

        paths = simulate(**common, rig=options.rig or "nuscenes", rate_hz=options.rate or 20.0)
    elif options.rate is not None:
        raise LetOccError(f"--rate is for bags; {options.format} has a rate of its own")
    else:
        from letocc_core.data.simulator.datasets import simulate_dataset

        paths = simulate_dataset(layout=options.format, rig=options.rig, **common)
    for path in paths:
        print(path)


def _add_results(commands) -> None:
    p = commands.add_parser("results", help="write the page of results from result files")
    p.add_argument("page", type=Path, help="YAML file that says what it shows, for example docs/results.yaml")
    p.set_defaults(run=_results)


def _results(options: argparse.Namespace) -> None:
    from letocc_core.results_page import write_page

    print(write_page(options.page))


def _add_eval(commands) -> None:
    p = commands.add_parser("eval", help="measure a checkpoint against truth and baselines, or for the papers' tables")
    p.add_argument("checkpoint", type=Path)
    p.add_argument(
        "overrides", nargs="*", metavar="key=value", help="with --table: data.root=..., protocol.threshold=0.1"
    )
    p.add_argument("--table", action="append", metavar="NAME", help="a table of the papers, or all; may be repeated")
    p.add_argument("--dataset", metavar="D", help="of --table: nuscenes, kitti_odometry, ... (default: the table's)")
    p.add_argument("--data", default="simulator", help="'simulator' or a bag (default: simulator)")
    p.add_argument("--seeds", type=seed_range, default=range(9000, 9008), help="streets (default: 9000-9007)")
    p.add_argument("--frames", type=seed_range, help="of a bag: only these sets, for example 45-59")
    p.add_argument("--json", type=Path, help="write the result to this file")
    p.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    p.set_defaults(run=_eval)


def _eval(options: argparse.Namespace) -> None:
    if options.table:
        _eval_tables(options)
        return
    if options.overrides or options.dataset:
        raise LetOccError(
            "key=value and --dataset go with --table NAME; without a table, --data says what to measure on"
        )
    from letocc_core.evaluate import evaluate_checkpoint

    evaluate_checkpoint(
        options.checkpoint,
        data=options.data,
        seeds=options.seeds,
        frames=options.frames,
        json=options.json,
        workers=options.workers,
        command=options.command_line,
    )


def _eval_tables(options: argparse.Namespace) -> None:
    from letocc_core.tables.run import TableRequest, evaluate_tables

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


def _add_replay(commands) -> None:
    p = commands.add_parser("replay", help="run a bag through the pipeline, offline and without ROS, and report on it")
    p.add_argument("bag", type=Path)
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", type=Path)
    which.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="two checkpoints, side by side")
    p.add_argument("--out", type=Path, default=Path("out/replay"), help="folder to write to (default: out/replay)")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    p.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> None:
    from letocc_core.replay import replay_to_folder

    checkpoints = options.compare or [options.checkpoint]
    replay_to_folder(options.bag, checkpoints, options.out, options.device, options.command_line)


def _add_view(commands) -> None:
    p = commands.add_parser("view", help="draw what the node's ~/save_snapshot wrote, and compute it again")
    p.add_argument("snapshot", type=Path)
    p.add_argument("--checkpoint", type=Path, help="of the model that answered (default: as the snapshot says)")
    p.add_argument("--out", type=Path, help="picture to write (default: beside the snapshot)")
    p.add_argument("--show", action="store_true", help="open the picture as well")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    p.set_defaults(run=_view)


def _view(options: argparse.Namespace) -> int:
    from letocc_core.view import view_snapshot

    out = options.out or options.snapshot.with_suffix(".png")
    difference = view_snapshot(options.snapshot, out, options.checkpoint, options.device)
    print(f"{out}\ncomputed again offline: {difference}")
    if options.show:
        from PIL import Image

        Image.open(out).show()
    return 0 if difference.equal else 1


def _add_play(commands) -> None:
    p = commands.add_parser("play", help="publish a bag over ROS 2 with /clock, where rosbag2 is not installed")
    p.add_argument("bag", type=Path)
    p.add_argument("--rate", type=float, default=1.0, help="speed relative to the recording (default: 1)")
    p.add_argument("--as-fast", action="store_true", help="as fast as the node takes it")
    p.add_argument("--loop", action="store_true", help="start again at the end")
    p.set_defaults(run=_play)


def _play(options: argparse.Namespace) -> None:
    try:
        from letocc_ros.player import play
    except ImportError as error:
        raise LetOccError(
            f"'letocc play' needs ROS 2 ({error}); source a ROS installation or this project's scripts/env.sh"
        ) from error

    play(options.bag, rate=options.rate, as_fast=options.as_fast, loop=options.loop)


def _add_bag(commands) -> None:
    bag = commands.add_parser("bag", help="inspect bags; make bags from KITTI and nuScenes")
    kinds = bag.add_subparsers(required=True, metavar="WHAT")
    info = kinds.add_parser("info", help="what a bag holds and what it lacks")
    info.add_argument("bag", type=Path)
    info.set_defaults(run=_bag_info)
    for name, what in (
        ("kitti-tracking", "sequence"),
        ("kitti-odometry", "sequence"),
        ("kitti-raw", "drive"),
        ("nuscenes", "scene"),
    ):
        p = kinds.add_parser(name, help=f"a {what} of {name} in its own layout into a bag")
        p.add_argument("root", type=Path, help="folder of the data set")
        p.add_argument(f"--{what}", dest="part", required=name != "nuscenes", help=f"{what} to convert")
        p.add_argument("--out", type=Path, required=True, help="bag folder to write")
        p.set_defaults(run=_bag_convert, dataset=name)


def _bag_info(options: argparse.Namespace) -> None:
    from letocc_core.data.bag_info import bag_info

    print(bag_info(options.bag))


def _bag_convert(options: argparse.Namespace) -> None:
    from letocc_core.data import dataset_bags

    convert = getattr(dataset_bags, f"{options.dataset.replace('-', '_')}_to_bag")
    print(convert(options.root, options.part, options.out))


def _add_data(commands) -> None:
    p = commands.add_parser("data", help="what a configuration finds in its data set; LiDAR drawn into the images")
    p.add_argument("config", type=Path, help="training configuration, for example config/nuscenes.yaml")
    p.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to it, for example data.nuscenes.root=DIR"
    )
    p.add_argument("--picture", type=Path, metavar="PNG", help="draw the sweep of a frame into its images")
    p.add_argument("--sequence", default="", help="which one to draw, such as scene-0061 (default: the first)")
    p.add_argument("--frame", type=int, default=0, help="which frame of it (default: 0)")
    p.set_defaults(run=_data)


def _data(options: argparse.Namespace) -> None:
    from letocc_core.inspect_data import inspect_data

    print(inspect_data(options.config, options.overrides, options.picture, options.sequence, options.frame))


def _add_cues(commands) -> None:
    cues = commands.add_parser("cues", help="compute what supervises motion and classes, before training")
    kinds = cues.add_subparsers(required=True, metavar="WHAT")
    flow = kinds.add_parser("flow", help="optical flow between frames, both ways, where it can be trusted")
    tune = kinds.add_parser("tune", help="train an estimator of optical flow further, on these images alone")
    masks = kinds.add_parser("masks", help="pixels of objects that could move: Grounding DINO and SAM")
    semantics = kinds.add_parser("semantics", help="classes of pixels, by a segmentation model of transformers")
    for p, run in ((flow, _cues_flow), (tune, _cues_tune), (masks, _cues_masks), (semantics, _cues_semantics)):
        p.add_argument("dataset", nargs="+", metavar="DATASET", help="training configuration (.yaml), or bags")
        p.add_argument("--config", type=Path, help="of bags: training configuration with image size, cameras, cache")
        p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
        p.set_defaults(run=run, overrides=[])
    for p in (flow, masks, semantics):
        p.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
        p.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N", help="the I-th of N parts, for N machines")
    for p in (flow, tune):
        p.add_argument("--estimator", default="dis" if p is flow else "raft", help="see docs/cues.md")
        p.add_argument("--weights", type=Path, help="file of a learned estimator")
    tune.add_argument("--out", type=Path, required=True, help="file to write (.safetensors)")
    tune.add_argument("--steps", type=int, default=1000, help="(default: 1000)")
    tune.add_argument("--batch-size", type=int, default=2, help="pairs of images a step (default: 2)")
    tune.add_argument("--learning-rate", type=float, default=1e-5, help="(default: 1e-5)")
    masks.add_argument("--detector", type=Path, required=True, help="folder of Grounding DINO's checkpoint")
    masks.add_argument("--segmenter", type=Path, required=True, help="folder of SAM's checkpoint")
    semantics.add_argument("--model", type=Path, required=True, help="folder of a segmentation model's checkpoint")
    semantics.add_argument(
        "--classes", type=classes, required=True, metavar="NAME=LABEL,...;...", help="classes, and the model's labels"
    )


def _cues_flow(options: argparse.Namespace) -> None:
    from letocc_core.data.clips import recorded_clips, simulated_clips

    changes = {"cue": options.estimator, "cue_weights": options.weights, "cue_device": options.device}
    *config, past_frames = _cue_config(options, **changes)
    if config[0].simulator is not None:
        print(simulated_clips(*config, past_frames, shard=options.shard).folder)
        return
    dataset = recorded_clips(*config, past_frames)
    print(f"{dataset.write_flow(options.workers, options.shard)} pairs of frames computed")
    for files in dataset.flows:
        print(files.folder)


def _cues_tune(options: argparse.Namespace) -> None:
    from letocc_core.cues.flow import flow_estimator
    from letocc_core.cues.tuning import TuneConfig, tune
    from letocc_core.data.clips import recorded_clips

    estimator = flow_estimator(options.estimator, options.weights, options.device)
    dataset = recorded_clips(*_cue_config(options, what="tune", cue="dis"))
    images = [
        (store, i, j, camera)
        for store, i, j in dataset.pairs()
        for camera in range(store.camera_valid.shape[1])
        if store.camera_valid[[i, j], camera].all()
    ]

    def pair(number: int) -> tuple:
        store, i, j, camera = images[number]
        return store.pictures(i)[camera], store.pictures(j)[camera]

    config = TuneConfig(options.steps, options.batch_size, options.learning_rate)
    print(tune(estimator, pair, len(images), options.out, config, options.device))


def _cues_masks(options: argparse.Namespace) -> None:
    from letocc_core.cues.masks import GroundedSam

    _write_pictures(options, "masks", masks=GroundedSam(options.detector, options.segmenter, device=options.device))


def _cues_semantics(options: argparse.Namespace) -> None:
    from letocc_core.cues.semantics import Segmenter

    _write_pictures(options, "semantics", semantics=Segmenter(options.model, options.classes, options.device))


def _write_pictures(options: argparse.Namespace, what: str, **labeller) -> None:
    from letocc_core.data.clips import recorded_clips

    nothing = {"cue": "none", "masks": None, "semantics": None}
    dataset = recorded_clips(*_cue_config(options, what, **(nothing | labeller)))
    print(f"{dataset.write_pictures(options.workers, options.shard)} frames computed")
    for of_kind in dataset.pictures.values():
        for files in of_kind:
            print(files.folder)


def _cue_config(options: argparse.Namespace, what: str = "", **changes) -> tuple:
    """Data (with `changes` to its source), input and past frames of a configuration, or of bags.

    With `what`, which simulated streets have no use for: an error for those.
    """
    from dataclasses import replace

    from letocc_core import config as configuration
    from letocc_core.data.clips import BagData, DataConfig
    from letocc_core.errors import ConfigError
    from letocc_core.frame import InputConfig
    from letocc_core.model.let_occ_flow import ModelConfig
    from letocc_core.train import TrainConfig

    overrides = options.overrides + [item for item in options.dataset if "=" in item]
    paths = [Path(item) for item in options.dataset if "=" not in item]
    whole = len(paths) == 1 and paths[0].suffix in (".yaml", ".yml")
    path = paths[0] if whole else options.config
    if path is None:
        config = TrainConfig(ModelConfig(), InputConfig(), DataConfig(bag=BagData(bags=())))
    else:
        config = configuration.load(TrainConfig, path, overrides)
    data = config.data
    if not whole:
        data = DataConfig(bag=replace(data.bag or BagData(bags=()), bags=tuple(paths)), cache=data.cache)
    name = data.source
    if what and name == "simulator":
        raise ConfigError(f"{path}: '{what}' takes recordings; simulated streets know their own")
    data = replace(data, **{name: replace(getattr(data, name), **changes)}, workers=getattr(options, "workers", 0))
    return data, config.input, config.model.temporal.frames


def classes(text: str) -> dict[str, tuple[str, ...]]:
    """`vehicle=car,truck;road=road` as a mapping."""
    found = dict(part.split("=", 1) for part in text.split(";") if part.count("=") == 1)
    if not found or len(found) != len(text.split(";")):
        raise argparse.ArgumentTypeError(f"'{text}' is no list such as 'vehicle=car,truck;road=road'")
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


if __name__ == "__main__":
    sys.exit(main())
