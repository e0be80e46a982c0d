#!/bin/bash
# Put a release into an image, without a service: sudo ./scripts/bake.sh [OPTIONS]
#
# For a machine image or a container image (docs/containers.md). The script builds the release of this checkout in
# /opt/litellm-systemd/releases. It writes no unit, no configuration and no key, and starts nothing. Where the image runs,
# quickstart.sh in the same checkout finds the release and downloads nothing. OPTIONS are those of
# `litellmctl releases build`.
#
# With --bundle FILE, which `litellmctl bundle` creates on another machine, this script downloads nothing either.
set -euo pipefail
# shellcheck source=scripts/quickstart.sh
. "$(dirname "${BASH_SOURCE[0]}")/quickstart.sh"

bake() {
    local arguments python release
    explain scripts/bake.sh "$@"
    read_arguments scripts/bake.help "$@"
    [[ $EUID -eq 0 ]] || fail "$NO_PERMISSION" "root is needed. Run: sudo $0${*:+ $*}"
    [[ -z $BUNDLE ]] || arguments+=(--bundle "$BUNDLE")
    check_system
    share_settings
    ensure_python
    ensure_litellmctl
    mark_checkout
    step "litellmctl releases build${arguments[*]:+ ${arguments[*]}}"
    release=$("$BOOTSTRAP/bin/litellmctl" releases build --json "${arguments[@]}" |
        sed -n 's|^ *"litellmctl": "\(.*\)/bin/litellmctl".*|\1|p')
    python=$(choose_python)
    printf 'release %s\nmade-from %s\n' "$release" "$(BUNDLE='' fingerprint "$python")" >"$BAKED"
    # The release has its own litellmctl: an image needs no second copy of LiteLLM.
    [[ $BOOTSTRAP == "$release" ]] || rm -rf "$BOOTSTRAP"
    step "built $release"
}

bake "$@"
