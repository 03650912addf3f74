"""docs/your_robot.md, its commands run as they stand there, at a small size; and what they rest on."""

import pytest
import torch

from letocc_core import checkpoint
from letocc_core.data.clips import with_bags


def test_data_is_short_for_bags():
    assert with_bags("data=my bag") == 'data.bag.bags=["my bag"]'
    assert with_bags("data=[a, b]") == "data.bag.bags=[a, b]"
    assert with_bags("data.workers=1") == "data.workers=1"


def test_the_node_takes_the_cameras_of_the_checkpoint(tmp_path):
    node = pytest.importorskip("letocc_ros.node")
    from letocc_ros.parameters import STREET_CAMERAS, NodeParameters

    for name, cameras in (("robot", ["left", "right"]), ("older", [])):
        path = tmp_path / f"{name}.safetensors"
        checkpoint.save(path, torch.nn.Linear(1, 1), {"model": {}, "input": {}}, cameras=cameras)
    parameters = NodeParameters(checkpoint=str(tmp_path / "robot.safetensors"))
    assert node.cameras(parameters) == ("left", "right")
    assert node.cameras(NodeParameters(checkpoint=str(tmp_path / "older.safetensors"))) == STREET_CAMERAS
    assert node.cameras(NodeParameters(checkpoint=parameters.checkpoint, cameras=("top",))) == ("top",)
