"""How far the service gets: its runtime's `reach`, run in a transient unit with the sandbox and user of the service.

Where there is no systemd, or no root, it is run from here; `ConnectivityResults.inside` says which it was.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from litellm_systemd import contract
from litellm_systemd.command import minimal_environment, run
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import Unavailable
from litellm_systemd.host.observe import is_booted

#: Seconds for each of the two, with the start of a Python.
_TIMEOUT = 2.8
#: The lines of a unit that decide what its processes can reach and read. Not those that make or remove something
#: (StateDirectory=, RemoveIPC=), nor those about starting and stopping.
_SANDBOX = re.compile(
    r"(?:User|Group|SupplementaryGroups|Environment|EnvironmentFile|PassEnvironment|UnsetEnvironment"
    r"|NoNewPrivileges|CapabilityBoundingSet|AmbientCapabilities|Protect\w+|Private\w+|Restrict\w+|ProcSubset"
    r"|DevicePolicy|DeviceAllow|LockPersonality|MemoryDenyWriteExecute|KeyringMode|SystemCall\w+|UMask|IPAddress\w+"
    r"|SocketBind\w+|NetworkNamespacePath|RootDirectory|InaccessiblePaths|ReadOnlyPaths|TemporaryFileSystem"
    r"|BindPaths|BindReadOnlyPaths)"
)
#: About starting, though its name begins like those above.
_NOT = re.compile(r"Restart\w*|PrivateMounts")


@dataclass(frozen=True, slots=True)
class ConnectionResult:
    """How far a URL's way was gone: `stage` is done, or that which failed, at which `host`, with what `error`."""

    url: str
    stage: str
    host: str
    error: str

    @property
    def is_done(self) -> bool:
        """Whether it was gone to its end."""
        return self.stage == "done"


@dataclass(frozen=True, slots=True)
class ConnectivityResults:
    """The ways as the service goes them, if `inside` its sandbox, and as they are from here."""

    service: tuple[ConnectionResult, ...]
    here: tuple[ConnectionResult, ...]
    inside: bool

    @property
    def where(self) -> str:
        """Words for where it was tried."""
        return f"in the sandbox of {contract.SERVICE}" if self.inside else "from here, not in the service's sandbox"


def observe_connectivity(snapshot: Snapshot, urls: tuple[str, ...]) -> ConnectivityResults:
    """Go the way to each URL, from inside and from here at once.

    Raises:
        InstallerError: the release in use, or systemd, can't run it.
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
    argv = (sys.executable, "-I", "-m", "litellm_systemd.runtime", "reach", *urls)
    return parse_results(run(argv, environment={**minimal_environment(), **environment}, timeout=_TIMEOUT).stdout)


def _from_inside(snapshot: Snapshot, urls: tuple[str, ...]) -> tuple[ConnectionResult, ...]:
    sources = (snapshot.service.get("FragmentPath", ""), *snapshot.service.get("DropInPaths", "").split())
    texts = (snapshot.layout.real(path).read_text(encoding="utf-8", errors="replace") for path in sources if path)
    python = f"{snapshot.layout.current}/bin/python"
    return parse_results(run(sandbox_argv(texts, python, urls), timeout=_TIMEOUT).stdout)


def parse_results(text: str) -> tuple[ConnectionResult, ...]:
    """What `reach` has printed.

    Raises:
        Unavailable: it isn't what it prints.
    """
    try:
        found: list[dict[str, Any]] = json.loads(text)
        return tuple(ConnectionResult(each["url"], each["stage"], each["host"], each["error"]) for each in found)
    except (ValueError, LookupError, TypeError):
        raise Unavailable("the release in use doesn't tell how far it gets", "sudo litellmctl upgrade") from None


def sandbox_argv(texts: Iterable[str], python: str, urls: tuple[str, ...]) -> tuple[str, ...]:
    """The command line that runs `reach` with the sandbox of a unit: its text and those of its drop-ins, in order."""
    properties = [f"--property={name}={value}" for name, value in sandbox_lines(texts)]
    options = ("--quiet", "--pipe", "--wait", "--collect", "--property=RuntimeMaxSec=5")
    return ("systemd-run", *options, *properties, "--", python, "-I", "-m", "litellm_systemd.runtime", "reach", *urls)


def sandbox_lines(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The settings of [Service] in unit files that make the sandbox, in their order.

    One with a specifier (%S) is left out: systemd-run doesn't resolve them.
    """
    for text in texts:
        section = ""
        for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
            line = line.strip()
            if line.startswith("["):
                section = line
            name, found, value = (part.strip() for part in line.partition("="))
            is_one = section == "[Service]" and found and _SANDBOX.fullmatch(name) and not _NOT.fullmatch(name)
            if is_one and "%" not in value:
                yield name, value
