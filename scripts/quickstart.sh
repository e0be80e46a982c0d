#!/bin/bash
# From a checkout to a running and verified LiteLLM service: sudo ./scripts/quickstart.sh [OPTIONS]
#
# The service uses the .env in the checkout. Without one, it uses the installed environment or, on a new host, the demo
# configuration, which needs no AWS account. OPTIONS are those of `litellmctl install`. Run the script again after each
# change: it skips the steps that are already done.
#
# On a host without a network: sudo ./scripts/quickstart.sh --bundle FILE. `litellmctl bundle` creates FILE on another
# machine. The script then downloads nothing.
#
# Supported: Debian 12 and 13, Ubuntu 22.04 and 24.04, Amazon Linux 2023, on x86-64 and aarch64, with Python 3.10 to 3.14
# in /usr/bin. RHEL 9 and 10 and their rebuilds are expected to work, but are not tested.
#
# If systemd is not running, as in most containers, the script installs and verifies the service in a temporary systemd
# container. If it can't create one, or without root, it runs the service in the foreground, below your XDG folders,
# verifies it and stops it. OPTIONS are then those of `litellmctl rehearse --foreground`.
#
# For a proxy: sudo env https_proxy=http://HOST:PORT ./scripts/quickstart.sh. For the CA of a proxy that inspects TLS:
# sudo env SSL_CERT_FILE=/path/to/ca.pem ./scripts/quickstart.sh.
set -euo pipefail
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly CHECKOUT CALLER=$PWD
cd "$CHECKOUT"
# The service's user must be able to read the files, and only their owner may write them, whatever the caller's umask.
umask 022
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

# Not in a home folder, which the service can't read, and not in the checkout, which may be anywhere.
BOOTSTRAP=/opt/litellm-systemd/bootstrap

# In an image that bake.sh made: the release, and what it was built from.
readonly BAKED=/opt/litellm-systemd/baked

readonly BOOTED=/run/systemd/system # sd_booted(3)

# A bundle with all packages. Empty: download them from the package index.
BUNDLE=

# The terminal of the user, while standard error is a log.
exec 9>&2

step() { printf '* %s\n' "$*" >&2; }

cleanup() {
    local process
    for process in ${CLOCK:-} ${CHILD:-}; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    [[ -z ${SCRATCH:-} ]] || rm -rf "$SCRATCH" || true
    [[ -z ${LOG:-} || $LOG == /dev/null || -n ${KEEP_LOG:-} ]] || rm -f "$LOG"
}
trap cleanup EXIT

install_packages() {
    local command="apt-get install -y -qq --no-install-recommends $*" deadline=$((SECONDS + 300)) waits=
    command -v apt-get >/dev/null || command="dnf install -y -q $*"
    [[ $EUID -eq 0 ]] || fail "$NO_PERMISSION" "packages are missing. To install them, run: sudo ${command/ -y -qq/}"
    open_log
    if command -v apt-get >/dev/null; then
        step "installing $* (up to a minute)"
        export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
        # If the update fails, the existing lists may do. On a machine that has just booted, automatic upgrades may run.
        # shellcheck disable=SC2086  # words
        until with_clock update_and_install $command >"$LOG" 2>&1; do
            if ! grep -qaE 'Could not get lock|Unable to (acquire|lock)' "$LOG" || ((SECONDS > deadline)); then
                give_up "installing $*"
            fi
            [[ -n $waits ]] || step "waiting up to 5 minutes for another apt, $(grep -aom1 'held by process [^.]*' "$LOG")"
            waits=1
            sleep 5
        done
    elif command -v dnf >/dev/null; then
        step "installing $* (up to a minute)"
        # shellcheck disable=SC2086  # words
        logged "installing $*" timeout 600 $command
    else
        fail "$UNAVAILABLE" "neither apt-get nor dnf was found. Install these packages and run this script again: $*"
    fi
}

update_and_install() {
    apt-get update -qq || true
    "$@"
}

