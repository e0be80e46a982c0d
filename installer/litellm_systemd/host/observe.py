"""Observe the host and the running service. This module only reads.

The runtime is asked by its own small commands, as programs: no package imports it (docs/adr/0002).
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from litellm_systemd import contract
from litellm_systemd.command import run, runtime_argv
from litellm_systemd.contract import ExitCode
from litellm_systemd.env.environment_file import ONLY_NUL, read_environment_bytes
from litellm_systemd.env.variables import MASTER_KEY
from litellm_systemd.errors import (
    RESTORE,
    CommandError,
    InputError,
    InstallerError,
    InvalidAnswer,
    MissingError,
    PermissionDenied,
    Unavailable,
    UsageError,
)
from litellm_systemd.host.encrypted_secrets import read_secrets
from litellm_systemd.host.files import group_exists, observe_file, user_exists
from litellm_systemd.host.layout import UNITS, Layout, layout_files
from litellm_systemd.host.service_status import check_status
from litellm_systemd.host.state import FileKind, FileState, HostState, Record
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.user_files import read_regular

#: The last file that the build of a release writes. A folder without it is an interrupted build.
RELEASE_MARK = "release.json"

OLDEST_SYSTEMD = 247

#: The version of the manifest's format.
_VERSION = 2


def observe_host(layout: Layout, systemctl: Systemctl, paths: Iterable[str] = ()) -> HostState:
    """Observe everything that an install or uninstall may change.

    `paths`: further files, in addition to those that every install writes and those of the manifest.
    """
    manifest = read_manifest(layout)
    ours = (layout.prefix, layout.releases, layout.bootstrap, layout.etc, layout.configs)
    states = (layout.state, layout.cache, layout.own_state)
    parents = (
        str(parent) for path in (*layout_files(layout), layout.sudo_command) for parent in PurePosixPath(path).parents
    )
    optional = (
        *(layout.metrics_socket, layout.metrics, layout.verified, layout.verify_service, layout.verify_timer),
        *(layout.secrets, layout.salt, layout.sudo_command),
    )
    wanted = (*layout_files(layout), *optional, *parents, *ours, *states, *manifest, *paths)
    found = {path: observe_file(layout, path) for path in dict.fromkeys(wanted)}
    return HostState(
        files={path: state for path, state in found.items() if state is not None},
        manifest=manifest,
        units={name: systemctl.unit_state(name) for name in (*UNITS, *_optional_units(layout, found))},
        releases=observe_releases(layout),
        user_exists=user_exists(layout, contract.SERVICE_USER) and group_exists(layout, contract.SERVICE_USER),
    )


def _optional_units(layout: Layout, found: Mapping[str, FileState | None]) -> Iterable[str]:
    paths = {layout.metrics_socket: contract.METRICS_SOCKET, layout.verify_timer: contract.VERIFY_TIMER}
    return (name for path, name in paths.items() if found.get(path))


def observe_releases(layout: Layout) -> tuple[str, ...]:
    """The identifiers of the complete releases, sorted."""
    folder = layout.real(layout.releases)
    return tuple(sorted(mark.parent.name for mark in folder.glob(f"*/{RELEASE_MARK}")))


def read_manifest(layout: Layout) -> dict[str, Record]:
    """What earlier runs wrote, by path; empty before the first install, or if this user cannot read it.

    Raises:
        InputError: the manifest is damaged.
    """
    found = _manifest(layout).get("files", {})
    try:
        return {_plain(path): _record(each) for path, each in found.items()}
    except (TypeError, ValueError, KeyError):
        raise _not_a_manifest(layout) from None


def _plain(path: str) -> str:
    # An uninstall removes what is named here.
    if not path.startswith("/") or ".." in path.split("/"):
        raise ValueError(path)
    return path


def _record(found: Mapping[str, Any]) -> Record:
    mode = int(found["mode"], 8)
    if not 0 <= mode <= 0o7777:
        raise ValueError(mode)
    return Record(
        digest=str(found["sha256"]),
        kind=FileKind(found["kind"]),
        mode=mode,
        owner=str(found["owner"]),
        group=str(found["group"]),
    )


def read_installed(layout: Layout) -> dict[str, str]:
    """The installed environment, with the secrets that are encrypted; empty if there is none.

    Raises:
        InputError: the file is not one that systemd loads, or loses a variable.
        PermissionDenied: this user cannot read it.
        Unavailable: the secrets cannot be decrypted.
    """
    # A secret that the administrator writes into the file overrides the encrypted one, in the service as well.
    found = read_environment_file(layout)
    return {**read_secrets(layout), **found, **read_environment_file(layout, layout.salt)}


def read_environment_file(layout: Layout, file: str = Layout.environment_file) -> dict[str, str]:
    """The variables of one environment file alone, empty if there is none; see `read_installed`.

    A variable that a mistyped line loses must not look absent: another key would be generated.
    """
    path = layout.real(file)
    try:
        found, rejected = read_environment_bytes(read_regular(path), Systemctl(layout).known_version)
        if rejected:
            fix = RESTORE.format(path=path) if rejected == ONLY_NUL else f"sudoedit {path}"
            raise InputError(f"{path}: {rejected}", f"Fix it: {fix}")
        for fault in found.faults:
            if fault.is_harmful:
                raise InputError(
                    f"{path}:{fault.line}: {fault.text}",
                    f'Write each variable as NAME="value" on a line of its own: sudoedit {path}',
                )
        return found.values
    except ValueError as error:
        raise InputError(f"{path} {error}", "Write it again: sudo litellmctl install") from None
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, but must be a file", "Move the folder away.") from None
    except PermissionError:
        raise PermissionDenied(
            f"{path} is readable by root only, since it holds keys", "Run the command with sudo."
        ) from None


def key_command(layout: Layout) -> str:
    """The command that prints the installed master key."""
    # Any user can read the unit, but not the folder of the file.
    unit = observe_file(layout, layout.service)
    if unit is not None and f"LoadCredentialEncrypted={contract.SECRETS_CREDENTIAL}:" in unit.content.decode():
        return f"sudo systemd-creds decrypt {layout.secrets}"
    return f"sudo grep {MASTER_KEY.name} {layout.environment_file}"


def previous_release(layout: Layout) -> str | None:
    """The release that was in use before the current one, or None."""
    found = _manifest(layout).get("previous")
    return None if found is None else str(found)


def render_manifest(layout: Layout, records: Mapping[str, Record], previous: str | None) -> str:
    files = {
        path: {
            "sha256": record.digest,
            "kind": record.kind.value,
            "mode": f"{record.mode:04o}",
            "owner": record.owner,
            "group": record.group,
        }
        for path, record in records.items()
    }
    manifest = {"version": _VERSION, "prefix": layout.prefix, "previous": previous, "files": files}
    return json.dumps(manifest, indent=2, sort_keys=True) + "\n"


def find_layout(root: Path, prefix: str | None) -> Layout:
    """The layout of the installation below `root`. The manifest has its prefix, so that later runs need no flag.

    Raises:
        UsageError: the prefix is not a plain absolute path, or not that of the installation.
        InputError: the manifest is damaged.
    """
    layout = Layout(root=root)
    installed = _manifest(layout).get("prefix")
    if prefix is not None and not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", prefix):
        raise UsageError(f"--prefix {prefix}: not a plain absolute path", "Such as /opt/litellm-systemd.")
    if prefix is not None and installed not in (None, prefix):
        raise UsageError(
            f"the service is installed below {installed}, not {prefix}", "Uninstall it first to move it."
        )
    chosen = prefix or installed
    return layout if chosen is None else Layout(root=root, prefix=str(chosen))


def find_any_layout(root: Path = Path("/")) -> Layout:
    """As `find_layout`, for verbs that only read; with a damaged manifest that with the default prefix."""
    try:
        return find_layout(root, None)
    except InputError:
        return Layout(root=root)


def _manifest(layout: Layout) -> dict[str, Any]:
    path = layout.real(layout.manifest)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict) or found.get("version") != _VERSION:
        raise _not_a_manifest(layout)
    return found


def _not_a_manifest(layout: Layout) -> InputError:
    path = layout.real(layout.manifest)
    return InputError(
        f"{path} is damaged: it is not the manifest of an install",
        f"Run: sudo mv {path} {path}.bad && sudo litellmctl install --take-ours",
    )


def memory_field(path: Path, name: str) -> int | None:
    """A field of /proc/meminfo or /proc/PID/smaps_rollup in MiB (proc(5)); None if this user cannot read it."""
    try:
        found = re.search(rf"^{name}: +(\d+) kB$", path.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) // 1024 if found else None


def is_booted() -> bool:
    """Whether systemd is the init of this system: sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def require_booted(layout: Layout) -> None:
    """Raise Unavailable if the layout is that of this host, and systemd does not run here."""
    if layout.is_host and not is_booted():
        raise Unavailable(
            "systemd is not running on this machine",
            "'litellmctl run' serves in the foreground without it; './scripts/quickstart.sh' runs the service in a"
            " temporary container.",
        )


