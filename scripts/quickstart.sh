#!/bin/bash
# From a checkout to a running and verified LiteLLM service: sudo ./scripts/quickstart.sh [OPTIONS]
#
# With a .env in the checkout the service is made of that; else, if there is none yet, of the demo configuration,
# which needs no AWS account. OPTIONS go to `litellmctl install`. Run it again after each change: what is done
# already is not done again.
#
# On a host without a network: sudo ./scripts/quickstart.sh --bundle FILE, with a file that `litellmctl bundle` made on
# another machine. Nothing else is fetched then.
#
# Debian 12, 13, Ubuntu 22.04, 24.04, Amazon Linux 2023. Where systemd isn't running (in a container, say), the
# same happens in a throwaway systemd container, to show that it works. Where none can be made, and without root, the
# service runs in the foreground, below your XDG folders, is verified and stopped ('litellmctl rehearse --foreground',
# which then gets OPTIONS).
set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly CHECKOUT
cd "$CHECKOUT"
# The service's user has to read what is installed, and only its owner may write there, whatever the caller's umask is.
umask 022
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

# Not in anybody's home, where the service couldn't reach it, and not in the checkout, which may be anywhere.
BOOTSTRAP=/opt/litellm-systemd/bootstrap

# A bundle with all packages; empty: they come from the package index.
BUNDLE=

step() { printf '* %s\n' "$*" >&2; }

install_packages() {
    [[ $EUID -eq 0 ]] || die "not installed, and installing it takes root: $*"
    step "installing $* (a minute at most)"
    if command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
        apt-get update -qq || step "apt-get update failed: going on with the lists that are here"
        # A machine that has just booted may be busy with its own upgrades.
        apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" >/dev/null
    elif command -v dnf >/dev/null; then
        dnf install -y -q "$@" >/dev/null
    else
        die "neither apt-get nor dnf is here: install $* yourself and run this again"
    fi
}

# Such as "3.11 /usr": the version of a Python, and of which installation it is.
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2], sys.base_prefix)' 2>/dev/null; }

can_make_venvs() { command -v uv >/dev/null || "$1" -c 'import ensurepip' 2>/dev/null; }

# What the bundle says of itself, read by the checkout's own code; -B, to leave nothing in the checkout.
read_bundle() { PYTHONPATH=$CHECKOUT/installer "$1" -B -m litellm_systemd.releases.archive "${@:2}"; }

# The Python to install with: with a bundle the one that it is for.
choose_python() {
    local python wanted
    python=$(find_python) || return 1
    if [[ -n $BUNDLE ]]; then
        wanted=$(read_bundle "$python" python "$BUNDLE") || exit
        python=/usr/bin/python$wanted
        [[ -x $python ]] || die "$BUNDLE is for Python $wanted, and there is no $python here: make one with" \
            "'litellmctl bundle --python VERSION', or install that Python"
    fi
    printf '%s\n' "$python"
}

# The name of Debian's package follows the Python: `python3-venv` is the default Python's alone.
ensure_python() {
    local python
    if ! find_python >/dev/null; then
        if command -v dnf >/dev/null; then
            install_packages python3.12 || install_packages python3.11
        else
            install_packages python3 python3-venv
        fi
    fi
    python=$(choose_python) || die "no Python 3.10 or later in /usr/bin that will do, and none to be had"
    can_make_venvs "$python" || install_packages "python$(version_of "$python" | cut -d' ' -f1)-venv"
}

# One line that changes when the package or its Python does.
fingerprint() {
    find installer units configs setup.cfg pyproject.toml -type f ! -name '*.pyc' ! -path '*.egg-info/*' -print0 |
        sort -z | xargs -0 sha256sum | cat - <("$1" -VV) | sha256sum
}

ensure_uv() {
    UV=$(command -v uv || echo "$BOOTSTRAP/bin/uv")
    [[ -x $UV ]] || "$BOOTSTRAP/bin/python" -m pip install -qq --disable-pip-version-check uv || UV=
}