# Exit before anything is changed if this machine can't run the service.
check_system() {
    local name systemd others
    case $(uname -sm) in
        "Linux x86_64" | "Linux aarch64") ;;
        *) fail "$UNAVAILABLE" "$(uname -sm) is not supported. Supported: x86_64 and aarch64 with $SUPPORTED" ;;
    esac
    name=$(os_release PRETTY_NAME)
    name=${name:-this system}
    if [[ $EUID -eq 0 && -d $BOOTED ]]; then
        systemd=$(systemctl --version | awk 'NR == 1 { print int($2) }')
        [[ $systemd -ge 247 ]] || fail "$UNAVAILABLE" "$name has systemd $systemd, but 247 or later is needed." \
            "Supported: $SUPPORTED"
    fi
    ! find_python >/dev/null || return 0
    others=$(other_pythons)
    if [[ $EUID -ne 0 ]]; then
        fail "$UNAVAILABLE" "$name has no Python 3.10 to 3.14 in /usr/bin${others:+, only $others}." \
            "Install the one of the distribution as root. Supported: $SUPPORTED"
    elif ! can_install_python; then
        [[ $others != *" in /home/"* && $others != *" in /root/"* ]] ||
            others+=". The service can't read a Python in a home folder"
        fail "$UNAVAILABLE" "$name has no usable Python 3.10 to 3.14 in /usr/bin${others:+, only $others}. Install the one" \
            "of a supported distribution: $SUPPORTED. Nothing was changed"
    fi
}

os_release() { (. /etc/os-release 2>/dev/null && printf '%s' "${!1:-}") || true; }

# Whether the distribution has a Python that install_packages can install: a `python3` that is too old or too new is the
# only one of Debian and Ubuntu. On Amazon Linux and RHEL there are others.
can_install_python() {
    local version
    if command -v apt-get >/dev/null; then
        version=$(os_release VERSION_ID)
        case $(os_release ID) in
            debian) [[ -z $version || ${version%%.*} -ge 12 ]] || return 1 ;;
            ubuntu) [[ ${version%%.*} -ge 22 ]] || return 1 ;;
        esac
        # Not one that an administrator replaced by a Python in a home folder.
        [[ ! -x /usr/bin/python3 ]]
    else
        command -v dnf >/dev/null
    fi
}

# need_space FOLDER MIB: exit if the file system of a folder, or of where it will be, has less.
need_space() {
    local folder=$1 free
    until [[ -d $folder ]]; do folder=$(dirname "$folder"); done
    free=$(df -Pm "$folder" | awk 'NR == 2 { print $4 }')
    [[ $free -ge $2 ]] || fail "$IO_ERROR" "the installation needs $2 MiB in $1, but its file system" \
        "($(df -Pm "$folder" | awk 'NR == 2 { print $6 }')) has only $free MiB free. Nothing was downloaded." \
        "Free some space and run this script again"
}

# pip, uv and requests read different variables for the file with the CA of a proxy that inspects TLS, and for the
# package index. One that is set is enough here.
share_settings() {
    local ca=${PIP_CERT:-${SSL_CERT_FILE:-${REQUESTS_CA_BUNDLE:-}}} store
    if [[ -n $ca ]]; then
        [[ -r $ca ]] || fail "$NO_INPUT" "$ca can't be read. PIP_CERT, SSL_CERT_FILE or REQUESTS_CA_BUNDLE names it"
        export PIP_CERT=${PIP_CERT:-$ca} SSL_CERT_FILE=${SSL_CERT_FILE:-$ca}
    else
        # uv does not use the system's store, to which an administrator adds a CA.
        for store in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
            [[ ! -s $store ]] || export SSL_CERT_FILE=$store
        done
    fi
    if [[ -n ${PIP_INDEX_URL:-} && -z ${UV_INDEX_URL:-}${UV_DEFAULT_INDEX:-} ]]; then
        export UV_INDEX_URL=$PIP_INDEX_URL
    fi
}

# The version and the installation of a Python, such as "3.11 /usr".
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2], sys.base_prefix)' 2>/dev/null; }

can_make_venvs() { command -v uv >/dev/null || "$1" -c 'import ensurepip' 2>/dev/null; }

