# Sourced by scripts/run and scripts/test: makes .venv once, and again when pyproject.toml or requirements/ change.
#
#   make_environment EXTRAS     EXTRAS is "", "[dev]" or "[dev,recipe]"; afterwards $python is the environment's interpreter,
#                               and $made is not empty where it was made just now
#
# What is installed has the versions and hashes of requirements/*.txt (scripts/lock writes them). SWARM_UNLOCKED=1 takes
# whatever pyproject.toml allows instead: for another build of the engine, or a system that has no such files.

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
environment=${SWARM_VENV:-$root/.venv}

fail() {
    printf 'swarm: %s\n' "$1" >&2
    exit 2
}

find_python() {
    for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3 python3.14 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found: install one (https://www.python.org/downloads/), or name it with PYTHON=/path/to/python3"
}

make_environment() {
    extras=$1
    made=
    python=$environment/bin/python
    stamp=$environment/.installed
    wanted="$extras $(cat "$root/pyproject.toml" "$root"/requirements/*.txt | cksum) ${SWARM_UNLOCKED:+unlocked }$root"
    # An environment with the development tools also serves to run the node.
    if [ -x "$python" ] && [ -f "$stamp" ]; then
        had=$(cat "$stamp")
        [ "$had" = "$wanted" ] && return
        [ -z "$extras" ] && [ "${had#\[*\] }" = "${wanted# }" ] && return
    fi
    base=$(find_python) || exit 2
    printf 'Making the environment in %s (once, about half a minute) ...\n' "$environment"
    if [ ! -x "$python" ]; then
        "$base" -m venv "$environment" 2>/dev/null || {
            rm -rf "$environment"
            command -v uv >/dev/null 2>&1 && uv venv --quiet --seed --python "$base" "$environment"
        } || fail "$base has no venv module: install it (Debian and Ubuntu: apt install python3-venv), or install uv"
    fi
    install_packages || fail \
        "the packages could not be installed, see above. Without a network nothing can be fetched: connect, or point pip at a folder of wheels with PIP_NO_INDEX=1 PIP_FIND_LINKS=DIR (filled elsewhere by pip download --require-hashes -d DIR -r requirements/build.txt, and the same with -r requirements/run.txt)"
    printf '%s' "$wanted" > "$stamp"
    made=yes
}

# Files whose hash is not in the list are refused. The project itself is built here, with what build.txt brought.
install_packages() {
    if [ -n "${SWARM_UNLOCKED:-}" ]; then
        pip_install --editable "$root$extras"
        return
    fi
    case $extras in
        "") pip_install --require-hashes --no-deps -r "$root/requirements/build.txt" &&
            pip_install --require-hashes --no-deps -r "$root/requirements/run.txt" ;;
        *) pip_install --require-hashes --no-deps -r "$root/requirements/test.txt" ;;
    esac || return
    case $extras in
        *recipe*) pip_install --no-build-isolation --editable "$root$extras" ;;  # PyTorch comes without: see scripts/lock
        *) pip_install --no-deps --no-build-isolation --editable "$root" ;;
    esac
}

pip_install() {
    "$python" -m pip install --quiet --disable-pip-version-check "$@"
}
