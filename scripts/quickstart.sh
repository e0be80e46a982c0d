#!/bin/bash
# From a checkout to a running and verified LiteLLM service: sudo ./scripts/quickstart.sh [OPTIONS]
#
# The service uses the .env in the checkout. Without one, it uses the installed environment or, on a new host, the demo
# configuration, which needs no AWS account. OPTIONS are those of `litellmctl install`. Run the script again after each
# change: it skips the steps that are already done.
#
# On a host without a network: sudo ./scripts/quickstart.sh --bundle FILE. `litellmctl bundle` creates FILE on another
# machine. The script then downloads nothing.
#
# Supported: Debian 12, 13, Ubuntu 22.04, 24.04, Amazon Linux 2023. If systemd is not running, as in most containers,
# the script installs and verifies the service in a temporary systemd container. If it can't create one, or without
# root, it runs the service in the foreground, below your XDG folders, verifies it and stops it. OPTIONS are then those
# of `litellmctl rehearse --foreground`.
set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly CHECKOUT
cd "$CHECKOUT"
# The service's user must be able to read the files, and only their owner may write them, whatever the caller's umask.
umask 022
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
explain scripts/quickstart.sh "$@"

# Not in a home folder, which the service can't read, and not in the checkout, which may be anywhere.
BOOTSTRAP=/opt/litellm-systemd/bootstrap

# A bundle with all packages. Empty: download them from the package index.
BUNDLE=

step() { printf '* %s\n' "$*" >&2; }

install_packages() {
    [[ $EUID -eq 0 ]] || die "packages are missing: $*. Install them as root, or run: sudo $0"
    step "installing $* (up to a minute)"
    if command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
        apt-get update -qq || step "apt-get update failed: continuing with the existing package lists"
        # On a machine that has just booted, automatic upgrades may hold the lock.
        apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" >/dev/null
    elif command -v dnf >/dev/null; then
        dnf install -y -q "$@" >/dev/null
    else
        die "neither apt-get nor dnf was found. Install these packages and run this script again: $*"
    fi
}

# The version and the installation of a Python, such as "3.11 /usr".
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2], sys.base_prefix)' 2>/dev/null; }

can_make_venvs() { command -v uv >/dev/null || "$1" -c 'import ensurepip' 2>/dev/null; }

# Read the metadata of the bundle with the code of the checkout. -B leaves no byte code in the checkout.
read_bundle() { PYTHONPATH=$CHECKOUT/installer "$1" -B -m litellm_systemd.releases.archive "${@:2}"; }

# The Python for the installation. A bundle needs the Python that it was made for.
choose_python() {
    local python wanted
    python=$(find_python) || return 1
    if [[ -n $BUNDLE ]]; then
        wanted=$(read_bundle "$python" python "$BUNDLE") || exit
        python=/usr/bin/python$wanted
        [[ -x $python ]] || die "$BUNDLE is for Python $wanted, but $python does not exist. Install that Python, or" \
            "make a bundle for another one: litellmctl bundle --python VERSION"
    fi
    printf '%s\n' "$python"
}

# Debian names the package after the Python version: `python3-venv` is only for the default Python.
ensure_python() {
    local python
    if ! find_python >/dev/null; then
        if command -v dnf >/dev/null; then
            install_packages python3.12 || install_packages python3.11
        else
            install_packages python3 python3-venv
        fi
    fi
    python=$(choose_python) || die "no usable Python 3.10 to 3.14 in /usr/bin, and none could be installed"
    can_make_venvs "$python" || install_packages "python$(version_of "$python" | cut -d' ' -f1)-venv"
}

# A line that changes if the package or its Python changes.
fingerprint() {
    find installer units configs setup.cfg pyproject.toml -type f ! -name '*.pyc' ! -path '*.egg-info/*' -print0 |
        sort -z | xargs -0 sha256sum | cat - <("$1" -VV) | sha256sum
}

ensure_uv() {
    UV=$(command -v uv || echo "$BOOTSTRAP/bin/uv")
    [[ -x $UV ]] || "$BOOTSTRAP/bin/python" -m pip install -qq --disable-pip-version-check uv || UV=
}

# Install litellmctl and its dependencies into a separate venv, each package with the hashes of the lock.
ensure_litellmctl() {
    local python wanted folder
    python=$(choose_python) || exit
    wanted=$(if [[ -n $BUNDLE ]]; then sha256sum <"$BUNDLE" && "$python" -VV; else fingerprint "$python"; fi)
    [[ -x $BOOTSTRAP/bin/litellmctl && $(cat "$BOOTSTRAP/made-from" 2>/dev/null) == "$wanted" ]] && return
    step "installing litellmctl and LiteLLM into $BOOTSTRAP (half a minute, or several with a slow network)"
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
    # shellcheck disable=SC2064  # expand the folder now
    trap "rm -rf '$folder'" EXIT
    if [[ -n $BUNDLE ]]; then
        install_from_bundle "$python" "$folder"
    else
        install_from_checkout "$folder"
    fi
    printf '%s\n' "$wanted" >"$BOOTSTRAP/made-from"
}

