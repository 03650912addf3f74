"""Room for whole sets of large images in Fast DDS, the default middleware of ROS 2."""

import os

from ament_index_python.packages import get_package_share_path

VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")  # since Jazzy; before


def make_room_for_images() -> None:
    """Let this process use config/fastdds.xml, unless its environment names a profile; call it before rclpy starts.

    Without it a single PNG image of half a megabyte does not fit the shared memory of its publisher, and is lost.
    """
    if not any(name in os.environ for name in VARIABLES):
        profile = get_package_share_path("letocc_ros") / "config" / "fastdds.xml"
        os.environ.update(dict.fromkeys(VARIABLES, str(profile)))
