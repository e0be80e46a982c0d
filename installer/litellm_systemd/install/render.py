"""Render the text of each file that is installed, and read the interval of the timer that verifies.

Templates hold every line that is the same on all hosts, and only substitute the others; what varies is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined

from litellm_systemd import contract
from litellm_systemd.env.database import is_own_url, parse_url
from litellm_systemd.env.dotenv import render_assignments
from litellm_systemd.env.load_balancer import STOP_MARGIN
from litellm_systemd.env.metrics import MetricsAddress
from litellm_systemd.env.redis import find_redis
from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.env.settings import Settings
from litellm_systemd.env.tls import TlsFiles
from litellm_systemd.env.variables import is_loopback
from litellm_systemd.errors import UsageError
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import FileState, HostState
from litellm_systemd.host.time_span import parse_time_span
from litellm_systemd.report.exports import build_page
from litellm_systemd.report.report import Report
from litellm_systemd.report.spend_page import SpendPage
from litellm_systemd.resources import read_page, read_template

#: StartLimitBurst= and RestartSec= of litellm.service.j2.
START_LIMIT_BURST = 20
RESTART_DELAY = 1
#: Seconds between two restarts at most, where systemd can back off (254).
LONGEST_RESTART_DELAY = 60
#: Seconds that systemd waits longer for readiness than the service does, which can report what is missing.
START_MARGIN = 15

#: Directives of the sandbox and the first version of systemd that knows each; an older one would warn at each load.
NEWER_SANDBOX = ((248, "PrivateIPC=yes"), (249, "SocketBindDeny=any"))
_ENGINES = ((249, "SocketBindAllow=ipv4:tcp"),)

#: What litellm.env says of the secrets.
_PLAIN_NOTE = "It holds keys: root only."
_ENCRYPTED_NOTE = f"The keys are in {contract.SECRETS_FILE}, encrypted."
_DENIAL = "IPAddressDeny="

OFF = "off"
#: Seconds. A check takes one or two.
_SHORTEST, _LONGEST = 60, 31 * 86_400


def render_template(name: str, **values: object) -> str:
    """Fill the template of that file name.

    Raises:
        jinja2.UndefinedError: the template names a value that is missing.
    """
    # Not HTML: escaping would break the units.
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701
    return environment.from_string(read_template(name)).render(values)


def render_service(
    layout: Layout,
    settings: Settings,
    systemd: int,
    version: str,
    denied: Sequence[str] = (),
    *,
    encrypted: bool = False,
    database: str = "",
    salted: bool = False,
) -> str:
    """Return the text of litellm.service for that version of systemd (247 or later).

    `denied`: addresses that the service may not connect to. `encrypted`: the secrets are in an encrypted credential.
    `database`: its URL; the workers start engines then, which listen on ports of the loopback interface.
    `salted`: the salt key has a file of its own.
    """
    start_limit = ceil(settings.start_timeout) + START_MARGIN
    delay = LONGEST_RESTART_DELAY if systemd >= 254 else RESTART_DELAY
    sandbox = (*NEWER_SANDBOX, *_ENGINES) if database else NEWER_SANDBOX
    is_local = bool(database) and not is_reference(database) and parse_url(database).is_local
    text = render_template(
        "litellm.service.j2",
        version=version,
        prefix=layout.prefix,
        python=f"{layout.current}/bin/python",
        start_timeout=start_limit,
        stop_timeout=ceil(settings.deregistration_delay + settings.drain_timeout) + STOP_MARGIN,
        after_database=(f" {contract.POSTGRES}" if is_local else "") + _after_redis(settings.environment),
        wanted_database=f" {contract.POSTGRES}" if is_own_url(database) else "",
        watchdog_timeout=ceil(settings.watchdog_timeout),
        start_limit_interval=START_LIMIT_BURST * (delay + start_limit) + 1,
        restart_backoff=_restart_backoff(systemd),
        as_root="+" if settings.tls else "",
        # Without a dash: with another salt key, LiteLLM would store what no later start can read.
        salt=f"\nEnvironmentFile={layout.salt}" if salted else "",
        credentials=_credentials(layout, settings.tls, encrypted=encrypted),
        metrics=_metrics() if settings.metrics else "",
        denied_addresses=f"{_DENIAL}{' '.join(denied)}" if denied else "",
        newer_sandbox="\n".join(line for since, line in sandbox if systemd >= since),
    )
    return _without_gaps(text)


def _after_redis(values: Mapping[str, str]) -> str:
    """The units of a Redis on this host. The service starts after it, and counts there from the first request."""
    if any(is_reference(value) for name, value in values.items() if name.startswith("REDIS_")):
        return ""
    found = find_redis(values)
    return f" {' '.join(contract.REDIS_UNITS)}" if found is not None and found[0].is_local else ""


def _credentials(layout: Layout, files: TlsFiles | None, *, encrypted: bool) -> str:
    lines = [f"LoadCredentialEncrypted={contract.SECRETS_CREDENTIAL}:{layout.secrets}"] if encrypted else []
    if files is not None:
        lines.append(
            "# Of HTTPS. A reload passes renewed files to the service, as root (+), which alone may read them."
        )
        lines += [_credential(contract.TLS_CERTIFICATE, files.certificate), _credential(contract.TLS_KEY, files.key)]
    return "\n".join(lines)


def _credential(name: str, path: Path) -> str:
    # % starts a specifier (systemd.unit(5)).
    return f"LoadCredential={name}:{str(path).replace('%', '%%')}"


def _metrics() -> str:
    # Sockets= implies Wants=: a metrics port that is taken does not stop the service. The folder may be missing (-).
    return f"Sockets={contract.METRICS_SOCKET}\nReadWritePaths=-{contract.METRICS_DIRECTORY}"


def without_denial(unit: bytes) -> bytes:
    """Return the text of litellm.service without the addresses that it denies, as `render_service` writes it."""
    # The line stays, empty: with another text, the next install would restart the service.
    return re.sub(rb"(?m)^%b.*$" % _DENIAL.encode(), b"", unit)


def _restart_backoff(systemd: int) -> str:
    if systemd < 254:
        return ""
    return f"RestartSteps=5\nRestartMaxDelaySec={LONGEST_RESTART_DELAY}"


def render_socket(layout: Layout, settings: Settings) -> str:
    text = render_template(
        "litellm.socket.j2",
        prefix=layout.prefix,
        python=f"{layout.current}/bin/python",
        listen=settings.listen,
        free_bind=_free_bind(settings.host),
    )
    return _without_gaps(text)


def render_metrics_socket(layout: Layout, address: MetricsAddress) -> str:
    python = f"{layout.current}/bin/python"
    text = render_template(
        "litellm-metrics.socket.j2",
        prefix=layout.prefix,
        check=f"ExecStartPre={python} -I -m {contract.RUNTIME} port --metrics {_quote(address.listen)}",
        # % starts a specifier (systemd.unit(5)).
        listen=address.listen.replace("%", "%%"),
        more="RemoveOnStop=yes" if address.path else _free_bind(address.host),
    )
    return _without_gaps(text)


def _quote(argument: str) -> str:
    """An argument of a command line of a unit (systemd.service(5))."""
    if re.fullmatch(r"[\w./:\[\]-]+", argument):
        return argument
    text = argument.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'.replace("%", "%%").replace("$", "$$")


def _free_bind(host: str) -> str:
    # sockets.target starts before the network, when the address of an interface doesn't exist yet.
    is_early = not is_loopback(host) and host not in ("0.0.0.0", "::")  # noqa: S104
    return "FreeBind=yes" if is_early else ""


def render_verify_service(layout: Layout, settings: Settings, version: str, *, encrypted: bool = False) -> str:
    """Return the text of litellm-verify.service, which checks the service once. `encrypted`: see `render_service`."""
    credentials = [_credentials(layout, None, encrypted=encrypted)]
    if settings.tls is not None:
        credentials.append(_credential(contract.TLS_CERTIFICATE, settings.tls.certificate))
    result = f"# For the metrics.\nReadWritePaths=-{layout.verified}" if settings.metrics else ""
    text = render_template(
        "litellm-verify.service.j2",
        version=version,
        prefix=layout.prefix,
        python=f"{layout.current}/bin/python",
        credentials="\n".join(filter(None, credentials)),
        result=result,
    )
    return _without_gaps(text)


def render_verify_timer(every: str) -> str:
    """Return the text of litellm-verify.timer; `every` is a time span of systemd.time(7)."""
    return render_template("litellm-verify.timer.j2", every=every)


def render_sysusers() -> str:
    """Return the text of sysusers.d/litellm.conf."""
    return render_template("sysusers.conf.j2")


def render_tmpfiles(folders: Sequence[FileState]) -> str:
    """Return the text of tmpfiles.d/litellm.conf, which creates these folders with their mode and owner."""
    lines = [f"d {item.path} {item.mode:04o} {item.owner} {item.group} -" for item in folders]
    return render_template("tmpfiles.conf.j2", folders="\n".join(lines))


def render_environment(variables: Mapping[str, str], *, encrypted: bool = False) -> str:
    """Return the text of litellm.env: these variables, quoted for systemd.

    `encrypted`: the secrets are not among them.
    """
    assignments = render_assignments(variables).rstrip("\n")
    return render_template(
        "litellm.env.j2", assignments=assignments, note=_ENCRYPTED_NOTE if encrypted else _PLAIN_NOTE
    )


def render_salt(variables: Mapping[str, str]) -> str:
    """Return the text of salt.env: the salt key, quoted for systemd."""
    return render_template("salt.env.j2", assignments=render_assignments(variables).rstrip("\n"))


def render_command(layout: Layout, version: str) -> str:
    """Return the text of /usr/local/bin/litellmctl: a shell script, so that it can report a missing Python."""
    return render_template("litellmctl.j2", version=version, current=layout.current)


def render_page(report: Report) -> str:
    """Return the page of `verify --html`: one file, which loads nothing and runs no script."""
    return _render_html("report.html.j2", build_page(report))


def render_spend(page: SpendPage) -> str:
    """Return the page of `spend --html`, of the same kind."""
    return _render_html("spend.html.j2", page)


def _render_html(template: str, page: object) -> str:
    # HTML with text from gateways and models: escape it.
    environment = Environment(
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(read_page),
    )
    return environment.get_template(template).render(page=page) + "\n"


def _without_gaps(text: str) -> str:
    """Remove the lines that empty values left: at most one empty line follows another line."""
    lines: list[str] = []
    for line in text.splitlines():
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).rstrip() + "\n"


def check_interval(text: str) -> str:
    """Return `text` if it is `off` or a time span that systemd reads as a person would.

    Raises:
        UsageError: it is not a time span, or is too short or too long.
    """
    span = "".join(text.split()).lower()
    if span == OFF:
        return OFF
    # Without a unit, systemd reads seconds where a person may mean minutes.
    seconds = parse_time_span(span) if span[-1:].isalpha() else None
    if seconds is None or not _SHORTEST <= seconds <= _LONGEST:
        raise UsageError(f"--verify-every {text}: not a time from 1min to 31d", "Such as 15min, 1h30min, or off.")
    return span


def find_interval(layout: Layout, host: HostState) -> str:
    """The interval of the installed timer; `off` if litellmctl installed none."""
    found = host.files.get(layout.verify_timer)
    if found is None or layout.verify_timer not in host.manifest:
        return OFF
    spans = re.findall(r"^OnUnitActiveSec=(.+)$", found.content.decode(errors="replace"), re.MULTILINE)
    # A timer that was edited to another form is kept: see `FileState.keep_edits`.
    return spans[-1].strip() if spans else "15min"
