#!/bin/bash
# Build the files of a release from the last commit: sdist, wheel, bundles and SHA256SUMS.
#
#   scripts/release.sh                                  all files, into dist/
#   scripts/release.sh --bundle 3.11-x86_64             one bundle in place of all ten (can be repeated)
#   scripts/release.sh --no-bundles --output FOLDER     only sdist and wheel
#   scripts/release.sh --bundle ... --wheels FOLDER     use FOLDER as a cache of packages
#
# The same commit gives the same bytes: they don't depend on the clock, the umask, the owner or a path of the machine.
# Needs git and uv (scripts/test.sh --setup installs uv in .venv), and a package index for packages that neither uv's
# cache nor FOLDER has.
set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly CHECKOUT
# shellcheck source=scripts/lib.sh
. "$CHECKOUT/scripts/lib.sh"
explain "$CHECKOUT/scripts/release.sh" "$@"
umask 022
export LC_ALL=C

BUNDLES=(3.1{0,1,2,3,4}-{x86_64,aarch64})
OUTPUT=$CHECKOUT/dist
WHEELS=

step() { printf '* %s\n' "$*" >&2; }

read_options() {
    local chosen=()
    while [[ $# -gt 0 ]]; do
        case $1 in
            --no-bundles) BUNDLES=() ;;
            --bundle | --output | --wheels)
                [[ -n ${2:-} ]] || misuse "$1 needs a value"
                case $1 in
                    --bundle)
                        [[ $2 =~ ^3\.1[0-4]-(x86_64|aarch64)$ ]] || misuse "--bundle $2: not a target such as 3.11-x86_64"
                        chosen+=("$2")
                        ;;
                    --output) OUTPUT=$(realpath --canonicalize-missing "$2") ;;
                    --wheels) WHEELS=$(realpath --canonicalize-missing "$2") ;;
                esac
                shift
                ;;
            *) misuse "unknown option: $1" ;;
        esac
        shift
    done
    [[ ${#chosen[@]} -eq 0 ]] || BUNDLES=("${chosen[@]}")
}

# A tag of the commit must match the version in setup.cfg.
check_tag() {
    local version tag
    version=$(sed -n 's/^version = //p' "$CHECKOUT/setup.cfg")
    for tag in $(git -C "$CHECKOUT" tag --points-at HEAD 'v*'); do
        [[ $tag == "v$version" ]] || die "the tag is $tag, but the version in setup.cfg is $version"
    done
}

build_distributions() {
    step "sdist and wheel"
    mkdir -p "$1/source"
    git -C "$CHECKOUT" -c tar.umask=0022 archive HEAD | tar -x -C "$1/source"
    "$UV" build --quiet --python "$PYTHON" --out-dir "$1/dist" "$1/source"
    rm -f "$1/dist/.gitignore"
}

# Use litellmctl from the wheel, so that a bundle has nothing of the checkout or its venv.
build_bundles() {
    local target lock=$1/source/installer/litellm_systemd/requirements.lock
    "$UV" venv --quiet --python "$PYTHON" "$1/venv"
    "$UV" pip install --quiet --python "$1/venv/bin/python" --require-hashes --only-binary :all: -r "$lock"
    "$UV" pip install --quiet --python "$1/venv/bin/python" --no-deps \
        "$1"/source/installer/litellm_systemd/releases/sdnotify-*.whl "$1"/dist/*.whl
    for target in "${BUNDLES[@]}"; do
        step "bundle for $target"
        (cd "$1/dist" && "$1/venv/bin/litellmctl" bundle --python "${target%%-*}" --platform "${target#*-}" \
            --wheels "${WHEELS:-$1/wheels-$target}" >/dev/null)
    done
}

main() {
    read_options "$@"
    check_tag
    PYTHON=$(find_python) || die "no Python 3.10 to 3.14 in /usr/bin"
    UV=$(PATH=$CHECKOUT/.venv/bin:$PATH command -v uv) ||
        die "uv was not found. To install it in .venv, run: scripts/test.sh --setup"
    SOURCE_DATE_EPOCH=$(git -C "$CHECKOUT" log -1 --format=%ct)
    export SOURCE_DATE_EPOCH
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    build_distributions "$scratch"
    [[ ${#BUNDLES[@]} -eq 0 ]] || build_bundles "$scratch"
    (cd "$scratch/dist" && sha256sum -- * >"$scratch/SHA256SUMS")
    mkdir -p "$OUTPUT"
    mv "$scratch"/dist/* "$scratch/SHA256SUMS" "$OUTPUT/"
    cat "$OUTPUT/SHA256SUMS"
}

main "$@"
