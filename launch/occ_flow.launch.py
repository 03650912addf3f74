"""Runs `occ_flow_node`; with `bag:=PATH` plays a bag into it, with `rviz:=true` shows what it sees.

ros2 launch letocc_ros occ_flow.launch.py
ros2 launch letocc_ros occ_flow.launch.py bag:=out/street rviz:=true
ros2 launch letocc_ros occ_flow.launch.py name:=seer namespace:=robot1   # one of several; see docs/node.md
ros2 launch letocc_ros occ_flow.launch.py --show-args
"""

import tempfile
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_path
from launch.action import Action
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription

BOOLEAN = ["true", "false"]
PATIENCE = 300  # s that the player waits for the node, which may be loading


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
        argument(
            "image_topic", "", "Name of the images below each camera, such as image_color; empty: as in params_file."
        ),
        argument("transport", "", "How images come: compressed or raw; empty: as in params_file."),
        argument("device", "", "Where the network runs: cpu, cuda, cuda:1, ...; empty: as in params_file."),
        argument("base_frame", "", "Ego frame; empty, as of the next four: as in params_file, or the checkpoint's."),
        argument("fixed_frame", "", "Frame in which the world stands still."),
        argument("odometry_topic", "", "Ego poses from this nav_msgs/Odometry topic instead of /tf."),
        argument(
            "slop", "", "Largest distance of stamps in an image set, s; empty, with a bag: at least what that needs."
        ),
        argument(
            "body_masks",
            "",
            "Folder of masks of the vehicle's own body, as `letocc bag mask` makes it; none: no masks.",
        ),
        argument("params_file", share / "config" / "occ_flow.yaml", "Parameters of the node (YAML)."),
        argument("name", "occ_flow_node", "Name of the node, for several in one system."),
        argument("namespace", "", "Namespace of the node; camera topics are relative to it."),
        argument("autostart", "true", "Configure and activate the node without a lifecycle manager.", BOOLEAN),
        argument("bag", "", "Bag to play into the node; empty: live cameras. Without rviz, all ends with the bag."),
        argument("lidar_topic", "", "Play this point cloud alone of the bag's; empty: all. The node needs none."),
        argument("rate", "1.0", "Speed of the bag relative to the recording."),
        argument("as_fast", "false", "Play each image set as soon as the one before is answered.", BOOLEAN),
        argument("loop", "false", "Play the bag again and again.", BOOLEAN),
        argument("use_sim_time", "auto", "Take the time from /clock; auto: with a bag.", ["auto", *BOOLEAN]),
        argument("rviz", "false", "Open RViz.", BOOLEAN),
        argument("rviz_config", "", "What RViz shows; empty: this node's outputs and cameras (config/occ_flow.rviz)."),
        argument("required", "true", "End everything that was launched together when the node ends.", BOOLEAN),
        argument("respawn", "false", "Start the node again 2 s after it has ended; then it is not required.", BOOLEAN),
        argument("log_level", "info", "Least severe messages of the node that are shown."),
    ]


def start(context: LaunchContext) -> list[Action]:
    """The processes that the arguments ask for. Raises `FileNotFoundError` for files that are not there."""
    values = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in arguments()}
    values["use_sim_time"] = values["use_sim_time"].replace("auto", "true" if values["bag"] else "false")
    for name in ("params_file", "rviz_config"):  # launch would go on without them
        if values[name] and not Path(values[name]).is_file():
            raise FileNotFoundError(f"{name}:={values[name]}: no such file")
    actions = [occ_flow_node(values)]
    if values["bag"]:
        actions.append(player(values))
    if values["rviz"] == "true":
        actions += rviz(values)
    return actions


def occ_flow_node(values: dict[str, str]) -> Node:
    """The node; when it ends, everything ends, if it is required, or it is started again."""
    required = values["required"] == "true" and values["respawn"] == "false"
    return Node(
        package="letocc_ros",
        executable="occ_flow_node",
        name=values["name"],
        namespace=values["namespace"],
        parameters=[values["params_file"], changes(values)],
        ros_arguments=["--log-level", values["log_level"]],
        output="screen",
        respawn=values["respawn"] == "true",
        respawn_delay=2.0,
        on_exit=Shutdown(reason="occ_flow_node ended") if required else None,
    )


def changes(values: dict[str, str]) -> dict[str, object]:
    """Parameters that the arguments set, whatever params_file says."""
    found = {"use_sim_time": values["use_sim_time"] == "true", "autostart": values["autostart"] == "true"}
    if values["checkpoint"]:
        found["checkpoint"] = values["checkpoint"]
    if values["cameras"]:
        found["cameras"] = [name.strip() for name in values["cameras"].split(",")]
    names = ("image_topic", "transport", "device", "base_frame", "fixed_frame", "odometry_topic", "body_masks")
    found |= {name: values[name] for name in names if values[name]}
    if values["bag"]:
        found["recording"] = values["bag"]
    if values["slop"]:
        try:
            found["slop"] = float(values["slop"])
        except ValueError:
            raise ValueError(f"slop:={values['slop']}: expected a number of seconds, such as 0.045") from None
    return found


def player(values: dict[str, str]) -> Node:
    """`letocc play`."""
    return Node(
        package="letocc_ros",
        executable="play",
        arguments=[values["bag"], "--rate", values["rate"], "--wait", str(PATIENCE), *player_options(values)],
        output="screen",
        on_exit=None if values["rviz"] == "true" else Shutdown(reason="the bag has been played"),
    )


def player_options(values: dict[str, str]) -> list[str]:
    """What of the bag is played, and how: of what the arguments choose, nothing else of its kind."""
    flags = [flag for name, flag in (("as_fast", "--as-fast"), ("loop", "--loop")) if values[name] == "true"]
    chosen = {"--lidar-topic": values["lidar_topic"]}
    if not values["namespace"]:  # else names in the bag may be others than those that the node hears
        topic = values["odometry_topic"].strip("/")
        chosen |= {"--cameras": values["cameras"], "--odometry-topic": topic and f"/{topic}"}
    return flags + [word for option, value in chosen.items() if value for word in (option, value)]


def rviz(values: dict[str, str]) -> list[Action]:
    """RViz; closing its window ends everything."""
    config, notes = (values["rviz_config"], []) if values["rviz_config"] else write_rviz_config(values)
    window = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", config],
        parameters=[{"use_sim_time": values["use_sim_time"] == "true"}],
        output="screen",
        on_exit=Shutdown(reason="RViz was closed"),
    )
    return [*notes, window]


def write_rviz_config(values: dict[str, str]) -> tuple[str, list[Action]]:
    """A file that shows this node's topics and cameras, and what is to be said of it."""
    from letocc_ros.view.rviz import node_config

    share = get_package_share_path("letocc_ros")
    shown = installed("compressed_image_transport")
    text = node_config(
        share, values["namespace"], values["name"], Path(values["params_file"]), changes(values), compressed=shown
    )
    with tempfile.NamedTemporaryFile("w", prefix="occ_flow_", suffix=".rviz", delete=False) as file:
        file.write(text)
    hint = "RViz shows no compressed images: without compressed_image_transport, which is not installed, it would abort"
    return file.name, [] if shown else [LogInfo(msg=hint)]


def installed(package: str) -> bool:
    """Whether ROS has a package."""
    try:
        get_package_share_path(package)
    except PackageNotFoundError:
        return False
    return True


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=start)])
