"""The command `export`: graphs of a checkpoint for other engines."""

import argparse
from pathlib import Path


def add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    p = commands.add_parser("export", help="write a checkpoint's network for ONNX Runtime, OpenVINO or TensorRT")
    p.add_argument("checkpoint", type=Path)
    p.add_argument("--format", dest="kind", choices=("onnx", "openvino", "tensorrt"), default="onnx")
    p.add_argument("--out", type=Path, required=True, help="folder to write to; the checkpoint is copied beside")
    p.add_argument("--bag", type=Path, help="compare on its first image sets (default: on a simulated street)")
    p.add_argument("--cameras", type=int, metavar="N", help="of a set, the first N (default: all of those sets)")
    p.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    from letocc_core.export.write import export

    folder, found = export(options.checkpoint, options.kind, options.out, options.bag, options.cameras)
    for d in found:
        print(
            f"{d.graph} {d.output}: differs from PyTorch by {d.largest:.2g} at most ({d.limit:.2g} allowed); "
            f"{1e3 * d.seconds:.1f} ms of CPU, PyTorch {1e3 * d.torch_seconds:.1f}"
        )
    print(folder)
