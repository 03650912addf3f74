"""Counts a configuration's parameters by module: python -m letocc_core.model.parameters config/nuscenes.yaml"""

import sys
from pathlib import Path

import yaml
from torch import nn

from letocc_core import config as configuration
from letocc_core.model.let_occ_flow import LetOccFlow, ModelConfig


def count(module: nn.Module) -> int:
    """Learned numbers of a module."""
    return sum(p.numel() for p in module.parameters())


def by_module(model: LetOccFlow) -> dict[str, int]:
    """Learned numbers of each part of the network, named as in the paper as far as it has them."""
    parts = {
        "image backbone": count(model.pyramid.backbone),
        "feature pyramid": count(model.pyramid) - count(model.pyramid.backbone),
        "TPV encoder": count(model.encoder),
        "temporal fusion": count(model.temporal),
        "3D refinement": count(model.refinement),
        "fields": count(model.fields),
    }
    return {**parts, "motion branch": count(model.motion)} if model.motion else parts


def main(path: Path) -> None:
    """Print a Markdown table for the `model` section of a YAML file."""
    section = yaml.safe_load(path.read_text("utf-8-sig"))["model"]
    parts = by_module(LetOccFlow(configuration.from_dict(ModelConfig, section, str(path), "model.")))
    print("| module | parameters |\n| --- | ---: |")
    for name, number in {**parts, "total": sum(parts.values())}.items():
        print(f"| {name} | {number / 1e6:.2f} M |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
