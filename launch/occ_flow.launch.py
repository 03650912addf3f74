"""Runs `occ_flow_node`; with `bag:=PATH` plays a bag into it, with `rviz:=true` shows what it sees.

ros2 launch letocc_ros occ_flow.launch.py
ros2 launch letocc_ros occ_flow.launch.py bag:=out/street rviz:=true
ros2 launch letocc_ros occ_flow.launch.py name:=seer namespace:=robot1   # one of several; see docs/node.md
ros2 launch letocc_ros occ_flow.launch.py --show-args
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_path
from launch.action import Action
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription

BOOLEAN = ["true", "false"]


def arguments() -> list[DeclareLaunchArgument]:
    """Every argument, with its default and what it means."""
    share = get_package_share_path("letocc_ros")

    def argument(name: str, default: str | Path, description: str, choices: list[str] | None = None):
        return DeclareLaunchArgument(name, default_value=str(default), description=description, choices=choices)

    return [
        argument(
            "checkpoint", "", "Checkpoint (.safetensors); empty: as in params_file, where empty is the shipped one."
        ),
        argument(
            "cameras",
            "",
            "Camera names, with commas, the anchor first; empty: as in params_file, where empty is the checkpoint's.",
        ),
        argument("params_file", share / "config" / "occ_flow.yaml", "Parameters of the node (YAML)."),
        argument("name", "occ_flow_node", "Name of the node, for several in one system."),
        argument("namespace", "", "Namespace of the node; camera topics are relative to it."),
        argument("autostart", "true", "Configure and activate the node without a lifecycle manager.", BOOLEAN),
        argument("bag", "", "Bag to play into the node; empty: live cameras. Without rviz, all ends with the bag."),
        argument("rate", "1.0", "Speed of the bag relative to the recording."),
        argument("as_fast", "false", "Play each image set as soon as the one before is answered.", BOOLEAN),
        argument("loop", "false", "Play the bag again and again.", BOOLEAN),
        argument("use_sim_time", "auto", "Take the time from /clock; auto: with a bag.", ["auto", *BOOLEAN]),
        argument("rviz", "false", "Open RViz.", BOOLEAN),
        argument("rviz_config", share / "config" / "occ_flow.rviz", "What RViz shows."),
        argument("required", "true", "End everything that was launched together when the node ends.", BOOLEAN),
        argument("log_level", "info", "Least severe messages of the node that are shown."),
    ]


def start(context: LaunchContext) -> list[Action]:
    """The processes that the arguments ask for."""
    values = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in arguments()}
    values["use_sim_time"] = values["use_sim_time"].replace("auto", "true" if values["bag"] else "false")
    actions = [occ_flow_node(values)]
    if values["bag"]:
        actions.append(player(values))
    if values["rviz"] == "true":
        actions.append(rviz(values))
    return actions


def occ_flow_node(values: dict[str, str]) -> Node:
    """The node; when it ends, everything ends, if it is required."""
    changes = {"use_sim_time": values["use_sim_time"] == "true", "autostart": values["autostart"] == "true"}
    if values["checkpoint"]:
        changes["checkpoint"] = values["checkpoint"]
    if values["cameras"]:
        changes["cameras"] = [name.strip() for name in values["cameras"].split(",")]
    return Node(
        package="letocc_ros",
        executable="occ_flow_node",
        name=values["name"],
        namespace=values["namespace"],
        parameters=[values["params_file"], changes],
        ros_arguments=["--log-level", values["log_level"]],
        output="screen",
        on_exit=Shutdown(reason="occ_flow_node ended") if values["required"] == "true" else None,
    )


def player(values: dict[str, str]) -> Node:
    """`letocc play`."""
    flags = [flag for name, flag in (("as_fast", "--as-fast"), ("loop", "--loop")) if values[name] == "true"]
    return Node(
        package="letocc_ros",
        executable="play",
        arguments=[values["bag"], "--rate", values["rate"], *flags],
        output="screen",
        on_exit=None if values["rviz"] == "true" else Shutdown(reason="the bag has been played"),
    )


def rviz(values: dict[str, str]) -> Node:
    """RViz; closing its window ends everything."""
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", values["rviz_config"]],
        parameters=[{"use_sim_time": values["use_sim_time"] == "true"}],
        output="screen",
        on_exit=Shutdown(reason="RViz was closed"),
    )


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=start)])
