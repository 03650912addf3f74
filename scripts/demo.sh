#!/usr/bin/env bash
# The main job, from nothing: an unseen street is simulated, its bag is played over ROS 2 to the node, and what the node
# publishes is compared with the truth. Results go to out/demo. Options: see scripts/demo.py --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # the node sets its own threads; renderers are one process a core
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
export ROS_DOMAIN_ID="${ROS_DOMAIN_ID:-$((1 + $$ % 100))}"
exec python scripts/demo.py "$@"
