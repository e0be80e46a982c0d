"""The port of the service, and the network from inside its sandbox to Bedrock, and to STS if it assumes a role.

The port: which process holds it, does the socket unit listen, and is it the address in the environment file?

The network is tested in stages: name resolution, proxy, connection, certificate. A transient unit with the sandbox
and the user of the service runs the test. Without systemd or root, this process runs it: `ConnectivityResults.inside`
says which.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litellm_systemd import contract
from litellm_systemd.aws import credentials
from litellm_systemd.aws.sources import proxies_for
from litellm_systemd.bedrock.models import default_endpoint
from litellm_systemd.command import minimal_environment, run, runtime_argv
from litellm_systemd.doctor.check_configuration import lint_findings, merge_items, variable_of
from litellm_systemd.doctor.check_unit import CORRECT_LINE, EXIT_CODES, STARTUP_BLOCKERS, drop_ins
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot, edit_command
from litellm_systemd.env import variables
from litellm_systemd.env.aws import ENDPOINT, STS_ENDPOINTS
from litellm_systemd.errors import CommandError, Unavailable
from litellm_systemd.gateway.config_types import GatewayConfig
from litellm_systemd.gateway.models import build_served
from litellm_systemd.host.effective import listen_addresses, read_unit_lines
from litellm_systemd.host.files import read_numbered_lines
from litellm_systemd.host.layout import UNITS
from litellm_systemd.host.observe import is_booted, port_trouble
from litellm_systemd.host.state import in_words
from litellm_systemd.report.report import Outcome

_PORT_REQUIRES = ("host-systemd-absent", "host-systemd-silent", "files-not-installed", "unit-masked")

TAKEN = Cause(
    "port-taken",
    "Another program listens on the port, so litellm.socket cannot. The service never switches to another port by"
    " itself.",
    "{stop}, then: sudo litellmctl start    # or set another PORT in .env, then: sudo litellmctl install",
    requires=_PORT_REQUIRES,
)


@detects(TAKEN)
def detect_port_taken(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect another program on the port while litellm.socket should be listening there and is not."""
    for listen, error in _listeners(snapshot):
        if not own_units(error):
            port = listen.rpartition(":")[2]
            units = [*_socket_units(snapshot, port), *_units(error)]
            named = f" ({units[0]})" if units else ""
            yield TAKEN.finding(f"{error}{named}", stop=stop_command(units, port))


def stop_command(units: Sequence[str], port: str) -> str:
    """What frees a port on which these units listen, as `unit_of` names them; without one, any other program."""
    if not units:
        return f"Stop that program (sudo ss -ltnp 'sport = :{port}')"
    if user := re.match(r"user@(\d+)\.service/([^/]+)", units[0]):
        as_user = f"sudo -u '#{user[1]}' env XDG_RUNTIME_DIR=/run/user/{user[1]}"
        return f"{as_user} systemctl --user disable --now '{user[2]}'"
    if units[0] == "docker.service":  # its other containers run on
        return f"sudo docker stop $(sudo docker ps --quiet --filter publish={port})"
    return f"sudo systemctl stop {' '.join(units)}"


def _socket_units(snapshot: Snapshot, port: str) -> tuple[str, ...]:
    """The other socket units for which systemd listens on a port."""
    found = [unit for listen, unit in snapshot.systemctl.sockets() if listen.rpartition(":")[2] == port]
    return tuple(unit for unit in found if unit != contract.SOCKET)


def _listeners(snapshot: Snapshot) -> tuple[tuple[str, str], ...]:
    """The addresses on which litellm.socket should be listening and another process is, with the error."""
    units = [snapshot.unit(name) for name in UNITS]
    is_unused = all(unit.active == "inactive" and not unit.is_enabled for unit in units)
    if snapshot.unit(contract.SOCKET).is_active or is_unused:
        return ()

    def find() -> tuple[tuple[str, str], ...]:
        addresses = listen_addresses(snapshot.socket.get("Listen", ""))
        return tuple((listen, error) for listen in addresses if (error := port_trouble(listen)))

    return snapshot.cached("listeners", find)  # type: ignore[no-any-return]