# Build from a copy, to leave no files in the checkout.
install_from_checkout() {
    ensure_uv
    cp -R installer units configs setup.cfg pyproject.toml README.md LICENSE "$1"
    pip_install --require-hashes --only-binary :all: -r installer/litellm_systemd/requirements.lock
    # The lock has no sdnotify, whose wheel is part of the package (installer/litellm_systemd/releases/source.py).
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
        # Python compiles modules at first use. Most of them are never used here.
        "$BOOTSTRAP/bin/python" -m pip install -qq --disable-pip-version-check --no-compile "$@"
    fi
}

# run_litellmctl VERB ARGS...: use the .env here, otherwise the installed environment or the demo configuration.
run_litellmctl() {
    local verb=$1 options=()
    shift
    if [[ -f .env ]]; then
        options=(--env-file .env)
    elif [[ $verb != install || ! -e /etc/litellm/litellm.env ]]; then
        if [[ " $*" != *" -c"* && " $*" != *" --config"* ]]; then
            options=(-c demo.yml)
            step "no .env here: using the demo configuration, whose models answer without AWS"
        fi
    fi
    [[ -z $BUNDLE ]] || options+=(--bundle "$BUNDLE")
    ensure_python
    ensure_litellmctl
    # `litellmctl upgrade` names the checkout (installer/litellm_systemd/releases/source.py).
    if [[ -n $BUNDLE ]]; then rm -f "$BOOTSTRAP/checkout"; else printf '%s\n' "$CHECKOUT" >"$BOOTSTRAP/checkout"; fi
    step "litellmctl $verb${options[*]:+ ${options[*]}}${*:+ $*}"
    "$BOOTSTRAP/bin/litellmctl" "$verb" "${options[@]}" "$@"
}

show_next() {
    cat <<'TEXT'

Next:
  litellmctl status            show versions, workers and health (or: systemctl status litellm)
  litellmctl logs -f           follow the log (or: journalctl -u litellm -f)
  sudo litellmctl verify       verify the service again
  litellmctl client            list the clients whose settings it prints or writes
  litellmctl --help            list all commands
  cp configs/env.example .env  use your own models: edit .env and run this script again
TEXT
}

run_box() { PYTHONPATH=$CHECKOUT/installer "$(find_python)" -B -m litellm_systemd.box "$@"; }

# Boot a systemd container, which takes a second, and print why that fails. Empty if it works.
why_no_box() {
    local output code=0
    output=$(run_box exec -- true 2>&1) || code=$?
    if [[ $code -eq 66 ]]; then # programs are missing, but namespaces are allowed
        (install_packages systemd-container dbus util-linux findutils) || true
        code=0
        output=$(run_box exec -- true 2>&1) || code=$?
    fi
    output=${output%%$'\n'*}
    output=${output#box: }
    output=${output#no systemd container can be made here: }
    [[ $code -eq 0 ]] || echo "${output:-exit code $code}"
}

# The container shares the caches of the machine, so that a second run is fast. All its other files are copies.
install_in_a_box() {
    local cache=${XDG_CACHE_HOME:-$HOME/.cache} options=() code=0
    step "systemd is not running on this machine: installing the service in a temporary systemd container"
    mkdir -p "$cache"
    [[ $CHECKOUT != /tmp/* ]] || options=(--copy "$CHECKOUT")
    [[ $BUNDLE != /tmp/* ]] || options+=(--copy "$(dirname "$BUNDLE")")
    LITELLM_QUICKSTART_BOX=1 UV_LINK_MODE=copy run_box --network host --bind-rw "$cache" "${options[@]}" exec -- \
        env -u PYTHONPATH "$CHECKOUT/scripts/quickstart.sh" ${BUNDLE:+--bundle "$BUNDLE"} "$@" || code=$?
    step "removed the container with the service: nothing was installed on this machine"
    return "$code"
}

# rehearse_in_foreground MISSING OPTIONS...: try the service without systemd and without root.
rehearse_in_foreground() {
    local missing=$1 data
    shift
    export HOME=${HOME:-/}
    data=${XDG_DATA_HOME:-}
    [[ $data == /* ]] || data=$HOME/.local/share
    mkdir -p "$data/litellm-systemd" 2>/dev/null ||
        die "$data is not writable. Set XDG_DATA_HOME or HOME, or run: sudo $0${*:+ $*}"
    BOOTSTRAP=$data/litellm-systemd/bootstrap
    step "not available here: $missing. Running the service in the foreground, as a trial"
    run_litellmctl rehearse --foreground "$@"
    step "not available here: $missing. On a host with root and systemd you also get the system service: its own" \
        "user, the sandbox, start at boot, restarts, a port that stays open. Run there: sudo ./scripts/quickstart.sh"
}

# Take --bundle FILE out of the arguments. The others are passed to litellmctl.
take_bundle() {
    local rest=()
    while [[ $# -gt 0 ]]; do
        case $1 in
            --bundle)
                [[ -r ${2:-} ]] || die "--bundle needs a readable file. To create one, run: litellmctl bundle"
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
