"""ROS 2 around `letocc_core`: messages to arrays, the node, the bag player."""

from pkgutil import extend_path

# The build generates `letocc_ros.msg` in a folder of the same package name: find it also when running from the sources.
__path__ = extend_path(__path__, __name__)
