#!/bin/bash
# The workshop's commands, as a thin wrapper around litellmctl.
set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly CHECKOUT
# shellcheck source=scripts/lib.sh
. "$CHECKOUT/scripts/lib.sh"

usage() {
    cat <<'TEXT'
Usage: manage-litellm.sh [-c CONFIG] [-e ENVFILE] start|stop|restart|status|logs [OPTIONS]

  -c CONFIG   a LiteLLM configuration: the name of one in configs/, or a path
  -e ENVFILE  the file with keys and settings (default: .env here, otherwise the installed one)
  -h, --help  print this help

start and restart first install the service if it is not installed, or if -c or -e is given.
OPTIONS are passed to litellmctl: "logs -f" follows the log. For all commands, run: litellmctl --help
TEXT
}

misuse() {
    printf 'manage-litellm.sh: %s\n\n' "$1" >&2
    usage >&2
    exit 64
}

install_options=()
verb=
while [[ $# -gt 0 && -z $verb ]]; do
    case $1 in
        -c | -e)
            [[ $# -ge 2 ]] || misuse "$1 needs a value"
            [[ $1 == -c ]] && install_options+=(-c "$2") || install_options+=(--env-file "$2")
            shift
            ;;
        -h | --help)
            usage
            exit
            ;;
        start | stop | restart | status | logs) verb=$1 ;;
        *) misuse "unknown argument: $1" ;;
    esac
    shift
done
[[ -n $verb ]] || misuse "the command is missing"

litellmctl=$(find_litellmctl)
if [[ $verb == start || $verb == restart ]] &&
    [[ ${#install_options[@]} -gt 0 || ! -e /etc/systemd/system/litellm.service ]]; then
    [[ $verb == restart ]] || exec "$litellmctl" install "${install_options[@]}" "$@"
    # With --help, litellmctl checks the other options and does nothing else.
    "$litellmctl" restart "$@" --help >/dev/null
    # An install restarts the service only if something changed. This restarts it exactly once in any case.
    "$litellmctl" install --no-start --no-verify "${install_options[@]}"
fi
exec "$litellmctl" "$verb" "$@"
