#!/usr/bin/env bash
# `colcon build` with tests and `colcon test`, as in a ROS 2 workspace, into out/colcon: builds the package once more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh
out=out/colcon
prefix=${VIRTUAL_ENV:-}
export AMENT_PREFIX_PATH=${prefix}:${AMENT_PREFIX_PATH:-} CMAKE_PREFIX_PATH=${prefix}:${CMAKE_PREFIX_PATH:-}
colcon --log-base "$out/log" build --packages-select letocc_ros --build-base "$out/build" --install-base "$out/install" \
    --cmake-args -DBUILD_TESTING=ON
colcon --log-base "$out/log" test --packages-select letocc_ros --build-base "$out/build" --install-base "$out/install" \
    --return-code-on-test-failure
colcon test-result --test-result-base "$out/build"
