"""Every path that the project knows on a host, under a root prefix. Paths are those that the running host sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from litellm_systemd import contract

#: The units of the service itself, in the order in which they are started.
UNITS = (contract.SOCKET, contract.SERVICE)


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths on one host.

    `prefix` is the folder of the releases. `root` is the file system that is written to: `/` for the running host,
    another folder for an image that is being prepared. All other paths are as they are once that root is `/`;
    `real` returns the path to open.
    """

    root: Path = Path("/")
    prefix: str = "/opt/litellm-systemd"

    environment_file = contract.ENV_FILE
    #: The encrypted secrets of the environment; exists only in that mode.
    secrets = contract.SECRETS_FILE
    #: The salt key of LiteLLM's database, apart from the other keys; exists only with one that is not encrypted.
    salt = "/etc/litellm/salt.env"
    config_link = contract.CONFIG_FILE
    etc = "/etc/litellm"
    configs = "/etc/litellm/configs"
    #: What the shipped configurations include.
    shared = "/etc/litellm/configs/shared"
    units = "/etc/systemd/system"
    service = f"/etc/systemd/system/{contract.SERVICE}"
    socket = f"/etc/systemd/system/{contract.SOCKET}"
    #: The next three exist only with METRICS.
    metrics_socket = f"/etc/systemd/system/{contract.METRICS_SOCKET}"
    metrics = contract.METRICS_DIRECTORY
    verified = str(PurePosixPath(contract.VERIFY_RESULT).parent)
    verify_service = f"/etc/systemd/system/{contract.VERIFY_SERVICE}"
    verify_timer = f"/etc/systemd/system/{contract.VERIFY_TIMER}"
    sysusers = "/etc/sysusers.d/litellm.conf"
    tmpfiles = "/etc/tmpfiles.d/litellm.conf"
    command = "/usr/local/bin/litellmctl"
    #: A link to it, where sudo does not search the folder of `command`.
    sudo_command = "/usr/bin/litellmctl"
    state = "/var/lib/litellm"
    cache = "/var/cache/litellm"
    own_state = "/var/lib/litellm-systemd"
    manifest = "/var/lib/litellm-systemd/manifest.json"
    #: The undo log. The name of the file is older than the term.
    undo_log = "/var/lib/litellm-systemd/journal"
    #: What was written, each file under its digest: the other side of `litellmctl diff`.
    pristine = "/var/lib/litellm-systemd/pristine"
    failed = "/var/lib/litellm-systemd/failed"
    #: Dumps of the database from before its migrations.
    dumps = "/var/lib/litellm-systemd/dumps"
    #: The path of the dump that an undo of the current change restores.
    undo_dump = "/var/lib/litellm-systemd/undo-dump"
    edited = "/etc/litellm/edited"
    #: The lock of earlier versions, which every user could open.
    earlier_lock = "/run/litellm-systemd.lock"

    @property
    def releases(self) -> str:
        """The folder of the releases, one folder each."""
        return f"{self.prefix}/releases"

    @property
    def bootstrap(self) -> str:
        """The venv that scripts/quickstart.sh installs from."""
        return f"{self.prefix}/bootstrap"

    @property
    def lock(self) -> str:
        """The file that a run which changes something locks."""
        return "/run/litellm-systemd/lock" if self.is_host else f"{self.own_state}/lock"

    @property
    def current(self) -> str:
        """The link to the release in use."""
        return f"{self.prefix}/current"

    @property
    def is_host(self) -> bool:
        """Whether the root is that of the running host: only that one has a running systemd."""
        return self.root == Path("/")

    def real(self, path: str) -> Path:
        """The path to open for `path`."""
        return self.root / path.lstrip("/")

    def release(self, identifier: str) -> str:
        return f"{self.releases}/{identifier}"

    def config(self, name: str) -> str:
        """The installed configuration of that name, or a file that it includes, by its path below `configs`."""
        return f"{self.configs}/{name}"


def layout_files(layout: Layout) -> tuple[str, ...]:
    """The files that an install writes with any settings."""
    return (
        *(layout.service, layout.socket, layout.sysusers, layout.tmpfiles),
        *(layout.environment_file, layout.config_link, layout.current, layout.command),
    )
