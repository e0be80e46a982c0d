"""The clock: compared with the installed files and with AWS, and whether it is synchronized."""

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
from litellm_systemd.doctor.cause import Cause, Finding, looks_for
from litellm_systemd.doctor.check_network import endpoints_of
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.report.report import Outcome

#: Seconds for a connection, and for each answer on it.
_TIMEOUT = 2.0
#: Seconds: AWS refuses a signature whose time is off by more than five minutes.
_SKEW = 240

CLOCK = Cause(
    "host-clock",
    "The clock is wrong. AWS refuses requests signed at a time that is off by more than five minutes, and TLS"
    " certificates seem not yet valid or expired.",
    "timedatectl set-ntp true    # or: systemctl restart chronyd",
    needs=("files-not-installed",),
)


@looks_for(CLOCK)
def clock(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the clock can be right: nothing was installed in the future, and AWS has the same time."""
    made = snapshot.file(snapshot.layout.service)
    if made is not None:
        ahead = snapshot.layout.real(snapshot.layout.service).lstat().st_mtime - time.time()
        if ahead > _SKEW:
            yield CLOCK.found(f"it is {_now()} here, {ahead / 60:.0f} minutes before the service was installed")
            return
    address = next(iter(endpoints_of(snapshot.gateway, snapshot.environment)), None)
    offset = None if address is None else read_offset(address, snapshot.environment)
    if offset is not None and abs(offset) > _SKEW:
        direction = "behind" if offset > 0 else "ahead of"
        yield CLOCK.found(f"it is {_now()} here, {abs(offset) / 60:.0f} minutes {direction} {address}")


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


UNSYNCHRONIZED = Cause(
    "host-clock-free",
    "Nothing keeps the clock right: it drifts until AWS refuses the service's signatures.",
    "timedatectl set-ntp true",
    outcome=Outcome.WARNING,
    needs=("host-systemd-absent", "host-systemd-silent"),
)


@looks_for(UNSYNCHRONIZED)
def clock_free(_scene: Snapshot) -> Iterator[Finding]:
    """Whether the clock is synchronized. In a container that is the business of its host."""
    if run(("systemd-detect-virt", "--quiet", "--container"), check=False, timeout=2).returncode == 0:
        return
    answer = run(("timedatectl", "show", "--property=NTPSynchronized", "--property=NTP"), check=False, timeout=2.5)
    if "NTPSynchronized=no" in answer.stdout.splitlines() and "NTP=no" in answer.stdout.splitlines():
        yield UNSYNCHRONIZED.found("timedatectl: NTP=no, NTPSynchronized=no")


def read_offset(url: str, environ: Mapping[str, str]) -> float | None:
    """Seconds that the clock of an `http` or `https` server is ahead of ours; None if it gives no answer.

    That it gives none isn't about the clock. `environ` names the proxy, as for the service.
    """
    parts = urlsplit(url)
    try:
        connection = _connect(parts, urlsplit(proxies_for(parts.hostname or "", environ).get(parts.scheme, "")))
        try:
            # Unsigned, so that it is refused and not billed. The refusal has a date too.
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
    # Not verified: with a clock that is wrong no certificate seems valid, and nothing is believed but the date.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if not proxy.hostname:
        return http.client.HTTPSConnection(url.hostname or "", url.port, timeout=_TIMEOUT, context=context)
    connection = http.client.HTTPSConnection(proxy.hostname, proxy.port or 80, timeout=_TIMEOUT, context=context)
    connection.set_tunnel(url.hostname or "", url.port or 443, _sign_in(proxy))
    return connection


def _sign_in(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