# Read the metadata of the bundle with the code of the checkout. -B leaves no byte code in the checkout.
read_bundle() { PYTHONPATH=$CHECKOUT/installer "$1" -B -m litellm_systemd.releases.archive "${@:2}"; }

# The Python for the installation. A bundle needs the Python that it was made for.
choose_python() {
    local python wanted
    python=$(find_python) || fail "$UNAVAILABLE" "no usable Python 3.10 to 3.14 in /usr/bin. Supported: $SUPPORTED"
    if [[ -n $BUNDLE ]]; then
        wanted=$(read_bundle "$python" python "$BUNDLE") || exit
        python=/usr/bin/python$wanted
        [[ -x $python ]] || fail "$NO_INPUT" "$BUNDLE is for Python $wanted, but $python does not exist. Install that Python, or" \
            "make a bundle for another one: litellmctl bundle --python VERSION"
    fi
    printf '%s\n' "$python"
}

# Debian names the package after the Python version: `python3-venv` is only for the default Python.
ensure_python() {
    local python
    if ! find_python >/dev/null; then
        if command -v dnf >/dev/null; then
            # RHEL before 9.4 has no 3.12.
            if dnf -q info python3.12 &>/dev/null; then install_packages python3.12; else install_packages python3.11; fi
        else
            install_packages python3 python3-venv
        fi
    fi
    python=$(choose_python) || exit
    can_make_venvs "$python" || install_packages "python$(version_of "$python" | cut -d' ' -f1)-venv"
}

# A line that changes if the package or its Python changes.
fingerprint() {
    find installer units configs setup.cfg pyproject.toml -type f ! -name '*.pyc' ! -path '*.egg-info/*' -print0 |
        sort -z | xargs -0 sha256sum | cat - <("$1" -VV) | sha256sum
}

# uv is faster than pip. A package index may lack it.
ensure_uv() {
    UV=$(command -v uv || echo "$BOOTSTRAP/bin/uv")
    [[ ! -x $UV ]] || return 0
    open_log
    if ! with_clock "$BOOTSTRAP/bin/python" -m pip install --disable-pip-version-check uv >"$LOG" 2>&1; then
        # Also the output of a pip that could not reach the index.
        [[ $(why_failed "$LOG") == *"does not have it"* ]] ||
            give_up "downloading from the package index"
        UV=
    fi
}

# Install litellmctl and its dependencies into a separate venv, each package with the hashes of the lock.
ensure_litellmctl() {
    local python wanted
    python=$(choose_python) || exit
    wanted=$(if [[ -n $BUNDLE ]]; then sha256sum <"$BUNDLE" && "$python" -VV; else fingerprint "$python"; fi)
    ! use_baked "$wanted" || return 0
    [[ -x $BOOTSTRAP/bin/litellmctl && $(cat "$BOOTSTRAP/made-from" 2>/dev/null) == "$wanted" ]] && return
    # Together with the release that litellmctl builds next.
    need_space "${BOOTSTRAP%/*}" "$([[ -e $BOOTSTRAP/made-from ]] && echo 800 || echo 1500)"
    step "installing litellmctl and LiteLLM into $BOOTSTRAP (half a minute, or several with a slow network)"
    mkdir -p "${BOOTSTRAP%/*}" 2>/dev/null || fail "$IO_ERROR" "${BOOTSTRAP%/*} can't be created: it is not writable"
    rm -rf "${BOOTSTRAP%/*}"/.unpacked-* # of a killed run
    SCRATCH=$(mktemp -d "${BOOTSTRAP%/*}/.unpacked-XXXXXX" 2>/dev/null) ||
        fail "$IO_ERROR" "${BOOTSTRAP%/*} is not writable"
    # pip and uv unpack there, since /tmp may be small or mounted with noexec.
    mkdir "$SCRATCH/tmp" "$SCRATCH/source"
    local -x TMPDIR=$SCRATCH/tmp
    printf '#!/bin/sh\n' >"$TMPDIR/try" && chmod +x "$TMPDIR/try"
    "$TMPDIR/try" 2>/dev/null || fail "$IO_ERROR" "${BOOTSTRAP%/*} is on a file system that is mounted with noexec:" \
        "no program can run there. Mount it without noexec"
    # A venv of an interrupted run has incomplete packages. One that uv made has no pip, and sudo's PATH may lack that uv.
    if [[ ! -e $BOOTSTRAP/made-from || $(version_of "$BOOTSTRAP/bin/python") != "$(version_of "$python")" ]] ||
        ! { command -v uv || "$BOOTSTRAP/bin/python" -c 'import pip'; } &>/dev/null; then
        rm -rf "$BOOTSTRAP"
        if command -v uv >/dev/null; then
            logged "creating $BOOTSTRAP" uv venv --quiet --python "$python" "$BOOTSTRAP"
        else
            logged "creating $BOOTSTRAP" "$python" -m venv "$BOOTSTRAP"
        fi
    fi
    rm -f "$BOOTSTRAP/made-from"
    if [[ -n $BUNDLE ]]; then
        install_from_bundle "$python" "$SCRATCH/source"
    else
        install_from_checkout "$SCRATCH/source"
    fi
    printf '%s\n' "$wanted" >"$BOOTSTRAP/made-from"
    rm -rf "$SCRATCH"
    SCRATCH=
}

