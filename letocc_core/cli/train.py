"""Commands about training: `train`, `reproduce`, `ablation`, and `data`, which shows what training would find."""

import argparse
import os
from pathlib import Path

from letocc_core.cli.arguments import add_workers


def add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    p = commands.add_parser("train", help="train a model from a configuration", description="Train a model.")
    p.add_argument("config", type=Path, help="YAML file, for example config/street.yaml")
    p.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to it: stages.0.steps=100; data=BAG: train on it"
    )
    p.add_argument("--out", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    p.add_argument(
        "--resume",
        nargs="?",
        type=Path,
        const=Path("latest"),
        metavar="RUN",
        help="continue this run (default: the newest)",
    )
    p.add_argument("--init", type=Path, metavar="CHECKPOINT", help="start from these weights")
    p.add_argument("--stage", metavar="NAME", help="train only this stage of the configuration, for example motion")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    p.add_argument("--loader-workers", type=int, default=1, help="processes that load clips (default: 1)")
    p.add_argument(
        *("--micro-batch", "--clips-at-once"),
        type=int,
        metavar="N",
        help="clips that a process has in memory at once; gradients add up (default: its share of the batch)",
    )
    p.add_argument("--threads", type=int, help="CPU threads of the training process (default: as torch chooses)")
    p.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    import torch

    from letocc_core import config as configuration
    from letocc_core.data.config import with_bags
    from letocc_core.training.config import TrainConfig
    from letocc_core.training.loop import train

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
        micro_batch=options.micro_batch,
        command=options.command_line,
    )
    if os.environ.get("RANK", "0") == "0":  # one line, however many processes torchrun started
        print(folder / "model.safetensors")


def add_reproduce(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    p = commands.add_parser("reproduce", help="repeat a training step whose loss or gradient was not finite")
    p.add_argument("batch", type=Path, help="file that training wrote when it stopped")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    p.set_defaults(run=_reproduce)


def _reproduce(options: argparse.Namespace) -> None:
    from letocc_core.training.reproduce import reproduce

    for name, value in reproduce(options.batch, options.device).items():
        print(f"{name}: {value}")


def add_ablation(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    p = commands.add_parser("ablation", help="train and measure variants of one configuration")
    p.add_argument("rows", type=Path, help="YAML file of the variants, for example config/ablation/rows.yaml")
    p.add_argument("names", nargs="*", metavar="ROW", help="variants to train (default: all that have no result yet)")
    p.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    p.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of results (default: docs/results)")
    add_workers(p, "variants at a time, one thread each")
    p.set_defaults(run=_ablation)


def _ablation(options: argparse.Namespace) -> None:
    from letocc_core.evaluation.ablation import ablate

    for path in ablate(options.rows, options.names, options.runs, options.out, options.workers):
        print(path)


def add_data(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    p = commands.add_parser("data", help="say what a configuration finds in its data set; draw LiDAR into the images")
    p.add_argument("config", type=Path, help="training configuration, for example config/nuscenes.yaml")
    p.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to it, for example data.nuscenes.root=DIR"
    )
    p.add_argument("--picture", type=Path, metavar="PNG", help="draw the sweep of a frame into its images")
    p.add_argument("--sequence", default="", help="sequence to draw, such as scene-0061 (default: the first)")
    p.add_argument("--frame", type=int, default=0, help="frame of the sequence (default: 0)")
    p.set_defaults(run=_data)


def _data(options: argparse.Namespace) -> None:
    from letocc_core.training.inspect_data import inspect_data

    print(inspect_data(options.config, options.overrides, options.picture, options.sequence, options.frame))
