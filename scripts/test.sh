#!/bin/bash
# Set up what the tests need, and run all of them. With arguments: set up, and run pytest with these.
#
#   scripts/test.sh                        everything, as root on Debian 12, 13 or Ubuntu 22.04, 24.04
#   scripts/test.sh --fast                 linters and unit tests without the slow ones, in less than a minute
#   scripts/test.sh tests/unit -k dotenv   a part of it, without linters and coverage
#   scripts/test.sh --setup                no tests: what they, tests.bench and scripts/release.sh need
#
# Without root nothing is installed by apt. Without root, or in a container without namespaces, the tests on a real
# systemd are skipped, the summary says why, and the threshold of the coverage doesn't apply. Under
# REQUIRE_SYSTEM_TESTS=1 they fail in place of being skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

readonly VENV=.venv
# What each test took, a file for each stage.
readonly TIMES=.cache/times
summary=()
# Why the tests on a real systemd can't run here; empty if they can.
no_system=

say() { printf '\n== %s\n' "$*"; }
is_root() { [[ $EUID -eq 0 ]]; }

# stage NAME COMMAND...: run it, and note how it ended and how long it took. In a subshell of its own, and not
# before an `||`, where bash would forget `set -e`.
stage() {
    local name=$1 start=$SECONDS code
    shift
    say "$name"
    set +e
    (
        set -e
        "$@"
    )
    code=$?
    set -e
    note "$name" "$code" $((SECONDS - start))
    return "$code"
}

# note NAME CODE SECONDS: a line of the summary.
note() {
    local state=passed remark=
    if [[ $2 -ne 0 ]]; then
        state=FAILED
    elif [[ -n $no_system && ($1 == images || $1 == "system tests") ]]; then
        state=skipped remark="  $no_system"
    fi
    summary+=("$(printf '%-16s %-7s %5d s%s' "$1" "$state" "$3" "$remark")")
}