# litellmctl and what it needs, in a venv of its own: every package by the hashes of the lock.
ensure_litellmctl() {
    local python wanted folder
    python=$(choose_python) || exit
    wanted=$(if [[ -n $BUNDLE ]]; then sha256sum <"$BUNDLE" && "$python" -VV; else fingerprint "$python"; fi)
    [[ -x $BOOTSTRAP/bin/litellmctl && $(cat "$BOOTSTRAP/made-from" 2>/dev/null) == "$wanted" ]] && return
    step "installing litellmctl and LiteLLM into $BOOTSTRAP (half a minute; several with a slow network)"
    mkdir -p "$(dirname "$BOOTSTRAP")"
    if [[ $(version_of "$BOOTSTRAP/bin/python") != "$(version_of "$python")" ]]; then
        rm -rf "$BOOTSTRAP"
        if command -v uv >/dev/null; then
            uv venv --quiet --python "$python" "$BOOTSTRAP"
        else
            "$python" -m venv "$BOOTSTRAP"
        fi
    fi
    folder=$(mktemp -d "$(dirname "$BOOTSTRAP")/.unpacked-XXXXXX")
    # shellcheck disable=SC2064  # the folder of now, not of then
    trap "rm -rf '$folder'" EXIT
    if [[ -n $BUNDLE ]]; then
        install_from_bundle "$python" "$folder"
    else
        install_from_checkout "$folder"
    fi
    printf '%s\n' "$wanted" >"$BOOTSTRAP/made-from"
}

# It is built from a copy, to leave nothing in the checkout.
install_from_checkout() {
    ensure_uv
    cp -R installer units configs setup.cfg pyproject.toml README.md LICENSE "$1"
    pip_install --require-hashes --only-binary :all: -r installer/litellm_systemd/requirements.lock
    # The lock has no sdnotify, whose wheel is part of the package (installer/litellm_systemd/releases/wheels.py).
    pip_install --no-deps installer/litellm_systemd/releases/sdnotify-*.whl "$1"
}

install_from_bundle() {
    UV=$(command -v uv || true)
    read_bundle "$1" unpack "$BUNDLE" "$2" >/dev/null || exit
    pip_install --no-index --find-links "$2/wheels" --require-hashes --only-binary :all: -r "$2/requirements.lock"
    pip_install --no-index --no-deps "$2"/wheels/sdnotify-*.whl "$2"/litellm_systemd-*.whl
}

pip_install() {
    if [[ -n $UV ]]; then
        "$UV" pip install --quiet --python "$BOOTSTRAP/bin/python" --reinstall-package litellm-systemd "$@"
    else
        # Compiled when it is first used: most of it never is here.
        "$BOOTSTRAP/bin/python" -m pip install -qq --disable-pip-version-check --no-compile "$@"
    fi
}

# run_litellmctl VERB ARGS...: with the .env here; else with what is installed, or with the demo configuration.
run_litellmctl() {
    local verb=$1 options=()
    shift
    if [[ -f .env ]]; then
        options=(--env-file .env)
    elif [[ $verb != install || ! -e /etc/litellm/litellm.env ]]; then
        options=(-c demo.yml)
        step "no .env here: taking the demo configuration, whose models answer without AWS"
    fi
    [[ -z $BUNDLE ]] || options+=(--bundle "$BUNDLE")
    ensure_python
    ensure_litellmctl
    step "litellmctl $verb ${options[*]}${*:+ $*}"
    "$BOOTSTRAP/bin/litellmctl" "$verb" "${options[@]}" "$@"
}

show_next() {
    cat <<'TEXT'

Next:
  litellmctl status            what runs, and how it is (systemctl status litellm does as well)
  litellmctl logs -f           what it says (journalctl -u litellm -f)
  litellmctl verify            prove again that it works
  litellmctl --help            everything else
  cp configs/env.example .env  your own models: edit .env and run this script again
TEXT
}