def require_systemd(systemctl: Systemctl) -> int:
    """The version of systemd.

    Raises:
        Unavailable: it does not run on this host, or is too old.
    """
    require_booted(systemctl.layout)
    version = systemctl.version()
    if version < OLDEST_SYSTEMD:
        raise Unavailable(
            f"systemd {version} is too old for the service's sandbox", f"systemd {OLDEST_SYSTEMD} or later is needed."
        )
    return version


def require_normal_state(systemctl: Systemctl) -> None:
    """Raise Unavailable during shutdown and in rescue mode: a service that is started then does not stay up."""
    state = systemctl.system_state(timeout=60)
    if state == "stopping":
        raise Unavailable("this system is shutting down", "Run the command again after the boot.")
    if state == "maintenance":
        raise Unavailable(
            "this system is in rescue or emergency mode, in which no service runs",
            "Leave it with 'sudo systemctl default', or prepare the next boot with --no-start.",
        )


def require_installed(systemctl: Systemctl) -> None:
    """Raise MissingError if the service is not installed."""
    if systemctl.unit_state(contract.SERVICE).load == "not-found":
        raise MissingError(
            f"there is no {contract.SERVICE} on this host", "Install it first: sudo litellmctl install"
        )


def active_config(layout: Layout) -> str | None:
    """The file name of the active configuration, or None."""
    found = observe_file(layout, layout.config_link)
    return Path(found.content.decode()).name if found is not None and found.kind is FileKind.LINK else None


