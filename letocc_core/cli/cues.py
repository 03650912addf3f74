"""`letocc cues`: what supervises motion and classes, computed before training."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from letocc_core.cli.arguments import add_workers, classes, shard

if TYPE_CHECKING:
    from letocc_core.training.compute_cues import CueFolders


def add_cues(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
        add_workers(p)
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
    from letocc_core.training.compute_cues import compute_flow, cue_source

    changes = {"cue": options.estimator, "cue_weights": options.weights, "cue_device": options.device}
    source = cue_source([*options.dataset, *options.overrides], options.config, options.workers, changes)
    _print(compute_flow(source, options.workers, options.shard))


def _cues_tune(options: argparse.Namespace) -> None:
    from letocc_core.cues.tuning import TuneConfig
    from letocc_core.training.compute_cues import cue_source, tune_flow

    source = cue_source([*options.dataset, *options.overrides], options.config, 0, {"cue": "dis"}, "tune")
    config = TuneConfig(options.steps, options.batch_size, options.learning_rate)
    print(tune_flow(source, options.estimator, options.weights, options.device, config, options.out))


def _cues_masks(options: argparse.Namespace) -> None:
    from letocc_core.cues.masks import GroundedSam

    _label(options, "masks", masks=GroundedSam(options.detector, options.segmenter, device=options.device))


def _cues_semantics(options: argparse.Namespace) -> None:
    from letocc_core.cues.semantics import Segmenter

    _label(options, "semantics", semantics=Segmenter(options.model, options.classes, options.device))


def _label(options: argparse.Namespace, what: str, **labeller: object) -> None:
    from letocc_core.training.compute_cues import compute_pictures, cue_source

    changes = {"cue": "none", "masks": None, "semantics": None} | labeller
    source = cue_source([*options.dataset, *options.overrides], options.config, options.workers, changes, what)
    _print(compute_pictures(source, options.workers, options.shard))


def _print(written: "CueFolders") -> None:
    print(written.summary, *written.folders, sep="\n")
