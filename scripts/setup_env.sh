#!/bin/bash
# Write a .env with the AWS keys of a profile in ~/.aws: setup_env.sh [PROFILE [OPTIONS]], "cline" by default. OPTIONS go
# to `litellmctl init`: --offline where AWS can't be asked about the keys.
set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly CHECKOUT
# shellcheck source=scripts/lib.sh
. "$CHECKOUT/scripts/lib.sh"

litellmctl=$(find_litellmctl)
exec "$litellmctl" init --from-profile "${1:-cline}" "${@:2}"