def ask_service(timeout: float = 20) -> dict[str, Any]:
    """The status that the main process reports; empty if it does not answer this user within `timeout` seconds.

    Raises:
        InvalidAnswer: what answers is not the service, or not as it should be.
    """
    try:
        answer = run(runtime_argv("status"), timeout=timeout)
    except CommandError as error:
        if error.returncode == ExitCode.PROTOCOL:
            raise InvalidAnswer(error.stderr.strip()) from None
        return {}
    except InstallerError:
        return {}
    return check_status(json.loads(answer.stdout))


def port_trouble(listen: str, *, is_metrics: bool = False) -> str:
    """The process that listens on HOST:PORT and the remedy, in one line; empty if the port is free or unknown.

    `is_metrics`: the address is that of METRICS.
    """
    try:
        run(runtime_argv("port", *(("--metrics",) if is_metrics else ()), listen), timeout=20)
    except CommandError as error:
        return error.stderr.strip().splitlines()[-1]
    return ""


def require_root(what: str) -> None:
    """Refuse a user who can't write system files.

    Raises:
        PermissionDenied: the effective user is not root.
    """
    if os.geteuid() != 0:
        raise PermissionDenied(f"{what} needs root", f"Run: sudo {' '.join([sys.argv[0], *sys.argv[1:]])}")