run_box() { PYTHONPATH=$CHECKOUT/installer "$(find_python)" -B -m litellm_systemd.box "$@"; }

# Why no systemd container can be made here, found by booting one, in a second; empty if one can.
why_no_box() {
    local output code=0
    output=$(run_box exec -- true 2>&1) || code=$?
    if [[ $code -eq 66 ]]; then # programs are missing, and the kernel grants namespaces
        (install_packages systemd-container dbus util-linux findutils) || true
        code=0
        output=$(run_box exec -- true 2>&1) || code=$?
    fi
    output=${output%%$'\n'*}
    output=${output#box: }
    output=${output#no systemd container can be made here: }
    [[ $code -eq 0 ]] || echo "${output:-exit code $code}"
}

# The caches are the machine's own, so that a second run is quick; everything else in the box is a copy.
install_in_a_box() {
    local cache=${XDG_CACHE_HOME:-$HOME/.cache} options=() code=0
    step "systemd isn't running on this machine: the service goes into a throwaway systemd container, as a trial"
    mkdir -p "$cache"
    [[ $CHECKOUT != /tmp/* ]] || options=(--copy "$CHECKOUT")
    [[ $BUNDLE != /tmp/* ]] || options+=(--copy "$(dirname "$BUNDLE")")
    LITELLM_QUICKSTART_BOX=1 UV_LINK_MODE=copy run_box --network host --bind-rw "$cache" "${options[@]}" exec -- \
        env -u PYTHONPATH "$CHECKOUT/scripts/quickstart.sh" ${BUNDLE:+--bundle "$BUNDLE"} "$@" || code=$?
    step "the container and the service in it are gone again: nothing was installed on this machine"
    return "$code"
}

# rehearse_in_foreground MISSING OPTIONS...: what goes without systemd and without root.
rehearse_in_foreground() {
    local missing=$1 data
    shift
    export HOME=${HOME:-/}
    data=${XDG_DATA_HOME:-}
    [[ $data == /* ]] || data=$HOME/.local/share
    mkdir -p "$data/litellm-systemd" 2>/dev/null ||
        die "$data can't be written to: set XDG_DATA_HOME, or HOME, or run: sudo $0${*:+ $*}"
    BOOTSTRAP=$data/litellm-systemd/bootstrap
    step "missing here: $missing; so the service runs in the foreground, as a trial"
    run_litellmctl rehearse --foreground "$@"
    step "missing here: $missing. A real host with root and systemd adds the system service: its own user, the sandbox," \
        "start at boot, restarts, a port that stays open. There: sudo ./scripts/quickstart.sh"
}

# Takes --bundle FILE out of the arguments; the others are litellmctl's.
take_bundle() {
    local rest=()
    while [[ $# -gt 0 ]]; do
        case $1 in
            --bundle)
                [[ -r ${2:-} ]] || die "--bundle needs a file that can be read: 'litellmctl bundle' makes one"
                BUNDLE=$(realpath "$2")
                shift
                ;;
            *) rest+=("$1") ;;
        esac
        shift
    done
    arguments=("${rest[@]}")
}

main() {
    local arguments
    take_bundle "$@"
    set -- "${arguments[@]}"
    local booted=/run/systemd/system reason # sd_booted(3)
    if [[ $EUID -ne 0 ]]; then
        rehearse_in_foreground "root$([[ -d $booted ]] || echo ", and systemd as PID 1")" "$@"
    elif [[ -d $booted ]]; then
        run_litellmctl install "$@"
        [[ -n ${LITELLM_QUICKSTART_BOX:-} ]] || show_next
    else
        find_python >/dev/null || ensure_python
        reason=$(why_no_box)
        if [[ -z $reason ]]; then
            install_in_a_box "$@"
        else
            rehearse_in_foreground "systemd as PID 1, and namespaces for a container with one ($reason)" "$@"
        fi
    fi
}

main "$@"
