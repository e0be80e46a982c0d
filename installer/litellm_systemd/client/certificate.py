"""The certificate of a running gateway: the one that it serves, and its end."""

from __future__ import annotations

import ssl
from datetime import datetime

from litellm_systemd.env.aws import render_left
from litellm_systemd.env.tls import WARN_BEFORE, Certificate, parse_certificate, render_period
from litellm_systemd.report.report import Check, Outcome

#: What makes renewed files take effect.
RELOAD = "sudo systemctl reload litellm"
#: What to do about a certificate that is not valid yet.
CLOCK = "timedatectl    # if the clock of this host is right, have the certificate issued again"


def served_certificate(host: str, port: int, timeout: float) -> Certificate:
    """The certificate that a program serves, trusted or not.

    Raises:
        OSError: nothing listens there, or it does not speak TLS.
    """
    return parse_certificate(ssl.get_server_certificate((host, port), timeout=timeout))


def judge_certificate(not_before: datetime, not_after: datetime, now: datetime) -> Check:
    """Check the period of a certificate: a warning in its last 14 days or third, a failure outside of it.

    All times have a time zone.
    """
    left, detail = not_after - now, render_period(not_before, not_after, now)
    if now < not_before:
        detail += f", and it is {now:%Y-%m-%d %H:%M} here: clients refuse it"
        return Check("certificate", Outcome.FAILED, detail, f"{CLOCK}; then: {RELOAD}")
    remedy = f"Renew it, then run: {RELOAD}"
    if now >= not_after:
        return Check("certificate", Outcome.FAILED, f"{detail}: clients refuse it", remedy)
    is_near = left <= min(WARN_BEFORE, (not_after - not_before) / 3)
    outcome = Outcome.WARNING if is_near else Outcome.OK
    return Check("certificate", outcome, f"{detail}, {render_left(left)}", remedy)