print_summary() {
    local code=$?
    if compgen -G "$TIMES/*.xml" >/dev/null; then
        say "Slowest tests"
        "$VENV/bin/python" -m tests.slowest "$TIMES"/*.xml || true
    fi
    note total "$code" "$SECONDS"
    say "Summary"
    printf '%s\n' "${summary[@]}"
}

# What is missing, as packages: with "python" only what a venv takes. Looking for commands keeps a second run off the
# network.
missing_packages() {
    local pair python
    python=$(find_python) || printf '%s\n' python3 python3-venv
    if [[ -n $python ]] && ! "$python" -c 'import ensurepip' 2>/dev/null; then
        echo "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    fi
    [[ ${1:-} != python ]] || return 0
    for pair in systemd-nspawn:systemd-container dbus-daemon:dbus debootstrap:debootstrap curl:curl \
        git:git ps:procps ip:iproute2; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
    done
    [[ -e /etc/ssl/certs/ca-certificates.crt ]] || echo ca-certificates
    # What looks at the page of `verify --html`: 25 seconds, 220 MB. Ubuntu has it as a snap alone, and a skipped test.
    if grep -q '^ID=debian' /etc/os-release; then
        command -v chromium-headless-shell chromium >/dev/null || echo chromium-headless-shell
    fi
}

install_packages() {
    local packages
    mapfile -t packages < <(missing_packages "$@")
    [[ ${#packages[@]} -gt 0 ]] || return 0
    if ! is_root || ! command -v apt-get >/dev/null; then
        printf 'Not installed here (it takes root and apt): %s\n' "${packages[*]}"
        return 0
    fi
    printf 'Installing %s\n' "${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

# A venv is stale when its Python is another one than the system's, and its packages when what they follow from is.
make_venv() {
    local python version stamp=$VENV/.made-from wanted
    python=$(find_python) || die "no Python 3.10 or later in /usr/bin"
    version=$("$python" -c 'import sys; print(sys.version, sys.base_prefix)')
    if [[ $("$VENV/bin/python" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null) != "$version" ]]; then
        rm -rf "$VENV"
        "$python" -m venv "$VENV" || die "$python can't make a venv: is python3-venv installed?"
    fi
    wanted=$(echo "$version $PWD" | cat - setup.cfg pyproject.toml installer/litellm_systemd/requirements.lock | sha256sum)
    if [[ $(cat "$stamp" 2>/dev/null) != "$wanted" ]]; then
        command -v "$VENV/bin/uv" >/dev/null || "$VENV/bin/python" -m pip install -qq uv
        # The versions of a release: what is tested is what is shipped. Without the hashes, which uv would ask of all.
        sed -n 's/^\([a-z0-9].*[^ \\]\) *\\*$/\1/p' installer/litellm_systemd/requirements.lock >"$VENV/constraints.txt"
        add_to_venv '.[test]'
        echo "$wanted" >"$stamp"
    fi
}

add_to_venv() {
    "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --constraints "$VENV/constraints.txt" --editable "$1"
}

# It pins sixty packages: in a venv of its own, which the tests find.
make_checkov() {
    local folder=.cache/checkov
    [[ ! -x $folder/bin/checkov ]] || return 0
    rm -rf "$folder"
    "$VENV/bin/uv" venv --quiet --python "$VENV/bin/python" "$folder"
    "$VENV/bin/uv" pip install --quiet --python "$folder/bin/python" 'checkov>=3.3.30,<4'
}

lint() {
    "$VENV/bin/ruff" check .
    "$VENV/bin/ruff" format --check .
    "$VENV/bin/mypy" --strict
    "$VENV/bin/lint-imports" --no-cache
    "$VENV/bin/vulture"
    "$VENV/bin/shellcheck" --external-sources scripts/*.sh .ci/run
    "$VENV/bin/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml
    "$VENV/bin/check-jsonschema" --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
}

# Other Debian releases for the tests to boot: made here, since tests never use the network.
build_images() {
    if [[ -n $no_system ]]; then
        [[ ${REQUIRE_SYSTEM_TESTS:-} != 1 ]] || die "REQUIRE_SYSTEM_TESTS=1, but $no_system"
        echo "No images of other releases, and no tests on a real systemd: $no_system"
    elif ! "$VENV/bin/python" tests/system/images.py; then
        [[ ${REQUIRE_SYSTEM_TESTS:-} != 1 ]] || return 1
        echo "The tests on other releases will be skipped."
    fi
}

# What tests without a network install from. What was fetched is kept: another run fetches what the lock has new.
make_bundle() {
    mkdir -p .cache
    "$VENV/bin/litellmctl" bundle --wheels .cache/wheels --output .cache/bundle.tar
}

run_fast_tests() {
    "$VENV/bin/pytest" --quiet --numprocesses 2 --dist worksteal --junitxml "$TIMES/unit.xml" -m 'not slow' tests/unit
}

# A test that hangs shows where after four minutes, and a run that hangs is ended: after an hour, since a machine may be
# three times slower than another.
run_tests() {
    local side_by_side=() start=$SECONDS limit=3600
    # Services and boxes spend half their time waiting: two side by side save a third of it, and of the rest half.
    if [[ $(nproc) -gt 1 ]] && "$VENV/bin/python" -c 'import xdist' 2>/dev/null; then
        side_by_side=(--numprocesses 2 --dist worksteal)
    fi
    timeout --foreground --signal=INT --kill-after=60 "$limit" \
        "$VENV/bin/coverage" run -m pytest --quiet -o faulthandler_timeout=240 --junitxml "$TIMES/${1##*/}.xml" \
        "${side_by_side[@]}" "$@"
    if [[ $(((SECONDS - start) * 16)) -gt $((limit * 10)) ]]; then
        echo "This took $((SECONDS - start)) s of at most $limit s: raise the limit in scripts/test.sh to keep 60 % headroom."
    fi
}

report_coverage() {
    mkdir -p .cache/coverage
    "$VENV/bin/coverage" combine --quiet . .cache/coverage
    if [[ -z $no_system ]]; then
        "$VENV/bin/coverage" report
    else
        "$VENV/bin/coverage" report --fail-under=0
        echo "No threshold: what only the tests on a real systemd reach is missing here."
    fi
}

main() {
    local folder
    [[ $PWD/ != /opt/litellm-systemd/* ]] || die "$PWD is where the tests install a service: move the checkout"
    trap print_summary EXIT
    rm -rf "$TIMES"
    if [[ ${1:-} == --fast ]]; then
        stage "system packages" install_packages python
        stage "Python packages" make_venv
        stage "linters" lint
        stage "unit tests" run_fast_tests
        return
    fi
    stage "system packages" install_packages
    stage "Python packages" make_venv
    if [[ ${1:-} == --setup ]]; then
        stage "benchmark" add_to_venv '.[test,bench]'
        stage "bundle" make_bundle
        return
    fi
    stage "checkov" make_checkov
    no_system=$("$VENV/bin/python" -c 'from litellm_systemd.box import why_not; print(why_not() or "")')
    if [[ $# -gt 0 ]]; then
        [[ "$*" != *system* ]] || stage "images" build_images
        [[ "$*" == *unit* ]] || stage "bundle" make_bundle
        say "pytest $*"
        exec "$VENV/bin/pytest" "$@"
    fi
    stage "linters" lint
    stage "images" build_images
    stage "bundle" make_bundle
    rm -rf .coverage .coverage.* .cache/coverage
    export COVERAGE_PROCESS_START=$PWD/setup.cfg
    for folder in unit integration system; do
        stage "$folder tests" run_tests "tests/$folder"
    done
    stage "coverage" report_coverage
}

main "$@"
