"""Which packages `pip install` takes; everything else is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

# letocc_ros is left out: it needs the messages that colcon builds. Their text comes along, to write bags without ROS.
setup(
    packages=[*find_namespace_packages(include=["letocc_core*"]), "letocc_core.msg"],
    package_dir={"letocc_core.msg": "msg"},
)
