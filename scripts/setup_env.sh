#!/bin/bash
# Write a .env with the AWS keys of a profile in ~/.aws: scripts/setup_env.sh [PROFILE] [OPTIONS]
#
# The default profile is "cline". OPTIONS are those of `litellmctl init`: --force overwrites an existing .env, --offline
# does not check the keys with AWS.
set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly CHECKOUT
# shellcheck source=scripts/lib.sh
. "$CHECKOUT/scripts/lib.sh"
explain "$CHECKOUT/scripts/setup_env.sh" "$@"

litellmctl=$(find_litellmctl)
profile=cline
if [[ ${1:--} != -* ]]; then
    profile=$1
    shift
fi
exec "$litellmctl" init --from-profile "$profile" "$@"
