#!/bin/bash
# Write a .env with the AWS keys of a profile in ~/.aws: setup_env.sh [PROFILE [OPTIONS]]. The default profile is
# "cline". OPTIONS are those of `litellmctl init`: --offline does not check the keys with AWS.
set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly CHECKOUT
# shellcheck source=scripts/lib.sh
. "$CHECKOUT/scripts/lib.sh"

litellmctl=$(find_litellmctl)
exec "$litellmctl" init --from-profile "${1:-cline}" "${@:2}"
