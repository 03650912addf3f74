"""Room for whole sets of large images in Fast DDS, the default middleware of ROS 2."""

import os

from ament_index_python.packages import get_package_share_path

OLD = ("FASTRTPS_DEFAULT_PROFILES_FILE", {"humble", "iron"})  # the variable, and the distributions that read it
NEW = "FASTDDS_DEFAULT_PROFILES_FILE"


def make_room_for_images() -> None:
    """Let this process use config/fastdds.xml, unless its environment names a profile; call it before rclpy starts.

    Without it a single PNG image of half a megabyte does not fit the shared memory of its publisher, and is lost.
    """
    if NEW in os.environ or OLD[0] in os.environ:
        return
    name = OLD[0] if os.environ.get("ROS_DISTRO") in OLD[1] else NEW
    os.environ[name] = str(get_package_share_path("letocc_ros") / "config" / "fastdds.xml")
