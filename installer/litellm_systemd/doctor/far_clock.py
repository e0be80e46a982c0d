"""What time it is elsewhere: the header Date of an answer that costs nothing, asked for as the service would ask."""

from __future__ import annotations

import base64
import http.client
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, unquote, urlsplit

from litellm_systemd.aws.profiles import proxies_for

#: Seconds for a connection, and for each answer on it.
_TIMEOUT = 2.0


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
