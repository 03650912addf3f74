"""A robot's bring-up: cameras or a bag of them, occ_flow_node, Nav2's lifecycle manager that starts it, RViz.

ros2 launch examples/bringup.launch.py                          # beside camera drivers that run already
ros2 launch examples/bringup.launch.py bag:=out/street rviz:=true

The manager needs nav2_lifecycle_manager (`apt install ros-$ROS_DISTRO-nav2-lifecycle-manager`). A robot's own package
copies this file into its `launch` folder and starts its camera drivers where this one may play a bag.
"""

from ament_index_python.packages import get_package_share_path
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node

from launch import LaunchDescription

NODE = "occ_flow"
ARGUMENTS = {  # name -> default, what it means
    "bag": ("", "Bag to play in place of cameras, again and again; empty: camera drivers run already."),
    "checkpoint": ("", "Checkpoint (.safetensors); empty: the shipped one."),
    "cameras": ("", "Camera names, with commas, the anchor first; empty: the checkpoint's."),
    "namespace": ("", "Namespace of the node and its manager; camera topics are relative to it."),
    "rviz": ("false", "Open RViz."),
}


def occ_flow() -> IncludeLaunchDescription:
    """The node, which waits to be configured; with a bag its player, and RViz if it is asked for."""
    source = get_package_share_path("letocc_ros") / "launch" / "occ_flow.launch.py"
    given = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    given |= {"name": NODE, "autostart": "false", "loop": "true"}  # as cameras, a bag does not end
    return IncludeLaunchDescription(PythonLaunchDescriptionSource(str(source)), launch_arguments=given.items())


def manager() -> Node:
    """A manager of its own: the node sends no bond, and `bond_timeout` concerns every node of a manager."""
    simulated = PythonExpression(["'", LaunchConfiguration("bag"), "' != ''"])  # as occ_flow.launch.py has it
    return Node(
        package="nav2_lifecycle_manager",
        executable="lifecycle_manager",
        name="lifecycle_manager_occ_flow",
        namespace=LaunchConfiguration("namespace"),
        parameters=[{"use_sim_time": simulated, "autostart": True, "bond_timeout": 0.0, "node_names": [NODE]}],
        output="screen",
    )


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, occ_flow(), manager()])
