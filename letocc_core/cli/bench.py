"""The command `bench`: what things cost on this machine."""

import argparse
from pathlib import Path


def add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    p = commands.add_parser("bench", help="what a set, a training step, loading and scores cost here, by part")
    p.add_argument(
        "subjects", nargs="*", help="inference, node, messages, training, rendering, loading, metrics (default: all)"
    )
    p.add_argument(
        "--checkpoint", type=Path, help="network of inference (default: the configuration's, random weights)"
    )
    p.add_argument("--config", type=Path, default=Path("config/street.yaml"), help="(default: config/street.yaml)")
    p.add_argument(
        "--compare", default="", metavar="NAME,...",
        help="beside a set in the same run: eager, torch_bfloat16, single-frame, onnxruntime, openvino, tensorrt, "
        "depth-anything, attention",
    )  # fmt: skip
    p.add_argument("--backend", default="torch", help="of inference, as of `letocc replay` (default: torch)")
    p.add_argument("--eager", action="store_true", help="inference without the loops compiled for the CPU")
    p.add_argument("--threads", type=int, default=1, help="(default: 1)")
    p.add_argument("--cameras", type=int, default=6, help="(default: 6)")
    p.add_argument("--steps", type=int, default=8, help="counted sets; half as many training steps (default: 8)")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file as well")
    p.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> None:
    from letocc_core.bench.run import SUBJECTS, Request, bench

    request = Request(
        tuple(options.subjects) or SUBJECTS,
        tuple(filter(None, options.compare.split(","))),
        options.checkpoint,
        options.config,
        options.backend,
        options.eager,
        options.threads,
        options.cameras,
        options.steps,
        options.device,
    )
    bench(request, options.json)