# use_baked FINGERPRINT: use the litellmctl of the release that bake.sh has built from this checkout, if it is there.
use_baked() {
    local release
    [[ -r $BAKED ]] || return 1
    release=$(sed -n 's/^release //p' "$BAKED")
    [[ $(sed -n 's/^made-from //p' "$BAKED") == "$1" && -x $release/bin/litellmctl ]] || return 1
    BOOTSTRAP=$release
}

# Build from a copy, to leave no files in the checkout.
install_from_checkout() {
    local index
    ensure_uv
    # uv does not read pip.conf.
    if [[ -n $UV && -z ${UV_INDEX_URL:-}${UV_DEFAULT_INDEX:-} ]]; then
        index=$("$BOOTSTRAP/bin/python" -m pip config list 2>/dev/null | sed -n "s/^global.index-url='\(.*\)'$/\1/p") || true
        [[ -z $index ]] || export UV_INDEX_URL=$index
    fi
    cp -R installer units configs setup.cfg pyproject.toml README.md LICENSE "$1"
    pip_install --require-hashes --only-binary :all: -r installer/litellm_systemd/requirements.lock
    # The lock has no sdnotify, whose wheel is part of the package (installer/litellm_systemd/releases/source.py).
    pip_install --no-deps installer/litellm_systemd/releases/sdnotify-*.whl "$1"
}

install_from_bundle() {
    UV=$(command -v uv || true)
    read_bundle "$1" unpack "$BUNDLE" "$2" >/dev/null || exit
    pip_install --no-index --find-links "$2/wheels" --require-hashes --only-binary :all: -r "$2/requirements.lock"
    pip_install --no-index --no-deps "$2"/wheels/sdnotify-*.whl "$2"/litellm_systemd-*.whl
}

pip_install() {
    if [[ -n $UV ]]; then
        logged "installing the packages with uv" "$UV" pip install --python "$BOOTSTRAP/bin/python" \
            --link-mode copy --reinstall-package litellm-systemd "$@"
    else
        # Python compiles modules at first use. Most of them are never used here.
        logged "installing the packages with pip" "$BOOTSTRAP/bin/python" -m pip install \
            --disable-pip-version-check --no-compile "$@"
    fi
}

# logged WHAT COMMAND...: run a command with its output in a log file. If it fails, exit with one line: what failed, the
# cause, the next step, and the path of the log.
logged() {
    local what=$1
    shift
    open_log
    with_clock "$@" >"$LOG" 2>&1 || give_up "$what"
}

# with_clock COMMAND...: run a command, and show on a terminal how long it has been running.
with_clock() {
    local code=0 start=$SECONDS
    if [[ -t 9 ]]; then
        while kill -0 $$ 2>/dev/null && sleep 1; do printf '\r  %d s ' $((SECONDS - start)) >&9; done &
        CLOCK=$!
    fi
    # In the background, so that a signal ends it too: bash only waits for a program in the foreground.
    "$@" &
    CHILD=$!
    wait "$CHILD" || code=$?
    CHILD=
    if [[ -n ${CLOCK:-} ]]; then
        kill "$CLOCK"
        wait "$CLOCK" 2>/dev/null || true
        CLOCK=
        printf '\r\033[K' >&9
    fi
    return "$code"
}