def own_units(error: str) -> tuple[str, ...]:
    """The units of this project among the processes that a message names by their pid."""
    return tuple(unit for unit in _units(error) if unit in (contract.SERVICE, contract.STANDBY))


def _units(error: str) -> tuple[str, ...]:
    """The services of the processes that a message names by their pid."""
    units = (unit_of(Path(f"/proc/{pid}/cgroup")) for pid in re.findall(r"\(pid (\d+)\)", error))
    return tuple(dict.fromkeys(unit for unit in units if unit.endswith(".service")))


def unit_of(cgroup: Path) -> str:
    """The unit of a process by its control group (proc(5), systemd.slice(5)); empty if it has none or is gone.

    A unit of a user's own service manager is UNIT of `user@UID.service/UNIT`.
    """
    try:
        lines = cgroup.read_text("utf-8").splitlines()
    except OSError:
        return ""
    found = [units for line in lines if (units := re.findall(r"/([\w:.\\@-]+\.(?:service|scope))(?=/|$)", line))]
    return "/".join(found[-1]) if found else ""


LEFT_OVER = Cause(
    "port-left-over",
    "A process of an earlier run of the service still listens on the port, so litellm.socket cannot.",
    "sudo systemctl kill --signal=SIGKILL {unit}; sudo systemctl stop {unit}; sudo litellmctl start",
    requires=_PORT_REQUIRES,
)


