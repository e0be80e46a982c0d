"""The clock: is it right, compared with the installed files and with AWS, and is it synchronized?"""

from __future__ import annotations

import base64
import http.client
import ssl
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, unquote, urlsplit

from litellm_systemd.aws.profiles import proxies_for
from litellm_systemd.command import run
from litellm_systemd.doctor.cause import Cause, Finding, detects
from litellm_systemd.doctor.check_network import endpoints_of
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.report.report import Outcome

#: Seconds for a connection, and for each response on it.
_TIMEOUT = 2.0
#: Seconds: AWS refuses a signature whose time is off by more than five minutes.
_MAX_SKEW = 240

CLOCK = Cause(
    "host-clock",
    "The clock is wrong. AWS rejects requests whose time is off by more than five minutes, and TLS certificates seem"
    " expired or not yet valid.",
    "sudo timedatectl set-ntp true    # or: sudo systemctl restart chronyd",
    requires=("files-not-installed",),
)


@detects(CLOCK)
def detect_host_clock(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a clock that is behind the installed files, or that differs from the clock of AWS."""
    made = snapshot.file(snapshot.layout.service)
    if made is not None:
        ahead = snapshot.layout.real(snapshot.layout.service).lstat().st_mtime - time.time()
        if ahead > _MAX_SKEW:
            yield CLOCK.finding(f"this host's time is {_now()}, {ahead / 60:.0f} minutes before the installation")
            return
    address = next(iter(endpoints_of(snapshot.gateway, snapshot.environment)), None)
    offset = None if address is None else read_offset(address, snapshot.environment)
    if offset is not None and abs(offset) > _MAX_SKEW:
        direction = "behind" if offset > 0 else "ahead of"
        yield CLOCK.finding(f"this host's time is {_now()}, {abs(offset) / 60:.0f} minutes {direction} {address}")


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


UNSYNCHRONIZED = Cause(
    "host-clock-free",
    "Nothing synchronizes the clock: it drifts until AWS rejects the service's signatures.",
    "sudo timedatectl set-ntp true",
    outcome=Outcome.WARNING,
    requires=("host-systemd-absent", "host-systemd-silent"),
)


@detects(UNSYNCHRONIZED)
def detect_host_clock_free(_snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a clock without synchronization. In a container the host is responsible for it."""
    if run(("systemd-detect-virt", "--quiet", "--container"), check=False, timeout=2).returncode == 0:
        return
    answer = run(("timedatectl", "show", "--property=NTPSynchronized", "--property=NTP"), check=False, timeout=2.5)
    if "NTPSynchronized=no" in answer.stdout.splitlines() and "NTP=no" in answer.stdout.splitlines():
        yield UNSYNCHRONIZED.finding("timedatectl: NTP=no, NTPSynchronized=no")


def read_offset(url: str, environ: Mapping[str, str]) -> float | None:
    """Seconds that the clock of an HTTP server is ahead of ours; None if it does not answer or sends no date.

    `url` begins with `http` or `https`. `environ` names the proxy, as for the service.
    """
    parts = urlsplit(url)
    try:
        connection = _connect(parts, urlsplit(proxies_for(parts.hostname or "", environ).get(parts.scheme, "")))
        try:
            # Unsigned, so AWS rejects it and bills nothing. The response still has a date.
            connection.request("GET", "/")
            date = connection.getresponse().getheader("date")
        finally:
            connection.close()
        return parsedate_to_datetime(date).timestamp() - time.time() if date else None
    except (OSError, http.client.HTTPException, ValueError):
        return None


def _connect(url: SplitResult, proxy: SplitResult) -> http.client.HTTPConnection:
    if url.scheme != "https":
        return http.client.HTTPConnection(url.hostname or "", url.port, timeout=_TIMEOUT)
    # Certificates are not verified, because none seems valid to a wrong clock. Only the date is used.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if not proxy.hostname:
        return http.client.HTTPSConnection(url.hostname or "", url.port, timeout=_TIMEOUT, context=context)
    connection = http.client.HTTPSConnection(proxy.hostname, proxy.port or 80, timeout=_TIMEOUT, context=context)
    connection.set_tunnel(url.hostname or "", url.port or 443, _proxy_headers(proxy))
    return connection


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
