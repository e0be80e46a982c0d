# shellcheck shell=bash
# Functions that the scripts share. Source this file with the checkout as the current folder.

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# explain SCRIPT ARGUMENTS...: print the comment at the top of the script and exit, if the first argument asks for help.
explain() {
    [[ ${2:-} == -h || ${2:-} == --help ]] || return 0
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"
    exit
}

# A system Python, 3.12 or later where there is one: before it, a worker must not collect garbage automatically
# (runtime/worker/garbage_collection.py). Otherwise 3.10 or 3.11. A service can't read a Python in a home folder.
find_python() {
    local lowest python
    for lowest in 12 10; do
        for python in /usr/bin/python3{,.14,.13,.12,.11,.10}; do
            if "$python" -c "import sys; sys.exit(not (3, $lowest) <= sys.version_info < (3, 15))" 2>/dev/null; then
                printf '%s\n' "$python"
                return
            fi
        done
    done
    return 1
}

# The installed litellmctl, the one in PATH, or the one of this checkout, whose folder is in CHECKOUT.
find_litellmctl() {
    local candidate
    for candidate in /usr/local/bin/litellmctl "$(command -v litellmctl || true)" "$CHECKOUT/.venv/bin/litellmctl"; do
        if [[ -x $candidate ]]; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "litellmctl is not installed. To install it, run: sudo $CHECKOUT/scripts/quickstart.sh"
}
