# shellcheck shell=bash
# What the scripts have in common. Sourced, with the checkout as the current folder.

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# The first Python of the system from 3.10 on: one in a home folder is out of reach for a service.
find_python() {
    local python
    for python in /usr/bin/python3{,.14,.13,.12,.11,.10}; do
        if "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' 2>/dev/null; then
            printf '%s\n' "$python"
            return
        fi
    done
    return 1
}

# litellmctl as installed, on the PATH, or of this checkout. CHECKOUT is its folder.
find_litellmctl() {
    local candidate
    for candidate in /usr/local/bin/litellmctl "$(command -v litellmctl || true)" "$CHECKOUT/.venv/bin/litellmctl"; do
        if [[ -x $candidate ]]; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "litellmctl isn't installed: run sudo $CHECKOUT/scripts/quickstart.sh first"
}
