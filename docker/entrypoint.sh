#!/usr/bin/env bash
# Enters the image's environment, and runs there what it is given.
set -e
source "${ROS_SETUP:-/opt/ros/$ROS_DISTRO/setup.bash}"
source "$LETOCC_ROOT/.venv/bin/activate"
source "$LETOCC_ROOT/install/setup.bash"
exec "$@"
