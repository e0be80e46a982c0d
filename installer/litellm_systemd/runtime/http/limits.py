"""What a client may send before its key is checked, and how slowly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from litellm_systemd.env import variables

_KIB, _MIB = 1024, 1024**2


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes are in bytes, times in seconds, the rate in bytes per second. 0 is no limit.

    The defaults are those of an AWS load balancer for headers (64 KiB, 16 KiB for one, 100 of them), of Anthropic's
    API for bodies (32 MB), of gunicorn for the time of a header (30 s), and of Apache's mod_reqtimeout for the rate.
    """

    body_size: int = variables.MAX_REQUEST_SIZE.default * _MIB
    header_size: int = variables.MAX_HEADER_SIZE.default * _KIB
    header_timeout: float = variables.HEADER_TIMEOUT.default
    upload_rate: int = variables.MIN_UPLOAD_RATE.default
    connections: int = variables.MAX_CONNECTIONS.default
    connections_per_address: int = variables.MAX_CONNECTIONS_PER_ADDRESS.default

    @property
    def line_size(self) -> int:
        """The limit of the request line and of one header."""
        return self.header_size // 4

    def upload_time(self, size: int) -> float:
        """The seconds that a client has to send `size` bytes of a body. Only if there is a rate."""
        return (self.header_timeout or variables.HEADER_TIMEOUT.default) + size / self.upload_rate


def read_limits(environ: Mapping[str, str]) -> Limits:
    """The limits from the service's environment. Raises InputError for a value that cannot be used."""
    return Limits(
        body_size=variables.MAX_REQUEST_SIZE.read(environ) * _MIB,
        header_size=variables.MAX_HEADER_SIZE.read(environ) * _KIB,
        header_timeout=variables.HEADER_TIMEOUT.read(environ),
        upload_rate=variables.MIN_UPLOAD_RATE.read(environ),
        connections=variables.MAX_CONNECTIONS.read(environ),
        connections_per_address=variables.MAX_CONNECTIONS_PER_ADDRESS.read(environ),
    )
