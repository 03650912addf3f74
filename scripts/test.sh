#!/usr/bin/env bash
# Sets up (scripts/env.sh) and runs the tests. Arguments go to pytest: `scripts/test.sh -m slow`, `test/test_x.py -k name`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh

workers=$(($(nproc) + 1)) # those of ROS wait for half of their time
export OMP_NUM_THREADS=1                     # a core each: the tests run side by side
export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export ROS_DOMAIN_ID=$((1 + $$ % 100))       # not another run's
exec python -m pytest -n "$((workers < 5 ? workers : 5))" --dist loadfile --no-loadscope-reorder --timeout 300 -rs "$@"