@detects(LEFT_OVER)
def detect_port_left_over(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect processes of the service itself, or of its standby, on the port. `port-closed` reports a running one."""
    if snapshot.is_active:
        return
    for _, error in _listeners(snapshot):
        for unit in own_units(error)[:1]:
            yield LEFT_OVER.finding(f"{error}; it belongs to {unit}", unit=unit)


SOCKET = Cause(
    "port-socket-failed",
    "litellm.socket has failed, so nothing listens on the port.",
    "{remedy}",
    requires=_PORT_REQUIRES,
    caused_by=(*STARTUP_BLOCKERS, "unit-start-limit", "port-address", "host-loopback"),
)


@detects(SOCKET)
def detect_port_socket_failed(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a failed socket unit: it could not bind its address, or was triggered too often."""
    if snapshot.unit(contract.SOCKET).active != "failed":
        return
    failed = [
        each.message for each in snapshot.systemctl.events(contract.SOCKET, 20) if " Failed to " in each.message
    ]
    lines = drop_ins(snapshot, contract.SOCKET)
    where = "".join(f"{each.where}: {each.assignment}: " for each in lines[:1])
    evidence = failed[-1] if failed else f"{contract.SOCKET}: Result={snapshot.socket.get('Result', '')}"
    remedy = "sudo systemctl reset-failed litellm.socket litellm.service && sudo litellmctl start"
    if lines:
        remedy = CORRECT_LINE.format(where=lines[0].where)
    addresses = listen_addresses(snapshot.socket.get("Listen", ""))
    if lines and "Address already in use" in evidence and _exclude_each_other(addresses):
        evidence += f"; {contract.SOCKET} has {' and '.join(addresses)}, which exclude each other"
        remedy += "    # ListenStream= without a value, in the line before, removes the address of the unit"
    yield SOCKET.finding(f"{where}{evidence}", remedy=remedy)


def _exclude_each_other(addresses: tuple[str, ...]) -> bool:
    """Whether two addresses have the same port, and one of them is each address of the host, or both are the same."""
    pairs = [each.rpartition(":")[::2] for each in addresses]
    ports = [port for _, port in pairs]
    return any(
        ports.count(port) > 1 and (host in ("0.0.0.0", "[::]", "*") or pairs.count((host, port)) > 1)  # noqa: S104
        for host, port in pairs
    )


#: Opens the port as the socket unit has it now.
REOPEN = "sudo systemctl restart litellm.socket litellm.service"

CLOSED = Cause(
    "port-closed",
    "The service is running but its socket unit was stopped: the next restart will have no port.",
    REOPEN,
    requires=_PORT_REQUIRES,
    caused_by=("port-socket-failed",),
)


@detects(CLOSED)
def detect_port_closed(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a running service whose socket unit is not active."""
    state = snapshot.unit(contract.SOCKET)
    if snapshot.is_active and state.load == "loaded" and not state.is_active:
        yield CLOSED.finding(f"{contract.SERVICE} is active but {contract.SOCKET} {in_words(state.active)}")


MISMATCH = Cause(
    "port-mismatch",
    "The socket unit listens on another address than HOST and PORT name: they were changed after the installation, or"
    " a drop-in sets them, which has no effect on the socket unit.",
    "{remedy}",
    outcome=Outcome.WARNING,
    requires=(*_PORT_REQUIRES, "environment-unusable"),
    caused_by=("port-address", "port-socket-failed"),
)


@detects(MISMATCH)
def detect_port_mismatch(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a socket unit whose address differs from the environment file."""
    wanted, addresses = snapshot.settings.listen, listen_addresses(snapshot.socket.get("Listen", ""))
    if not addresses or wanted in addresses:
        return
    dotenv, own = snapshot.dotenv, snapshot.layout.environment_file
    names = [each.name for each in (variables.HOST, variables.PORT) if each.name in dotenv.values]
    where = " and ".join(dict.fromkeys(map(dotenv.where, names))) or own
    lines = [each for each in read_unit_lines(snapshot.layout, snapshot.socket) if each.name == "ListenStream"]
    remedy, drop_in = "sudo litellmctl install --installed    # renders the unit again", ""
    if others := [name for name in names if dotenv.file_of(name) != own]:
        remedy = (
            f"{snapshot.edit_command(others[0])}    # write {others[0]} into .env instead: sudo litellmctl install"
        )
    elif lines and lines[-1].path != snapshot.socket.get("FragmentPath"):
        drop_in = f" by {lines[-1].where}"
        remedy = (
            f"{edit_command(lines[-1].path)} && {REOPEN}    # remove ListenStream=, and set HOST and PORT in .env"
        )
    yield MISMATCH.finding(
        f"{where} has {wanted}, {contract.SOCKET} has {', '.join(addresses)}{drop_in}", remedy=remedy
    )


_IPV6_OFF = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
ADDRESS = Cause(
    "port-address",
    "HOST is not an address of this machine, so no client can connect to the service.",
    "Set HOST in .env to an address of this machine (ip -brief address), then: sudo litellmctl install",
    requires=("environment-unusable",),
    caused_by=("host-loopback",),
)


@detects(ADDRESS)
def detect_port_address(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a HOST that is not an address of this machine. systemd binds it nevertheless (FreeBind=)."""
    host = snapshot.settings.host
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as check:
        try:
            check.bind((host, 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            is_off = ":" in host and _IPV6_OFF.is_file() and _IPV6_OFF.read_text(encoding="ascii").strip() == "1"
            more = f"; IPv6 is turned off ({_IPV6_OFF} is 1)" if is_off else ""
            yield ADDRESS.finding(f"{snapshot.dotenv.where(variables.HOST.name)}: HOST={host}{more}")


#: Seconds for each of the two tests, including the start of Python.
_TIMEOUT = 2.8
#: The settings of a unit that decide what its processes can connect to and read. Settings that create or remove
#: something (StateDirectory=, RemoveIPC=) and those about starting and stopping are left out.
_SANDBOX = re.compile(
    r"(?:User|Group|SupplementaryGroups|Environment|EnvironmentFile|PassEnvironment|UnsetEnvironment|LoadCredentialEncrypted"
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
        found = _from_here(snapshot, urls)
        return ConnectivityResults(found, found, inside=False)
    with ThreadPoolExecutor(2) as pool:
        here = pool.submit(_from_here, snapshot, urls)
        inside = pool.submit(_from_inside, snapshot, urls)
        return ConnectivityResults(inside.result(), here.result(), inside=True)


def _from_here(snapshot: Snapshot, urls: tuple[str, ...]) -> tuple[ConnectionResult, ...]:
    argv, environment = runtime_argv("reach", *urls), {**minimal_environment(), **snapshot.environment}
    return parse_results(run(argv, environment=environment, timeout=_TIMEOUT * snapshot.patience).stdout)


def _from_inside(snapshot: Snapshot, urls: tuple[str, ...]) -> tuple[ConnectionResult, ...]:
    sources = (snapshot.service.get("FragmentPath", ""), *snapshot.service.get("DropInPaths", "").split())
    texts = (snapshot.layout.real(path).read_text(encoding="utf-8", errors="replace") for path in sources if path)
    python = f"{snapshot.layout.current}/bin/python"
    try:
        done = run(sandbox_argv(texts, python, urls), timeout=_TIMEOUT * snapshot.patience)
    except CommandError as error:
        # Without its arguments, which are each line of the sandbox.
        reason = error.stderr.strip() or EXIT_CODES.get(error.returncode, "")
        raise CommandError(("systemd-run",), error.returncode, reason) from None
    return parse_results(done.stdout)


def parse_results(text: str) -> tuple[ConnectionResult, ...]:
    """The results in the output of the test.

    Raises:
        Unavailable: the output has another format.
    """
    try:
        found: list[dict[str, Any]] = json.loads(text)
        names = ("url", "stage", "host", "error")
        return tuple(ConnectionResult(*(str(each[name]) for name in names)) for each in found)
    except (ValueError, LookupError, TypeError):
        raise Unavailable(
            "the active release does not support the connection test", "sudo litellmctl upgrade"
        ) from None


def sandbox_argv(texts: Iterable[str], python: str, urls: tuple[str, ...]) -> tuple[str, ...]:
    """The command that runs the test in the sandbox of a unit; `texts` are its unit file and drop-ins, in order."""
    properties = [f"--property={name}={value}" for name, value in sandbox_lines(texts)]
    options = ("--quiet", "--pipe", "--wait", "--collect", "--property=RuntimeMaxSec=15")
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


#: Without these the sandbox cannot be created, or the endpoints are unknown.
_REQUIRES = (
    *("files-not-installed", "files-release-gone", "files-gone", "files-user-gone", "host-python-gone"),
    *("environment-undecryptable", "environment-unusable", "configuration-unusable", "unit-masked", "unit-bad"),
)
#: Appended to remedies that only a second run can confirm.
_AGAIN = "; to test it: sudo litellmctl doctor"


def endpoints_of(config: GatewayConfig, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The URLs that a configuration's calls connect to, each once: Bedrock, and STS if a role is assumed."""
    found: dict[str, None] = {}
    for each in build_served(config, environ):
        if each.is_called:
            own = credentials.environ_of(config, each.model, environ)
            found |= dict.fromkeys(_runtime_endpoint(own, each.region))
            if credentials.auth_method_of(config, each.model, environ) is credentials.AuthMethod.ROLE:
                found |= dict.fromkeys(_sts_endpoint(own, each.region))
    return tuple(found)


def _runtime_endpoint(environ: Mapping[str, str], region: str | None) -> Iterator[str]:
    url = environ.get(ENDPOINT) or environ.get("AWS_ENDPOINT_URL_BEDROCK_RUNTIME")
    if url or region:
        yield url or default_endpoint(region or "", "bedrock-runtime")


def _sts_endpoint(environ: Mapping[str, str], region: str | None) -> Iterator[str]:
    """In the order of _build_sts_client_kwargs in litellm/llms/bedrock/base_aws_llm.py, then of boto3."""
    url = next((environ[name] for name in STS_ENDPOINTS if environ.get(name)), None)
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or region
    if url or region:
        yield url or default_endpoint(region or "", "sts")


def _test_connections(snapshot: Snapshot) -> ConnectivityResults:
    urls = endpoints_of(snapshot.gateway, snapshot.environment)
    results: ConnectivityResults = snapshot.cached("connectivity", lambda: observe_connectivity(snapshot, urls))
    return results


SANDBOX = Cause(
    "network-sandbox",
    "The host can connect to an AWS endpoint, but the service cannot from inside its sandbox: a drop-in or a firewall"
    " rule for its user blocks it.",
    "{remedy}",
    requires=_REQUIRES,
    caused_by=("environment-file",),
)
#: The start of the names of the settings of a unit that can block connections (systemd.exec(5)).
BLOCKING = ("IPAddress", "RestrictAddress", "RestrictNetwork", "PrivateNetwork", "NetworkNamespace", "SocketBind")
_SEARCH = (
    "sudo nft list ruleset; sudo iptables -S OUTPUT; ip rule    # find the rule for the user litellm (its number:"
    " id -u litellm); or for its slice: systemctl show system.slice -p IPAddressDeny"
)


@detects(SANDBOX)
def detect_network_sandbox(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a connection that works on the host but not inside the sandbox."""
    results = _test_connections(snapshot)
    for inside, here in zip(results.service, results.here, strict=True):
        if inside.stage == "name" and judge_access(snapshot.layout.real("/etc")):
            continue  # `network-dns` reports it
        if here.is_done and not inside.is_done:
            failure = f"{inside.url}: {inside.stage} of {inside.host} fails {results.where}: {inside.error}"
            lines = [each for each in drop_ins(snapshot) if each.name.startswith(BLOCKING)]
            where = "".join(f"{each.where}: {each.assignment}: " for each in lines[:1])
            remedy = CORRECT_LINE.format(where=lines[0].where) if lines else _SEARCH
            yield SANDBOX.finding(f"{where}{failure}; it works outside of the sandbox", remedy=remedy)
            return


REGION = Cause(
    "network-region",
    "AWS has no endpoint in the region of the calls: its name is misspelled.",
    "{edit}    # {remedy}",
    requires=(*_REQUIRES, "network-sandbox"),
)


@detects(REGION)
def detect_network_region(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a region that this release does not know and whose endpoints have no address."""
    unresolved = [result.host for result in _test_connections(snapshot).service if result.stage == "name"]
    items = [item for item in lint_findings(snapshot) if item.code == "unknown-region"]
    for text, item in merge_items(items) if unresolved else ():
        if any(f".{word}." in host for host in unresolved for word in re.findall(r"[a-z0-9-]+", item.message)):
            edit = f"sudoedit {item.place.file} && sudo systemctl reload-or-restart litellm"
            if item.place.file is None:
                name = variable_of(snapshot, item) or ""
                text = f"{snapshot.dotenv.where(name)}: {item.message}"
                edit = f"{snapshot.edit_command(name)} && sudo litellmctl restart"
            yield REGION.finding(f"{text}: no address of {unresolved[0]}", edit=edit, remedy=item.remedy)


DNS = Cause(
    "network-dns",
    "The host name of an AWS endpoint (Bedrock or STS) cannot be resolved, or only slowly: calls fail, or wait.",
    "{remedy}",
    requires=(*_REQUIRES, "network-sandbox"),
    caused_by=("network-region",),
)


@detects(DNS)
def detect_network_dns(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect endpoints whose name is not resolved, and say which servers should do it."""
    failed = [result.host for result in _test_connections(snapshot).service if result.stage == "name"]
    if failed:
        more, remedy = judge_names(snapshot, failed[0])
        if _UNKNOWN in more and (name := _variable_with(snapshot, failed[0])):
            edit = f"{snapshot.edit_command(name)} && sudo litellmctl restart"
            remedy = f"{edit}    # correct {name}, or name servers in /etc/resolv.conf that know the host"
        yield from _failures(snapshot, DNS, "name", more, remedy)


#: To look which server does not answer, and to name one; see resolv.conf(5).
_QUERY = (
    "resolvectl query {host}    # or: getent ahosts {host}; correct the name servers in /etc/resolv.conf, or allow"
    " port 53 in the firewall"
)
_WRITE = "echo nameserver ADDRESS | sudo tee /etc/resolv.conf    # the address of your name server"
_RESOLVED = "sudo systemctl enable --now systemd-resolved    # or remove the link, and write: nameserver ADDRESS"


#: Remedy if one of several name servers is silent: the resolver waits five seconds for it (resolv.conf(5)).
_REMOVE = (
    "sudoedit /etc/resolv.conf    # remove nameserver {silent}, or move it to the end; if another program writes the"
    " file (ls -l /etc/resolv.conf), do so in its settings"
)


def judge_names(snapshot: Snapshot, host: str) -> tuple[str, str]:
    """As `judge_resolver`, of all files of the resolver."""
    etc = snapshot.layout.real("/etc")
    more, remedy = judge_access(etc) or judge_sources(etc) or judge_resolver(etc / "resolv.conf", host)
    if remedy == _RESOLVED:
        remedy = f"{snapshot.systemctl.unmask_command('systemd-resolved.service')}{remedy}"
    return more, remedy


def judge_access(etc: Path) -> tuple[str, str] | None:
    """As `judge_resolver`, if the user of the service cannot read a file of the resolver; otherwise None."""
    for name in ("resolv.conf", "hosts", "nsswitch.conf"):
        with contextlib.suppress(OSError):
            path = (etc / name).resolve(strict=True)
            folders = path.parents if (etc / name).is_symlink() else ()
            closed = [each for each in folders if not each.stat().st_mode & stat.S_IXOTH]
            if closed or not path.stat().st_mode & stat.S_IROTH:
                where = f"; {closed[-1]} is closed to others" if closed else ""
                target = f"{closed[-1]} /etc/{name}" if closed else f"/etc/{name}"
                return f"/etc/{name} is not readable for all{where}", f"sudo chmod a+rX {target}"
    return None


def judge_sources(etc: Path) -> tuple[str, str] | None:
    """As `judge_resolver`, if nsswitch.conf(5) asks no name server at all; otherwise None."""
    lines = read_numbered_lines(etc / "nsswitch.conf")
    found = next(((number, line) for number, line in lines if line.startswith("hosts:")), None)
    if found is None or {"dns", "resolve"} & set(found[1].split()):
        return None
    evidence = f"/etc/nsswitch.conf:{found[0]} asks no name server: {' '.join(found[1].split())}"
    return evidence, "sudoedit /etc/nsswitch.conf && sudo litellmctl restart    # write: hosts: files dns"


def fixed_address(etc: Path, host: str) -> str:
    """The line of hosts(5) that sets the address of a host, for a message; empty if there is none."""
    for number, line in read_numbered_lines(etc / "hosts"):
        address, *names = line.split() or [""]
        if host.lower() in map(str.lower, names):
            return f"/etc/hosts:{number} sets its address to {address}"
    return ""


def judge_resolver(path: Path, host: str = "") -> tuple[str, str]:
    """What the file of name servers says, for a message, and the remedy, a template of `str.format`.

    If there is a `host`, each server is asked for its address.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        if not path.is_symlink():
            return "/etc/resolv.conf is missing", _WRITE
        target = str(path.readlink())
        remedy = _RESOLVED if "systemd/resolve" in target else f"sudo rm /etc/resolv.conf && {_WRITE}"
        return f"/etc/resolv.conf is a link to {target}, which does not exist", remedy
    except OSError as error:
        return f"/etc/resolv.conf: {error.strerror}", f"ls -ld /etc/resolv.conf    # then: {_WRITE}"
    servers = re.findall(r"^[ \t]*nameserver[ \t]+(\S+)", text, re.MULTILINE)[:_MAX_SERVERS]
    if not servers:
        return "/etc/resolv.conf has no server", _WRITE
    with ThreadPoolExecutor(_MAX_SERVERS) as pool:
        found = list(pool.map(lambda server: query_server(server, host), servers) if host else [""] * len(servers))
    named = (f"{server} ({answer})" if answer else server for server, answer in zip(servers, found, strict=True))
    silent = [server for server, answer in zip(servers, found, strict=True) if answer not in _ANSWERS]
    is_slow = 0 < len(silent) < len(servers) and "found" in found
    return f"name servers: {', '.join(named)}", _REMOVE.format(silent=silent[0]) if is_slow else _QUERY


#: The resolver uses the first three; seconds for the answer of one.
_MAX_SERVERS, _PATIENCE = 3, 0.8
#: The meaning of a response code (RFC 1035, 4.1.1). Any answer shows that the server is reached.
_UNKNOWN = "no such name"
_ANSWERS = ("found", "", "SERVFAIL", _UNKNOWN, "", "refuses to answer")


def query_server(server: str, host: str, port: int = 53) -> str:
    """What a name server answers to a query for the address of a host; for a message."""
    try:
        labels = b"".join(bytes((len(label),)) + label for label in host.encode("idna").split(b"."))
        query = b"\x4c\x4d\x01\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
        kind, *_, address = socket.getaddrinfo(server, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as connection:
            connection.settimeout(_PATIENCE)
            connection.connect(address)
            connection.send(query)
            code = connection.recv(512)[3] & 15
    except TimeoutError:
        return "no answer"
    except (OSError, LookupError, UnicodeError) as error:
        return getattr(error, "strerror", "") or "no answer"
    return (_ANSWERS[code] if code < len(_ANSWERS) else "") or f"response code {code}"


PROXY = Cause(
    "network-proxy",
    "The configured proxy does not answer, or rejects connections to AWS.",
    "{edit} && sudo litellmctl restart    # HTTPS_PROXY and NO_PROXY, the same in .env; or allow the endpoint in the"
    " proxy" + _AGAIN,
    requires=(*_REQUIRES, "network-sandbox"),
)


@detects(PROXY)
def detect_network_proxy(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a proxy that does not answer or rejects the connection."""
    for error, by_host in _by_error(snapshot, "proxy").items():
        more = "the proxy needs a user: http://USER:PASSWORD@HOST:PORT" if "407 " in error else ""
        yield _failure(snapshot, PROXY, error, by_host, more, "")


UNREACHABLE = Cause(
    "network-unreachable",
    "An AWS endpoint does not accept connections from the service, or does not respond on them: there is no route, a"
    " firewall or security group blocks it, a device in between does not speak TLS, or the endpoint has only IPv4 or"
    " only IPv6 addresses and the host only the other.",
    "{remedy}",
    requires=(*_REQUIRES, "network-sandbox", "network-dns", "network-proxy"),
)
_ROUTES = (
    "curl -sv https://{host}/ -o /dev/null    # and check routes and firewall: ip route; ip -6 route; sudo nft list"
    " ruleset; sudo iptables -S"
)
_LARGE = (
    "ping -c 3 -M do -s 1400 {host}    # if large packets are lost: sudo ip link set dev INTERFACE mtu 1400. Else"
)
_FILTERED = "getent ahosts {host}    # allow the name in the filter of the name server, or use another server"
_HOSTS = "sudoedit /etc/hosts    # correct or remove {line}. If the address is right:"


@detects(UNREACHABLE)
def detect_network_unreachable(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect endpoints that do not accept connections."""
    etc = snapshot.layout.real("/etc")
    for error, by_host in _by_error(snapshot, "connection").items():
        host = next(iter(by_host))
        remedy, more = _ROUTES, fixed_address(etc, host)
        if "TLS handshake" in error:
            remedy = f"{_LARGE}: {_ROUTES}"
        elif more:
            remedy = f"{_HOSTS.format(line=more.partition(' ')[0].replace('/etc/hosts:', 'line '))} {_ROUTES}"
        elif _OWN.search(error):
            more = "the name servers give an address of this host: a filter in the name server may block the name"
            remedy = _FILTERED
        elif name := _exempting(snapshot, host):
            more = f"{snapshot.dotenv.where(name)}: {name} exempts it from the proxy"
            remedy = f"{snapshot.edit_command(name)} && sudo litellmctl restart    # or, without a proxy: {_ROUTES}"
        yield _failure(snapshot, UNREACHABLE, error, by_host, more, remedy)


def _exempting(snapshot: Snapshot, host: str) -> str:
    """The variable that exempts a host from the proxy of the service; empty if none does, or there is no proxy."""
    environ, name = snapshot.environment, "no_proxy" if snapshot.environment.get("no_proxy") else "NO_PROXY"
    has_proxy = any(environ.get(each) for each in ("https_proxy", "HTTPS_PROXY"))
    return name if has_proxy and not proxies_for(host.partition(":")[0], environ) else ""


#: The addresses of this host itself, and the one that is none, in the message of an error.
_OWN = re.compile(r"\((?:127\.[\d.]+|0\.0\.0\.0|::1?)\)")


CERTIFICATE = Cause(
    "network-certificate",
    "The certificate of an AWS endpoint is not trusted, for example behind a proxy that inspects TLS.",
    "{remedy}",
    requires=(*_REQUIRES, "network-sandbox", "network-dns", "network-proxy", "network-unreachable"),
    caused_by=("host-clock", "environment-file"),
)


@detects(CERTIFICATE)
def detect_network_certificate(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect endpoints whose certificate is not trusted."""
    path = snapshot.environment.get("SSL_CERT_FILE", "")
    for error, by_host in _by_error(snapshot, "certificate").items():
        if not re.search("issuer certificate|self.signed", error):
            more, remedy = "", _OTHER_SERVER
        elif path:
            more = f"{snapshot.dotenv.where('SSL_CERT_FILE')}: SSL_CERT_FILE={path} does not have its CA"
            remedy = f"sudo tee -a {path} <CA.pem && sudo litellmctl restart    # CA.pem: the CA's certificate in PEM"
        else:
            more, remedy = "SSL_CERT_FILE is not set", _PRIVATE_CA
        yield _failure(snapshot, CERTIFICATE, error, by_host, more, remedy)


_PRIVATE_CA = (
    "Put the CA's certificate into /etc/litellm/ca.pem and SSL_CERT_FILE=/etc/litellm/ca.pem into .env; then: sudo"
    " litellmctl install"
)
#: If the certificate has expired or is for another name.
_OTHER_SERVER = (
    "openssl s_client -connect {host}:443 -servername {host} </dev/null | openssl x509 -noout -subject -issuer -dates"
    "    # another server may answer there: check name servers, /etc/hosts and endpoints in .env"
)


#: Variables with a proxy or an endpoint of the user's own.
_NAMES_HOST = re.compile(r"(?<!NO)_PROXY$|ENDPOINT|URL", re.IGNORECASE)


def _variable_with(snapshot: Snapshot, host: str) -> str:
    """The variable that names a host as a proxy or an endpoint; empty if there is none."""
    found = (name for name, value in snapshot.environment.items() if host in value and _NAMES_HOST.search(name))
    return next(found, "")


def _failures(snapshot: Snapshot, cause: Cause, stage: str, more: str = "", remedy: str = "") -> Iterator[Finding]:
    """One finding for each error at a stage; `more` and `remedy` as for `_failure`."""
    for error, by_host in _by_error(snapshot, stage).items():
        yield _failure(snapshot, cause, error, by_host, more, remedy)


def _by_error(snapshot: Snapshot, stage: str) -> dict[str, dict[str, ConnectionResult]]:
    """The failures at a stage by error and host: endpoints of several regions usually fail with the same one."""
    by_error: dict[str, dict[str, ConnectionResult]] = {}
    for result in _test_connections(snapshot).service:
        if result.stage == stage:
            by_error.setdefault(result.error, {})[result.host] = result
    return by_error


def _failure(
    snapshot: Snapshot, cause: Cause, error: str, by_host: Mapping[str, ConnectionResult], more: str, remedy: str
) -> Finding:
    """The finding of one error. `more`: what else the evidence says. `remedy`: a template for the `host`."""
    hosts = ", ".join(f"{host} (for {one.url})" if one.stage == "proxy" else host for host, one in by_host.items())
    first = next(iter(by_host)).partition(":")[0]
    name = _variable_with(snapshot, first)
    origin = f"; {snapshot.dotenv.where(name)} sets {name}" if name else ""
    more = more or fixed_address(snapshot.layout.real("/etc"), first)
    where = _test_connections(snapshot).where
    evidence = f"{hosts}: {error} ({where}{origin})" + (f"; {more}" if more else "")
    filled = remedy.format(host=first) + _AGAIN
    return cause.finding(evidence, edit=snapshot.edit_command(name), remedy=filled)
