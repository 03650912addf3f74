"""Commands about recordings: `simulate` writes them, `bag` inspects and converts them."""

import argparse
from pathlib import Path

from letocc_core.cli.arguments import add_recording, add_workers, recording
from letocc_core.errors import LetOccError

FORMATS = ("bag", "nuscenes", "kitti-odometry", "kitti-tracking")  # that `letocc simulate` writes


def add_simulate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    add_workers(p, "processes that render")
    p.set_defaults(run=_simulate)


def _simulate(options: argparse.Namespace) -> None:
    common = {
        "out": options.out,
        "seed": options.seed,
        "scenes": options.scenes,
        "seconds": options.seconds,
        "image_size": None if options.size is None else tuple(options.size),
        "workers": options.workers,
    }
    if options.format == "bag":
        from letocc_core.data.simulator.bags import simulate

        paths = simulate(**common, rig=options.rig or "nuscenes", rate_hz=options.rate or 20.0)
    elif options.rate is not None:
        raise LetOccError(f"--rate applies to bags only; the layout {options.format} has a fixed rate")
    else:
        from letocc_core.data.simulator.export import simulate_dataset

        paths = simulate_dataset(layout=options.format, rig=options.rig, **common)
    for path in paths:
        print(path)


def add_bag(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    bag = commands.add_parser("bag", help="inspect bags; make bags from KITTI and nuScenes")
    kinds = bag.add_subparsers(required=True, metavar="WHAT")
    info = kinds.add_parser("info", help="what a bag holds and what it lacks")
    info.add_argument("bag", type=Path)
    add_recording(info)
    info.set_defaults(run=_bag_info)
    mask = kinds.add_parser("mask", help="propose masks of the vehicle's own body, to be looked at and edited")
    mask.add_argument("bag", type=Path)
    mask.add_argument("--out", type=Path, required=True, help="folder to write to: a PNG a camera, white = the vehicle")
    add_recording(mask)
    mask.set_defaults(run=_bag_mask)
    video = kinds.add_parser("images", help="turn the video of a bag into single images, in a new bag")
    video.add_argument("bag", type=Path)
    video.add_argument("--out", type=Path, required=True, help="bag folder to write")
    video.add_argument(
        "--quality",
        type=int,
        default=95,
        choices=range(1, 101),
        metavar="1-100",
        help="quality of the JPEGs (default: 95)",
    )
    video.set_defaults(run=_bag_images)
    for name, what in (
        ("kitti-tracking", "sequence"),
        ("kitti-odometry", "sequence"),
        ("kitti-raw", "drive"),
        ("nuscenes", "scene"),
    ):
        p = kinds.add_parser(name, help=f"convert {what}s of {name} into bags")
        p.add_argument("root", type=Path, help="folder of the data set")
        p.add_argument(
            f"--{what}", dest="parts", nargs="+", required=name != "nuscenes", metavar=what.upper(),
            help=f"{what} to convert, or several",
        )  # fmt: skip
        p.add_argument(
            "--out", type=Path, required=True, help=f"bag folder to write; of several: one a {what} below it"
        )
        add_workers(p, f"processes that convert several {what}s")
        p.set_defaults(run=_bag_convert, dataset=name)


def _bag_info(options: argparse.Namespace) -> None:
    from letocc_core.data.bags.info import bag_info

    print(bag_info(options.bag, **recording(options)))


def _bag_mask(options: argparse.Namespace) -> None:
    from letocc_core.data.bags.mask import write_masks
    from letocc_core.data.bags.recording import Recording

    for path in write_masks(Recording(options.bag, lidar=False, **recording(options)), options.out):
        print(path)
    print(f"look at {options.out / 'look'}, and edit the masks where they are wrong: white is the vehicle itself")


def _bag_images(options: argparse.Namespace) -> None:
    from letocc_core.data.bags.video import video_to_images

    converted, left_out = video_to_images(options.bag, options.out, options.quality)
    for video in converted:
        print(video)
    for topic, reason in left_out.items():
        print(f"left out: {topic}: {reason}")
    print(options.out)


def _bag_convert(options: argparse.Namespace) -> None:
    from letocc_core.data.bags import convert as dataset_bags

    convert = getattr(dataset_bags, f"{options.dataset.replace('-', '_')}_to_bag")
    for bag in dataset_bags.parts_to_bags(convert, options.root, options.parts or [None], options.out, options.workers):
        print(bag)
