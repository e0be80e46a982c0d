#!/bin/bash
# Write installer/litellm_systemd/requirements.lock: every package of a release, at one version, with its hashes.
# Also write the day on which its LiteLLM was uploaded, into releases/advisories.yml.
#
#   scripts/lock.sh                            apply changes of setup.cfg; all other packages keep their version
#   scripts/lock.sh --upgrade                  upgrade all packages but LiteLLM
#   scripts/lock.sh --upgrade-package NAME     upgrade one package
#   scripts/lock.sh --newest-litellm           upgrade LiteLLM, and pin that version in setup.cfg
#
# For another LiteLLM change its pin in setup.cfg and run this.
#
# The lock is valid for Python 3.10 to 3.14 on x86-64 and aarch64, and every package has a wheel for each of them: a
# build during an installation would bring in build tools that no hash pins. Both are checked at the end. Needs uv and a
# package index.
set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly CHECKOUT
# shellcheck source=scripts/lib.sh
. "$CHECKOUT/scripts/lib.sh"

readonly LOCK=$CHECKOUT/installer/litellm_systemd/requirements.lock
readonly ADVISORIES=$CHECKOUT/installer/litellm_systemd/releases/advisories.yml
# The oldest glibc of the systems that are supported: Amazon Linux 2023 has 2.34.
readonly PLATFORMS=(x86_64-manylinux_2_34 aarch64-manylinux_2_34)
# The one package that has no wheel: see installer/litellm_systemd/releases/source.py.
readonly SDNOTIFY='sdnotify==0.3.2 --hash=sha256:73977fc746b36cc41184dd43c3fe81323e7b8b06c2bb0826c4f59a20c56bb9f1'
readonly SDNOTIFY_WHEEL=$CHECKOUT/installer/litellm_systemd/releases/sdnotify-0.3.2-py3-none-any.whl

UV=$(PATH=$CHECKOUT/.venv/bin:$PATH command -v uv) ||
    die "uv was not found. To install it in .venv, run: scripts/test.sh --setup"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [[ ${1:-} == --newest-litellm ]]; then
    shift
    # By itself: next to the other requirements uv prefers an older LiteLLM to a newer version of another package.
    newest=$(echo 'litellm[proxy]' | "$UV" pip compile --quiet --universal --python-version 3.10 --no-build --no-header \
        --no-annotate - | sed -n 's/^litellm==//p')
    sed -i "s/^    litellm\[proxy\]==.*/    litellm[proxy]==$newest/" "$CHECKOUT/setup.cfg"
fi

# Not setup.cfg itself: uv would build the package to learn what it needs.
"$(find_python)" - "$CHECKOUT/setup.cfg" >"$scratch/requirements.in" <<'PYTHON'
import configparser, sys

setup = configparser.ConfigParser(comment_prefixes=("#",))
setup.read(sys.argv[1], encoding="utf-8")
wanted = setup["options"]["install_requires"].splitlines()
print("\n".join(line for line in wanted if not line.startswith("sdnotify")))
PYTHON

if [[ ! -e $SDNOTIFY_WHEEL ]]; then
    printf '%s\n' "$SDNOTIFY" >"$scratch/sdnotify.in"
    "$UV" venv --quiet --seed "$scratch/venv"
    SOURCE_DATE_EPOCH=946684800 "$scratch/venv/bin/python" -m pip wheel --quiet --no-deps --require-hashes \
        --wheel-dir "$(dirname "$SDNOTIFY_WHEEL")" --requirement "$scratch/sdnotify.in"
fi

[[ ! -e $LOCK ]] || cp "$LOCK" "$scratch/requirements.lock"
(cd "$scratch" && "$UV" pip compile --quiet --universal --python-version 3.10 --no-build --generate-hashes \
    --no-header --no-annotate --output-file requirements.lock requirements.in "$@")

for python in 3.10 3.11 3.12 3.13 3.14; do
    for platform in "${PLATFORMS[@]}"; do
        "$UV" pip install --quiet --dry-run --target "$scratch/nowhere" --no-build --require-hashes \
            --python-version "$python" --python-platform "$platform" --requirements "$scratch/requirements.lock"
    done
done
version=$(sed -n 's/^litellm==\([^ ]*\).*/\1/p' "$scratch/requirements.lock")
PYTHONPATH=$CHECKOUT/installer "$(find_python)" -B -m litellm_systemd.releases.bad_versions "$version" ||
    die "choose another LiteLLM in setup.cfg"
if grep -nE '://|^--' "$scratch/requirements.lock"; then
    die "the lock contains a URL or an option, but it must work with any package index"
fi
# Of the files that uv writes only uv.lock has the times of uploads. doctor reports an old LiteLLM.
mkdir "$scratch/dated"
printf '[project]\nname = "dated"\nversion = "0"\nrequires-python = ">=3.10,<3.15"\ndependencies = ["litellm==%s"]\n' \
    "$version" >"$scratch/dated/pyproject.toml"
"$UV" lock --quiet --project "$scratch/dated"
released=$(sed -n '/^name = "litellm"$/,/^\[\[/s/.*upload-time = "\([0-9-]*\)T.*/\1/p' "$scratch/dated/uv.lock" | sort | head -n 1)
[[ -n $released ]] || die "the package index does not say when LiteLLM $version was uploaded"

install -m 0644 "$scratch/requirements.lock" "$LOCK"
sed -i "s/^litellm: .*/litellm: $version/; s/^released: .*/released: $released/" "$ADVISORIES"
printf '%s: %s entries, LiteLLM %s\n' "${LOCK#"$CHECKOUT"/}" "$(grep -c '==' "$LOCK")" "$version"
