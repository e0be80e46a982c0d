# shellcheck shell=bash
# Functions that the scripts share. Source this file with the checkout as the current folder.

# shellcheck disable=SC2034  # not every script uses every code
# The exit codes of litellmctl (docs/operations.md).
readonly USAGE=64 NO_INPUT=66 UNAVAILABLE=69 OS_ERROR=71 IO_ERROR=74 NO_PERMISSION=77

readonly SUPPORTED="Debian 12 and 13, Ubuntu 22.04 and 24.04, Amazon Linux 2023; RHEL 9 and 10 and their rebuilds are \
expected to work"

# fail CODE MESSAGE...: print one line on standard error and exit.
fail() {
    printf '%s: %s\n' "$(basename "$0")" "${*:2}" >&2
    exit "$1"
}

die() { fail 1 "$@"; }

misuse() { fail "$USAGE" "$*. See: $0 --help"; }

# The comment at the top of a script.
print_header() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"; }

# explain SCRIPT ARGUMENTS...: print the comment at the top of the script and exit, if an argument asks for help.
explain() {
    local argument
    for argument in "${@:2}"; do
        [[ $argument == -h || $argument == --help ]] || continue
        print_header "$1"
        exit
    done
}

# parse_options HELP ARGUMENTS...: check the arguments against HELP, the output of `litellmctl VERB --help`, without a
# Python. Paths in them are relative to $CALLER. Sets `arguments` to the same with absolute paths.
parse_options() {
    local line option value help=$1
    local -A kinds=()
    shift
    while IFS= read -r line; do
        [[ $line =~ ^\ \ ((-[a-z]),\ )?(--[a-z-]+)(\ ([^\ /]+))?(\ /\ (--[a-z-]+))?(\ \ |$) ]] || continue
        kinds[${BASH_REMATCH[3]}]=${BASH_REMATCH[5]:-flag}
        [[ -z ${BASH_REMATCH[2]} ]] || kinds[${BASH_REMATCH[2]}]=${BASH_REMATCH[5]:-flag}
        [[ -z ${BASH_REMATCH[7]} ]] || kinds[${BASH_REMATCH[7]}]=flag
    done <"$help"
    arguments=()
    while [[ $# -gt 0 ]]; do
        case $1 in
            --*=*) option=${1%%=*} ;;
            --*) option=$1 ;;
            -?*) option=${1:0:2} ;;
            *) misuse "unexpected argument: $1" ;;
        esac
        [[ -n ${kinds[$option]:-} ]] || misuse "unknown option: $option"
        if [[ ${kinds[$option]} == flag ]]; then
            [[ $1 == "$option" ]] || misuse "$option takes no value: $1"
            arguments+=("$option")
        else
            if [[ $1 == "$option" ]]; then
                [[ $# -ge 2 ]] || misuse "$option needs a value: $option ${kinds[$option]}"
                shift
                value=$1
            elif [[ $option == --* ]]; then
                value=${1#*=}
            else
                value=${1:2}
            fi
            check_value "$option" "${kinds[$option]}" "$value"
            arguments+=("$option" "$value")
        fi
        shift
    done
}

# check_value OPTION KIND VALUE: exit if the value cannot be right. Replaces a relative path in `value`.
check_value() {
    local path=$3
    [[ $path == /* ]] || path=$CALLER/$path
    case $2 in
        FILE)
            [[ -f $path && -r $path ]] || fail "$NO_INPUT" "$1 $3: there is no such file that can be read"
            value=$path
            ;;
        CONFIG)
            if [[ -f $path && ($3 == */* || ! -f configs/$3) ]]; then
                value=$path
            elif [[ ! -f configs/$3 && ! -f configs/$3.yml && ! -f /etc/litellm/configs/$3 ]] &&
                [[ ! -f /etc/litellm/configs/$3.yml && ($EUID -eq 0 || $3 == */*) ]]; then
                fail "$NO_INPUT" "$1 $3: neither a file nor one of: $(cd configs && echo *.yml)"
            fi
            ;;
        NAME)
            [[ $1 == --with ]] || return 0
            if [[ $3 == *.whl ]]; then
                [[ -f $path ]] || fail "$NO_INPUT" "$1 $3: there is no such file"
                value=$path
            elif [[ $3 != *==* ]] && ! grep -qx "# with: $3" installer/litellm_systemd/groups.lock; then
                misuse "$1 $3: neither a group, NAME==VERSION nor the path of a wheel"
            fi
            ;;
        TIME) [[ $3 =~ ^(off|OFF|([0-9]+\ *[a-z]+\ *)+)$ ]] || misuse "$1 $3: not a time such as 15min, 1h or off" ;;
    esac
}

# A system Python, 3.12 or later where there is one: before it, a worker must not collect garbage automatically
# (runtime/worker/garbage_collection.py). Otherwise 3.10 or 3.11. A service can't read a Python in a home folder.
find_python() {
    local lowest python
    for lowest in 12 10; do
        for python in /usr/bin/python3{,.14,.13,.12,.11,.10}; do
            if "$python" -c "import sys
home = sys.base_prefix.startswith(('/home/', '/root/'))
sys.exit(home or not (3, $lowest) <= sys.version_info < (3, 15))" 2>/dev/null; then
                printf '%s\n' "$python"
                return
            fi
        done
    done
    return 1
}

# Why find_python finds none: the Pythons that there are. Empty without any.
other_pythons() {
    local python found=()
    for python in /usr/bin/python3 "$(command -v python3 || true)" /usr/local/bin/python3; do
        [[ -x $python && " ${found[*]-}" != *" $python "* ]] || continue
        found+=("$python ($("$python" -c 'import sys
print("%d.%d" % sys.version_info[:2], "in", sys.base_prefix)' 2>/dev/null || echo "does not run"))")
    done
    (
        IFS=,
        printf '%s' "${found[*]-}"
    )
}

# The installed litellmctl, the one in PATH, or the one of this checkout, whose folder is in CHECKOUT.
find_litellmctl() {
    local candidate
    for candidate in /usr/local/bin/litellmctl "$(command -v litellmctl || true)" "$CHECKOUT/.venv/bin/litellmctl"; do
        if [[ -x $candidate ]]; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "litellmctl is not installed. To install it, run: sudo $CHECKOUT/scripts/quickstart.sh"
}

# The log of a temporary container is in a folder that it shares with its host.
readonly LOGS=${LITELLM_QUICKSTART_LOGS:-${TMPDIR:-/tmp}}

# A log that only this user can read: it may hold the URL of an index. It is removed at the end, except after a failure.
open_log() {
    [[ -z ${LOG:-} ]] || return 0
    LOG=$(mktemp "$LOGS/$(basename "$0" .sh)-XXXXXX.log" 2>/dev/null) ||
        LOG=$(mktemp "$CALLER/$(basename "$0" .sh)-XXXXXX.log" 2>/dev/null) || LOG=/dev/null
}

give_up() {
    local detail=" Details: $LOG"
    # shellcheck disable=SC2034  # the cleanup of quickstart.sh
    KEEP_LOG=1
    [[ $LOG != /dev/null ]] || detail=
    fail "$OS_ERROR" "$1 failed: $(why_failed "$LOG" | paste -sd ' ')$detail"
}

# why_failed LOG: the cause that a log of apt, dnf, pip or uv shows, and the next step.
why_failed() {
    local log=$1 script again host line proxy=${https_proxy:-${HTTPS_PROXY:-${http_proxy:-}}}
    has() { grep -qaiE "$1" "$log"; }
    host=$(grep -oaE "https?://[^/ '\")]+|host='[^']+'|resolve '?[a-z0-9.-]+" "$log" | head -n 1 |
        sed -E "s#^(https?://([^@]*@)?|host='|resolve '?)##; s/'\$//")
    host=${host:-the package index}
    script=$(printf '%q' "$0")
    again="env NAME=VALUE $script"
    [[ $EUID -ne 0 ]] || again="sudo $again"
    if has 'No space left on device|not have enough free space|os error 28|Disk quota exceeded|at least [0-9]+ *MB more space'; then
        echo "a file system is full ($(fullest)). Free some space and run this script again."
    elif has 'NO_CERTIFICATE_OR_CRL_FOUND|TLS CA certificate bundle|could not load.*certificate|certificate.*No such file'; then
        echo "the file with the CA certificates is missing or has none. Check PIP_CERT, SSL_CERT_FILE and" \
            "REQUESTS_CA_BUNDLE (PEM, with lines like -----BEGIN CERTIFICATE-----)."
    elif has 'CERTIFICATE_VERIFY_FAILED|invalid peer certificate|UnknownIssuer|certificate verif|self.signed certificate|curl error \(60\)|SSL certificate problem'; then
        echo "the TLS certificate of $host is not trusted. If a proxy inspects TLS, add its CA to the" \
            "system's store (update-ca-certificates, update-ca-trust), or name the file in PIP_CERT, SSL_CERT_FILE or" \
            "REQUESTS_CA_BUNDLE: ${again/NAME=VALUE/SSL_CERT_FILE=/path/to/ca.pem}."
    elif has 'Could not get lock|Unable to (acquire|lock)|Waiting for process'; then
        line=$(grep -oaiE 'held by process [^.]*|process with pid [0-9]+' "$log" | head -n 1)
        echo "another package manager is running${line:+ ($line)}. Wait until it ends and run this script again."
    elif has 'dpkg was interrupted'; then
        echo "an earlier run of dpkg was interrupted. To complete it, run: sudo dpkg --configure -a."
    elif has '407 +Proxy|proxy authorization required|Proxy Authentication Required|proxy.*\b407\b|\b407\b.*proxy'; then
        echo "the proxy wants a user name and a password. Run: ${again/NAME=VALUE/https_proxy=http://USER:PASSWORD@HOST:PORT}."
    elif has 'not registered|subscription-manager'; then
        echo "this system is not registered, so that dnf has no repositories. Run: sudo subscription-manager register."
    elif has 'Could not resolve|error resolving|name resolution|Name or service not known|dns error|Network is unreachable|Connection refused|Could not connect|timed out|timeout|NewConnectionError|error sending request|tunnel|Failed to (fetch|download)|Connection reset|No route to host|ProxyError|Cannot download'; then
        echo "$host could not be reached${proxy:+ through the proxy ${proxy##*@}}. If this network needs a" \
            "proxy, run: ${again/NAME=VALUE/https_proxy=http://HOST:PORT http_proxy=http://HOST:PORT}."
        if grep -qaE '^(E|W|Err:[0-9]+|Error): ' "$log"; then
            echo "Without a network, install these packages from another source; a bundle has all others."
        else
            echo "Without a network, use a bundle (docs/operations.md#offline-hosts): sudo $script --bundle FILE."
        fi
    elif has 'Unable to locate package|has no installation candidate|Unable to find a match|No match for argument|no enabled repositories'; then
        line=$(grep -oaiE "Unable to locate package .*|Package '?[^ ']*'? has no installation|No match for argument: .*|no enabled repositories" "$log" | head -n 1)
        echo "${line:-a package is missing}: no source of the package manager has it. Check /etc/apt/sources.list," \
            "/etc/apt/sources.list.d or /etc/yum.repos.d. Supported: $SUPPORTED."
    elif has 'No matching distribution|No solution found|was not found in the package|HTTP error 40|not find a version'; then
        line=$(grep -oaiE 'No matching distribution found for [^ ]*|Because [^ ]* was not found|there is no version of [^ ]*' "$log" | head -n 1)
        echo "${line:-a package is missing}: the package index ($host) does not have it, or gives no answer. PIP_INDEX_URL names another index."
    elif has 'unmet dependencies|held broken packages'; then
        echo "apt has packages with unmet dependencies. To repair that, run: sudo apt-get --fix-broken install."
    elif has 'Read-only file system'; then
        echo "a file system is read-only: $(grep -aim1 'Read-only file system' "$log" | cut -c1-200)."
    elif has 'Permission denied'; then
        echo "$(grep -aim1 'Permission denied' "$log" | cut -c1-200)."
    else
        line=$(grep -av '^[[:space:]]*$' "$log" | tail -n 1 | cut -c1-300)
        echo "${line:-no reason was given}."
    fi
}

# The file system with the fewest free MiB of those that an installation writes to.
fullest() {
    df -Pm / /tmp /var /opt "${HOME:-/}" "$(dirname "${BOOTSTRAP:-/}")" 2>/dev/null | awk 'NR > 1 && (least == "" || $4 < least) { least = $4; where = $6 }
        END { printf "%s has %d MiB free", where, least }'
}
