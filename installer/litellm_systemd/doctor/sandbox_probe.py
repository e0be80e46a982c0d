"""Test connections from inside the service's sandbox: a transient unit with its sandbox and user runs the test.

Without systemd or root the test runs in this process's context; `ConnectivityResults.inside` says which it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from litellm_systemd import contract
from litellm_systemd.command import minimal_environment, run, runtime_argv
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import Unavailable
from litellm_systemd.host.observe import is_booted

#: Seconds for each of the two tests, including the start of Python.
_TIMEOUT = 2.8
#: The settings of a unit that decide what its processes can connect to and read. Settings that create or remove
#: something (StateDirectory=, RemoveIPC=) and those about starting and stopping are left out.
_SANDBOX = re.compile(
    r"(?:User|Group|SupplementaryGroups|Environment|EnvironmentFile|PassEnvironment|UnsetEnvironment"
    r"|NoNewPrivileges|CapabilityBoundingSet|AmbientCapabilities|Protect\w+|Private\w+|Restrict\w+|ProcSubset"
    r"|DevicePolicy|DeviceAllow|LockPersonality|MemoryDenyWriteExecute|KeyringMode|SystemCall\w+|UMask|IPAddress\w+"
    r"|SocketBind\w+|NetworkNamespacePath|RootDirectory|InaccessiblePaths|ReadOnlyPaths|TemporaryFileSystem"
    r"|BindPaths|BindReadOnlyPaths)"
)
#: Not part of the sandbox, although the names match.
_EXCLUDED = re.compile(r"Restart\w*|PrivateMounts")


@dataclass(frozen=True, slots=True)
class ConnectionResult:
    """The result for one URL: `stage` is "done" or the stage that failed, at `host`, with `error`."""

    url: str
    stage: str
    host: str
    error: str

    @property
    def is_done(self) -> bool:
        """Whether all stages succeeded."""
        return self.stage == "done"


@dataclass(frozen=True, slots=True)
class ConnectivityResults:
    """The results for the service (from `inside` its sandbox if possible), and from this process (`here`)."""

    service: tuple[ConnectionResult, ...]
    here: tuple[ConnectionResult, ...]
    inside: bool

    @property
    def where(self) -> str:
        """Where the test for the service ran, for messages."""
        return (
            f"in the sandbox of {contract.SERVICE}"
            if self.inside
            else "from this shell, not in the service's sandbox"
        )


def observe_connectivity(snapshot: Snapshot, urls: tuple[str, ...]) -> ConnectivityResults:
    """Connect to each URL, from inside the sandbox and from here in parallel.

    Raises:
        InstallerError: systemd or the active release cannot run the test.
    """
    if not urls:
        return ConnectivityResults((), (), inside=False)
    if not (snapshot.is_root and is_booted()):
        found = _from_here(snapshot.environment, urls)
        return ConnectivityResults(found, found, inside=False)
    with ThreadPoolExecutor(2) as pool:
        here = pool.submit(_from_here, snapshot.environment, urls)
        inside = pool.submit(_from_inside, snapshot, urls)
        return ConnectivityResults(inside.result(), here.result(), inside=True)


def _from_here(environment: Mapping[str, str], urls: tuple[str, ...]) -> tuple[ConnectionResult, ...]:
    argv = runtime_argv("reach", *urls)
    return parse_results(run(argv, environment={**minimal_environment(), **environment}, timeout=_TIMEOUT).stdout)


def _from_inside(snapshot: Snapshot, urls: tuple[str, ...]) -> tuple[ConnectionResult, ...]:
    sources = (snapshot.service.get("FragmentPath", ""), *snapshot.service.get("DropInPaths", "").split())
    texts = (snapshot.layout.real(path).read_text(encoding="utf-8", errors="replace") for path in sources if path)
    python = f"{snapshot.layout.current}/bin/python"
    return parse_results(run(sandbox_argv(texts, python, urls), timeout=_TIMEOUT).stdout)


def parse_results(text: str) -> tuple[ConnectionResult, ...]:
    """The results in the output of the test.

    Raises:
        Unavailable: the output has another format.
    """
    try:
        found: list[dict[str, Any]] = json.loads(text)
        return tuple(ConnectionResult(each["url"], each["stage"], each["host"], each["error"]) for each in found)
    except (ValueError, LookupError, TypeError):
        raise Unavailable(
            "the active release does not support the connection test", "sudo litellmctl upgrade"
        ) from None


def sandbox_argv(texts: Iterable[str], python: str, urls: tuple[str, ...]) -> tuple[str, ...]:
    """The command that runs the test in the sandbox of a unit; `texts` are its unit file and drop-ins, in order."""
    properties = [f"--property={name}={value}" for name, value in sandbox_lines(texts)]
    options = ("--quiet", "--pipe", "--wait", "--collect", "--property=RuntimeMaxSec=5")
    return ("systemd-run", *options, *properties, "--", *runtime_argv("reach", *urls, python=python))


def sandbox_lines(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The settings of [Service] in unit files that make up the sandbox, in order.

    Settings with a specifier (%S) are left out: systemd-run does not resolve them.
    """
    for text in texts:
        section = ""
        for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
            line = line.strip()
            if line.startswith("["):
                section = line
            name, found, value = (part.strip() for part in line.partition("="))
            is_one = section == "[Service]" and found and _SANDBOX.fullmatch(name) and not _EXCLUDED.fullmatch(name)
            if is_one and "%" not in value:
                yield name, value
