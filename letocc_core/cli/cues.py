"""`letocc cues`: what supervises motion and classes, computed before training."""

import argparse
from pathlib import Path

from letocc_core.cli.arguments import classes, shard


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
    from letocc_core.data.build import recorded_clips, simulated_clips

    changes = {"cue": options.estimator, "cue_weights": options.weights, "cue_device": options.device}
    *config, past_frames = _cue_config(options, **changes)
    if config[0].simulator is not None:
        for folder in simulated_clips(*config, past_frames, shard=options.shard).folders.values():
            if folder.exists():
                print(folder)
        return
    dataset = recorded_clips(*config, past_frames)
    print(f"{dataset.write_flow(options.workers, options.shard)} pairs of frames computed")
    for files in dataset.flows:
        print(files.folder)


def _cues_tune(options: argparse.Namespace) -> None:
    from letocc_core.cues.flow import flow_estimator
    from letocc_core.cues.tuning import TuneConfig, tune
    from letocc_core.data.build import recorded_clips

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
    from letocc_core.data.build import recorded_clips

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
    from letocc_core.data.config import BagData, DataConfig
    from letocc_core.errors import ConfigError
    from letocc_core.frame import InputConfig
    from letocc_core.model.let_occ_flow import ModelConfig
    from letocc_core.training.config import TrainConfig

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
