#!/bin/bash
# Make installer/litellm_systemd/requirements.lock anew: every package of a release, at one version, by its hashes.
#
#   scripts/lock.sh                            what setup.cfg has changed; all else keeps its version
#   scripts/lock.sh --upgrade                  everything at its newest
#   scripts/lock.sh --upgrade-package litellm  that one
#
# It holds for Python 3.10 to 3.14 on x86-64 and aarch64, and every package has a wheel for each of them: what is
# built from source while it is installed would bring in a build that no hash pins. Proven at the end. Needs uv and
# a package index.
set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly CHECKOUT
# shellcheck source=scripts/lib.sh
. "$CHECKOUT/scripts/lib.sh"

readonly LOCK=$CHECKOUT/installer/litellm_systemd/requirements.lock
# The oldest glibc of the systems that are supported: Amazon Linux 2023 has 2.34.
readonly PLATFORMS=(x86_64-manylinux_2_34 aarch64-manylinux_2_34)

UV=$(PATH=$CHECKOUT/.venv/bin:$PATH command -v uv) || die "uv isn't here: scripts/test.sh sets it up in .venv"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Not setup.cfg itself: uv would build the package to learn what it needs.
"$(find_python)" - "$CHECKOUT/setup.cfg" >"$scratch/requirements.in" <<'PYTHON'
import configparser, sys

setup = configparser.ConfigParser(comment_prefixes=("#",))
setup.read(sys.argv[1], encoding="utf-8")
# sdnotify has no wheel: see installer/litellm_systemd/releases/wheels.py.
wanted = setup["options"]["install_requires"].splitlines()
print("\n".join(line for line in wanted if not line.startswith("sdnotify")))
PYTHON

[[ ! -e $LOCK ]] || cp "$LOCK" "$scratch/requirements.lock"
(cd "$scratch" && "$UV" pip compile --quiet --universal --python-version 3.10 --no-build --generate-hashes \
    --no-header --no-annotate --output-file requirements.lock requirements.in "$@")

for python in 3.10 3.11 3.12 3.13 3.14; do
    for platform in "${PLATFORMS[@]}"; do
        "$UV" pip install --quiet --dry-run --target "$scratch/nowhere" --no-build --require-hashes \
            --python-version "$python" --python-platform "$platform" --requirements "$scratch/requirements.lock"
    done
done
if grep -nE '://|^--' "$scratch/requirements.lock"; then
    die "the lock names a place: it must hold for any package index"
fi
install -m 0644 "$scratch/requirements.lock" "$LOCK"
printf '%s: %s entries, LiteLLM %s\n' "${LOCK#"$CHECKOUT"/}" "$(grep -c '==' "$LOCK")" \
    "$(sed -n 's/^litellm==\([^ ]*\).*/\1/p' "$LOCK")"
