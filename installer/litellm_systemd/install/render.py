"""Templates and settings to the text of each file. Templates only substitute; what varies is decided here."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from jinja2 import Environment, StrictUndefined

from litellm_systemd import contract
from litellm_systemd.env.environment_file import render_assignments
from litellm_systemd.env.settings import Settings
from litellm_systemd.env.variables import is_loopback
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import FileState
from litellm_systemd.report.page import build_page
from litellm_systemd.report.report import Report
from litellm_systemd.resources import read_page, read_template

#: systemd counts starts by hand as well: few enough to end a loop, more than a person makes in an hour.
START_LIMIT_BURST = 20
RESTART_DELAY = 1
#: Where systemd can back off (254), restarts are this many seconds apart in the end.
LONGEST_RESTART_DELAY = 60
#: Seconds between the end of the grace limit and SIGKILL: for idle connections, the cut and ExecStopPost.
STOP_MARGIN = 30
#: Seconds that systemd waits longer for readiness than the service itself, which can say what was missing.
START_MARGIN = 15

#: Directives of the sandbox by the first version that knows them; an older one would warn at each load.
NEWER_SANDBOX = (
    (248, "PrivateIPC=yes"),
    (249, "SocketBindDeny=any"),
)


def render_template(name: str, **values: object) -> str:
    """Fill a template.

    Raises:
        jinja2.UndefinedError: the template names a value that isn't given.
    """
    # Not HTML: escaping would break the units.
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701
    return environment.from_string(read_template(name)).render(values)


def render_service(layout: Layout, settings: Settings, systemd: int, version: str) -> str:
    """The text of litellm.service for that version of systemd (247 and up)."""
    start_limit = ceil(settings.start_timeout) + START_MARGIN
    delay = LONGEST_RESTART_DELAY if systemd >= 254 else RESTART_DELAY
    text = render_template(
        "litellm.service.j2",
        version=version,
        socket_unit=contract.SOCKET,
        prefix=layout.prefix,
        user=contract.SERVICE_USER,
        python=f"{layout.current}/bin/python",
        config=layout.config_link,
        environment_file=layout.environment_file,
        service_type="notify",
        exec_reload=f"ExecReload={layout.current}/bin/python -I -m litellm_systemd.runtime reload --pid $MAINPID",
        start_timeout=start_limit,
        stop_timeout=ceil(settings.drain_timeout) + STOP_MARGIN,
        watchdog_timeout=ceil(settings.watchdog_timeout),
        start_limit_burst=START_LIMIT_BURST,
        start_limit_interval=START_LIMIT_BURST * (delay + start_limit) + 1,
        restart_delay=RESTART_DELAY,
        restart_backoff=_restart_backoff(systemd),
        newer_sandbox="\n".join(line for since, line in NEWER_SANDBOX if systemd >= since),
    )
    return _without_gaps(text)


def _restart_backoff(systemd: int) -> str:
    if systemd < 254:
        return ""
    return f"RestartSteps=5\nRestartMaxDelaySec={LONGEST_RESTART_DELAY}"


def render_socket(layout: Layout, settings: Settings, version: str) -> str:
    """The text of litellm.socket."""
    # sockets.target comes before the network: an address of an interface isn't there yet.
    early = not is_loopback(settings.host) and settings.host not in ("0.0.0.0", "::")  # noqa: S104
    text = render_template(
        "litellm.socket.j2",
        version=version,
        prefix=layout.prefix,
        python=f"{layout.current}/bin/python",
        listen=settings.listen,
        free_bind="FreeBind=yes" if early else "",
    )
    return _without_gaps(text)


def render_verify_service(layout: Layout, version: str) -> str:
    """The text of litellm-verify.service, which checks the service once."""
    return render_template(
        "litellm-verify.service.j2",
        version=version,
        service_unit=contract.SERVICE,
        prefix=layout.prefix,
        python=f"{layout.current}/bin/python",
    )


def render_verify_timer(every: str) -> str:
    """The text of litellm-verify.timer; `every` is a time span of systemd.time(7)."""
    return render_template("litellm-verify.timer.j2", every=every, service_unit=contract.SERVICE)


def render_sysusers(layout: Layout) -> str:
    """The text of sysusers.d/litellm.conf."""
    return render_template("sysusers.conf.j2", user=contract.SERVICE_USER, state=layout.state)


def render_tmpfiles(folders: Sequence[FileState]) -> str:
    """The text of tmpfiles.d/litellm.conf, which creates these folders with their mode and owner."""
    lines = [f"d {item.path} {item.mode:04o} {item.owner} {item.group} -" for item in folders]
    return render_template("tmpfiles.conf.j2", folders="\n".join(lines))


def render_environment(settings: Settings) -> str:
    """The text of litellm.env: every variable of the settings, quoted for systemd."""
    assignments = render_assignments(settings.environment).rstrip("\n")
    return render_template("litellm.env.j2", assignments=assignments)


def render_command(layout: Layout, version: str) -> str:
    """The text of /usr/local/bin/litellmctl: a script, which can speak when the release's Python can't."""
    return render_template("litellmctl.j2", version=version, current=layout.current)


def render_page(report: Report) -> str:
    """The page of `verify --html`: one file, which loads nothing and runs no script."""
    # Here it is HTML, and what gateways and models said stands in it.
    environment = Environment(undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(read_page()).render(page=build_page(report)) + "\n"


def _without_gaps(text: str) -> str:
    """Drop the lines that an empty value left behind: no more than one empty line stands together."""
    lines: list[str] = []
    for line in text.splitlines():
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).rstrip() + "\n"