# run_litellmctl VERB ARGS...: use the .env here, otherwise the installed environment or the demo configuration.
run_litellmctl() {
    local verb=$1 options=() index
    shift
    if [[ " $* " =~ \ --installed\  ]]; then
        :
    elif [[ -f .env ]]; then
        # An -e after it takes precedence.
        options=(--env-file .env)
    elif [[ $verb != install || ! -e /etc/litellm/litellm.env ]] && [[ ! " $* " =~ \ (-c|--config)\  ]]; then
        options=(-c demo.yml)
        step "no .env here: using the demo configuration, whose models answer without AWS"
    fi
    SERVED=("${options[@]}")
    for ((index = 1; index < $#; index++)); do
        [[ ${!index} != -[ce] && ${!index} != --config && ${!index} != --env-file ]] || SERVED+=("${@:index:2}")
    done
    [[ -z $BUNDLE ]] || options+=(--bundle "$BUNDLE")
    ensure_python
    ensure_litellmctl
    mark_checkout
    step "litellmctl $verb${options[*]:+ ${options[*]}}${*:+ $*}"
    "$BOOTSTRAP/bin/litellmctl" "$verb" "${options[@]}" "$@"
}

# `litellmctl upgrade` names the checkout (installer/litellm_systemd/releases/source.py). A release knows its own.
mark_checkout() {
    [[ $BOOTSTRAP != */releases/* ]] || return 0
    if [[ -n $BUNDLE ]]; then rm -f "$BOOTSTRAP/checkout"; else printf '%s\n' "$CHECKOUT" >"$BOOTSTRAP/checkout"; fi
}

# show_next OPTIONS...: what the user has now.
show_next() {
    local url
    # No service of this host: --root, --no-start, --dry-run. With --json, standard output is one document.
    [[ ! " $* " =~ \ --(root|no-start|dry-run|json)\  ]] || return 0
    url=$("$BOOTSTRAP/bin/litellmctl" client curl --json 2>/dev/null | sed -n 's/^ *"base_url": "\(.*\)".*/\1/p')
    cat <<TEXT

The service runs now, and starts at each boot.
  base URL   ${url:-http://127.0.0.1:4000} (OpenAI clients: ${url:-http://127.0.0.1:4000}/v1)
  key        LITELLM_MASTER_KEY. To print it, run: sudo litellmctl client curl --show-key
  clients    sudo litellmctl client                   list the clients that it can set up
             sudo litellmctl client claude-code       print the settings of one (--write: into your files)
  state      sudo litellmctl status                   versions, workers and health
  logs       sudo litellmctl logs -f                  or: sudo journalctl -u litellm -f
  problems   sudo litellmctl doctor                   find causes and remedies
  stop       sudo systemctl stop litellm              start it again: sudo systemctl start litellm
  remove     sudo litellmctl uninstall
For your own models: cp configs/env.example .env, edit .env, and run: sudo litellmctl install
TEXT
}

run_box() { PYTHONPATH=$CHECKOUT/installer "$(find_python)" -B -m litellm_systemd.box "$@"; }

# Boot a systemd container, which takes a second, and print why that fails. Empty if it works.
why_no_box() {
    local output code=0
    output=$(run_box exec -- true 2>&1) || code=$?
    if [[ $code -eq 66 ]]; then # programs are missing, but namespaces are allowed
        (install_packages systemd-container dbus util-linux findutils) || true
        code=0
        output=$(run_box exec -- true 2>&1) || code=$?
    fi
    output=${output%%$'\n'*}
    output=${output#box: }
    output=${output#no systemd container can be made here: }
    [[ $code -eq 0 ]] || echo "${output:-exit code $code}"
}

# The container shares the caches of the machine, so that a second run is fast. All its other files are copies.
install_in_a_box() {
    local cache=${XDG_CACHE_HOME:-$HOME/.cache} options=() code=0
    step "systemd is not running on this machine: installing the service in a temporary systemd container"
    mkdir -p "$cache"
    [[ $CHECKOUT != /tmp/* ]] || options=(--copy "$CHECKOUT")
    [[ $BUNDLE != /tmp/* ]] || options+=(--copy "$(dirname "$BUNDLE")")
    LITELLM_QUICKSTART_BOX=1 LITELLM_QUICKSTART_LOGS=$cache UV_LINK_MODE=copy \
        run_box --network host --bind-rw "$cache" "${options[@]}" exec -- \
        env -u PYTHONPATH "$CHECKOUT/scripts/quickstart.sh" ${BUNDLE:+--bundle "$BUNDLE"} "$@" || code=$?
    step "removed the container with the service: nothing was installed on this machine. For a service that stays, run" \
        "the script on a host with systemd"
    return "$code"
}

# rehearse_in_foreground MISSING OPTIONS...: try the service without systemd and without root.
rehearse_in_foreground() {
    local missing=$1 data argument
    shift
    for argument in "$@"; do
        case $argument in
            --installed | --take-ours | --keep-mine | --prefix) ;;
            -*) ! grep -qE -- "(^  |, )$argument(,| |$)" scripts/foreground.help || continue ;;
            *) continue ;;
        esac
        misuse "$argument needs root and systemd. Not available here: $missing"
    done
    export HOME=${HOME:-/}
    data=${XDG_DATA_HOME:-}
    [[ $data == /* ]] || data=$HOME/.local/share
    mkdir -p "$data/litellm-systemd" 2>/dev/null ||
        fail "$IO_ERROR" "$data is not writable. Set XDG_DATA_HOME or HOME, or run: sudo $(printf '%q' "$0")${*:+ $*}"
    BOOTSTRAP=$data/litellm-systemd/bootstrap
    step "not available here: $missing. Running the service in the foreground, as a trial"
    run_litellmctl rehearse --foreground "$@"
    step "the service was verified and stopped. To serve in the foreground until Ctrl-C, run:" \
        "cd $(printf '%q' "$CHECKOUT") && $(printf '%q ' "$BOOTSTRAP/bin/litellmctl" run "${SERVED[@]}")"
    step "not available here: $missing. On a host with root and systemd you also get the system service: its own" \
        "user, the sandbox, start at boot, restarts, a port that stays open. Run there: sudo ./scripts/quickstart.sh"
}

# read_arguments HELP ARGUMENTS...: check the arguments, and take --bundle FILE out of them: the others are passed to
# litellmctl.
read_arguments() {
    local rest=() index
    parse_options "$@"
    for ((index = 0; index < ${#arguments[@]}; index++)); do
        if [[ ${arguments[index]} == --bundle ]]; then
            BUNDLE=${arguments[++index]}
        else
            rest+=("${arguments[index]}")
        fi
    done
    arguments=("${rest[@]}")
}

main() {
    local arguments reason
    if [[ " $* " =~ \ (-h|--help)\  ]]; then
        print_header scripts/quickstart.sh
        echo
        sed -n '/^Options:/,$p' scripts/install.help
        return
    fi
    read_arguments scripts/install.help "$@"
    set -- "${arguments[@]}"
    check_system
    share_settings
    if [[ $EUID -ne 0 ]]; then
        rehearse_in_foreground "root$([[ -d $BOOTED ]] || echo ", and systemd as PID 1")" "$@"
    elif [[ -d $BOOTED ]]; then
        run_litellmctl install "$@"
        [[ -n ${LITELLM_QUICKSTART_BOX:-} ]] || show_next "$@"
    else
        find_python >/dev/null || ensure_python
        reason=$(why_no_box)
        if [[ -z $reason ]]; then
            install_in_a_box "$@"
        else
            rehearse_in_foreground "systemd as PID 1, and namespaces for a container with one ($reason)" "$@"
        fi
    fi
}

# bake.sh uses the functions above.
[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"
