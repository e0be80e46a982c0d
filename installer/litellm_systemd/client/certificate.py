"""The certificate of a running gateway: the one that it serves, and its end."""

from __future__ import annotations

import ssl
from datetime import datetime

from litellm_systemd.env.aws import render_left
from litellm_systemd.env.tls import WARN_BEFORE, Certificate, is_expired, parse_certificate
from litellm_systemd.report.report import Check, Outcome

#: What makes renewed files take effect.
RELOAD = "sudo systemctl reload litellm"


def served_certificate(host: str, port: int, timeout: float) -> Certificate:
    """The certificate that a program serves, trusted or not.

    Raises:
        OSError: nothing listens there, or it does not speak TLS.
    """
    return parse_certificate(ssl.get_server_certificate((host, port), timeout=timeout))


def judge_certificate(not_after: datetime, now: datetime) -> Check:
    """Check the end of a certificate: a warning in the 14 days before it, a failure afterwards.

    Both times have a time zone.
    """
    left, end = not_after - now, f"{not_after:%Y-%m-%d %H:%M} UTC"
    remedy = f"Renew it, then run: {RELOAD}"
    if is_expired(not_after, now):
        return Check("certificate", Outcome.FAILED, f"expired on {end}: clients refuse it", remedy)
    detail = f"valid until {end}, {render_left(left)}"
    return Check("certificate", Outcome.WARNING if left <= WARN_BEFORE else Outcome.OK, detail, remedy)
