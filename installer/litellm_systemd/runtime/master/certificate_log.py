"""One error a day in the journal while the service serves a certificate that has expired or is not valid yet."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from litellm_systemd.env.tls import Certificate

_INTERVAL = timedelta(days=1)


class CertificateLog:
    """Logs that a certificate has expired or is not valid yet. `file`: where it is from, as `VARIABLE=PATH`."""

    def __init__(self, error: Callable[[str], None], file: str) -> None:
        self._error, self._file = error, file
        self._logged_at: datetime | None = None

    def tick(self, certificate: Certificate, now: datetime) -> None:
        """Log it if the last line is old enough. `now` has a time zone."""
        is_due = self._logged_at is None or abs(now - self._logged_at) >= _INTERVAL
        if is_due and not certificate.is_valid(now):
            self._logged_at = now
            self._error(f"{self._file}: clients refuse the certificate: {certificate.render(now)}")
