"""What RViz shows of one node: config/occ_flow.rviz with that node's topics, frame and cameras."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from letocc_ros.parameters import SHIPPED_CHECKPOINT, STREET_CAMERAS, NodeParameters, from_mapping

TEMPLATE_NODE = "/occ_flow_node/"
IMAGE = "rviz_default_plugins/Image"


def node_config(
    share: Path, namespace: str, name: str, params_file: Path, changes: Mapping[str, Any], compressed: bool
) -> str:
    """The text of an RViz configuration for the node of this name.

    Args:
        share: installed files of the package.
        params_file: ROS parameters of the node.
        changes: parameters that count instead of those.
        compressed: whether RViz can decode compressed images; where it cannot, it would abort.

    Raises `ConfigError` for a parameter that cannot be.
    """
    parameters = from_mapping(_parameters_in(params_file) | dict(changes))
    above = f"/{namespace.strip('/')}".rstrip("/")
    return _config(
        yaml.safe_load((share / "config" / "occ_flow.rviz").read_text()),
        f"{above}/{name}/",
        parameters.base_frame or "base_link",
        [f"{above}/{parameters.images_of(camera)}" for camera in _cameras(parameters, share)],
        show_images=compressed or parameters.transport == "raw",
    )


def _config(config: dict, node: str, base_frame: str, images: Sequence[str], show_images: bool) -> str:
    manager = config["Visualization Manager"]
    pattern = next(display for display in manager["Displays"] if display["Class"] == IMAGE)
    others = [display for display in manager["Displays"] if display["Class"] != IMAGE]
    manager["Global Options"]["Fixed Frame"] = manager["Views"]["Current"]["Target Frame"] = base_frame
    for display in others:
        if "Reference Frame" in display:
            display["Reference Frame"] = base_frame
        if "Topic" in display:
            display["Topic"]["Value"] = display["Topic"]["Value"].replace(TEMPLATE_NODE, node)
    manager["Displays"] = others + [_image(pattern, topic, show_images) for topic in images]
    return yaml.safe_dump(config, sort_keys=False)


def _image(pattern: dict, topic: str, shown: bool) -> dict:
    display = copy.deepcopy(pattern)
    display |= {"Name": topic.split("/")[-3 if topic.endswith("/compressed") else -2], "Enabled": shown, "Value": shown}
    display["Topic"]["Value"] = topic
    return display


def _parameters_in(file: Path) -> dict[str, Any]:
    """All `ros__parameters` of a file: it is made for one node."""
    found: dict[str, Any] = {}

    def collect(section: Any) -> None:
        for key, value in section.items() if isinstance(section, dict) else ():
            if key == "ros__parameters":
                found.update(value or {})
            else:
                collect(value)

    collect(yaml.safe_load(file.read_text("utf-8-sig")))
    return found


def _cameras(parameters: NodeParameters, share: Path) -> tuple[str, ...]:
    """Those that the node will listen to, read without torch; of a checkpoint that it will refuse, the street's."""
    if any(parameters.cameras):
        return parameters.cameras
    checkpoint = Path(parameters.checkpoint).expanduser() if parameters.checkpoint else share / SHIPPED_CHECKPOINT
    try:
        with safe_open(str(checkpoint), "np") as file:
            trained_with = json.loads((file.metadata() or {}).get("cameras", "[]"))
    except (OSError, SafetensorError, ValueError):
        trained_with = []
    return tuple(trained_with) or STREET_CAMERAS
