#!/bin/bash
# From a checkout to a running and verified LiteLLM service: sudo ./scripts/quickstart.sh [OPTIONS]
#
# With a .env in the checkout the service is made of that; else, if there is none yet, of the demo configuration,
# which needs no AWS account. OPTIONS go to `litellmctl install`. Run it again after each change: what is done
# already is not done again.
#
# Debian 12, 13, Ubuntu 22.04, 24.04, Amazon Linux 2023. Where systemd isn't running (in a container, say), the
# same happens in a throwaway systemd container, to show that it works.
set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly CHECKOUT
cd "$CHECKOUT"
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

# Not in anybody's home, where the service couldn't reach it, and not in the checkout, which may be anywhere.
readonly BOOTSTRAP=/opt/litellm-systemd/bootstrap

step() { printf '* %s\n' "$*" >&2; }

install_packages() {
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

can_make_venvs() { command -v uv >/dev/null || "$1" -c 'import ensurepip' 2>/dev/null; }

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
    python=$(find_python) || die "Python 3.10 or later is needed in /usr/bin, and this system's packages have none"
    can_make_venvs "$python" || install_packages "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
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

# litellmctl and what it needs, in a venv of its own. It is built from a copy, to leave nothing in the checkout.
ensure_litellmctl() {
    local python wanted copy
    python=$(find_python)
    wanted=$(fingerprint "$python")
    [[ -x $BOOTSTRAP/bin/litellmctl && $(cat "$BOOTSTRAP/made-from" 2>/dev/null) == "$wanted" ]] && return
    step "installing litellmctl and LiteLLM into $BOOTSTRAP (half a minute; several with a slow network)"
    mkdir -p "$(dirname "$BOOTSTRAP")"
    if ! "$BOOTSTRAP/bin/python" -c "import sys; sys.exit(sys.base_prefix != '/usr')" 2>/dev/null; then
        rm -rf "$BOOTSTRAP"
        if command -v uv >/dev/null; then
            uv venv --quiet --python "$python" "$BOOTSTRAP"
        else
            "$python" -m venv "$BOOTSTRAP"
        fi
    fi
    ensure_uv
    copy=$(mktemp -d)
    # shellcheck disable=SC2064  # the folder of now, not of then
    trap "rm -rf '$copy'" EXIT
    cp -R installer units configs setup.cfg pyproject.toml README.md LICENSE "$copy"
    if [[ -n $UV ]]; then
        "$UV" pip install --quiet --python "$BOOTSTRAP/bin/python" --reinstall-package litellm-systemd "$copy"
    else
        "$BOOTSTRAP/bin/python" -m pip install -qq --disable-pip-version-check "$copy"
    fi
    printf '%s\n' "$wanted" >"$BOOTSTRAP/made-from"
}

install_service() {
    local options=()
    if [[ -f .env ]]; then
        options=(--env-file .env)
    elif [[ ! -e /etc/litellm/litellm.env ]]; then
        options=(-c demo.yml)
        step "no .env here: taking the demo configuration, whose models answer without AWS"
    fi
    ensure_python
    ensure_litellmctl
    step "litellmctl install ${options[*]}${*:+ $*}"
    "$BOOTSTRAP/bin/litellmctl" install "${options[@]}" "$@"
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

# The caches are the machine's own, so that a second run is quick; everything else in the box is a copy.
install_in_a_box() {
    local cache=${XDG_CACHE_HOME:-$HOME/.cache} options=() code=0
    step "systemd isn't running on this machine: the service goes into a throwaway systemd container, as a trial"
    if ! command -v systemd-nspawn dbus-daemon find nsenter >/dev/null; then
        install_packages systemd-container dbus util-linux findutils
    fi
    find_python >/dev/null || ensure_python
    mkdir -p "$cache"
    [[ $CHECKOUT != /tmp/* ]] || options=(--copy "$CHECKOUT")
    LITELLM_QUICKSTART_BOX=1 UV_LINK_MODE=copy "$(find_python)" tests/system/box.py \
        --network host --bind-rw "$cache" "${options[@]}" exec -- "$CHECKOUT/scripts/quickstart.sh" "$@" || code=$?
    step "the container and the service in it are gone again: nothing was installed on this machine"
    return "$code"
}

main() {
    [[ $EUID -eq 0 ]] || die "this installs a system service and needs root: sudo $0${*:+ $*}"
    if [[ ! -d /run/systemd/system ]]; then # sd_booted(3)
        install_in_a_box "$@"
    else
        install_service "$@"
        [[ -n ${LITELLM_QUICKSTART_BOX:-} ]] || show_next
    fi
}

main "$@"
