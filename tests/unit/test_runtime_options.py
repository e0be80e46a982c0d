"""The runtime's options from environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from litellm_systemd.env import variables
from litellm_systemd.errors import InputError
from litellm_systemd.runtime.http.limits import Limits
from litellm_systemd.runtime.options import Options, read_options


def test_defaults() -> None:
    """Without variables, and with empty ones, the defaults of the table apply."""
    names = ("HOST", "PORT", "NUM_WORKERS", "KEEPALIVE_TIMEOUT", "DRAIN_TIMEOUT", "RUNTIME_DIRECTORY")
    options = read_options(Path("/etc/c.yaml"), {})
    assert options == read_options(Path("/etc/c.yaml"), dict.fromkeys(names, ""))
    assert (options.host, options.port) == ("127.0.0.1", 4000)
    assert options.workers >= 1
    assert options.drain_timeout == variables.DRAIN_TIMEOUT.default
    assert options.runtime_directory is None


def test_variables() -> None:
    """Every limit can be set."""
    options = read_options(
        Path("/etc/c.yaml"),
        {
            "HOST": "::1",
            "PORT": "80",
            "TRUSTED_PROXIES": "10.0.1.7, 10.0.2.0/24,2001:DB8::/32",
            "NUM_WORKERS": " 3 ",
            "KEEPALIVE_TIMEOUT": "10",
            "START_TIMEOUT": "20",
            "DRAIN_TIMEOUT": "0",
            "LAME_DUCK_TIMEOUT": "1.5",
            "WATCHDOG_TIMEOUT": "8",
            "MAX_REQUESTS_BEFORE_RESTART": "1000",
            "MAX_REQUESTS_BEFORE_RESTART_JITTER": "50",
            "WORKER_MEMORY_LIMIT": "700",
            "MAX_REQUEST_SIZE": "5",
            "MAX_HEADER_SIZE": "6",
            "HEADER_TIMEOUT": "7.5",
            "MIN_UPLOAD_RATE": "8",
            "MAX_CONNECTIONS": "9",
            "MAX_CONNECTIONS_PER_ADDRESS": "0",
            "JSON_LOGS": "True",
            "ACCESS_LOG": "yes",
            "RUNTIME_DIRECTORY": "/run/litellm:/run/other",
        },
    )
    assert options == Options(
        config=Path("/etc/c.yaml"),
        host="::1",
        port=80,
        trusted_proxies=("10.0.1.7/32", "10.0.2.0/24", "2001:db8::/32"),
        workers=3,
        keepalive_timeout=10,
        start_timeout=20,
        drain_timeout=0,
        lame_duck_timeout=1.5,
        watchdog_timeout=8,
        max_requests=1000,
        jitter=50,
        memory_limit=700,
        limits=Limits(5 * 1024**2, 6 * 1024, 7.5, 8, 9, 0),
        json_logs=True,
        access_log=True,
        runtime_directory=Path("/run/litellm"),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "http"),
        ("NUM_WORKERS", "0"),
        ("NUM_WORKERS", "2.5"),
        ("NUM_WORKERS", "²"),
        ("DRAIN_TIMEOUT", "nan"),
        ("DRAIN_TIMEOUT", "inf"),
        ("DRAIN_TIMEOUT", "-1"),
        ("WATCHDOG_TIMEOUT", "1"),
        ("MAX_REQUESTS_BEFORE_RESTART", "0"),
        ("MAX_REQUESTS_BEFORE_RESTART_JITTER", "10%"),
        ("WORKER_MEMORY_LIMIT", "2"),
        ("JSON_LOGS", "ja"),
        ("ACCESS_LOG", "2"),
        ("PORT", "0"),
        ("HOST", "gateway.example"),
        ("TRUSTED_PROXIES", "*"),
        ("TRUSTED_PROXIES", "10.0.0.1,proxy.example"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "fe80::1%eth0"),
        ("LITELLM_LOG", "LOUD"),
    ],
)
def test_invalid_values(name: str, value: str) -> None:
    """An invalid value is refused with the name of the variable and the remedy."""
    with pytest.raises(InputError) as caught:
        read_options(Path("c.yaml"), {name: value})
    assert caught.value.message.startswith(f"{name}={value} is ")
    assert f"or remove {name}" in caught.value.hint
    assert caught.value.code == 78


@pytest.mark.parametrize(
    ("word", "on"),
    [
        ("true", True),
        ("1", True),
        ("YES", True),
        ("On", True),
        ("off", False),
        ("False", False),
        ("0", False),
        ("no", False),
        ("", False),
    ],
)
def test_switches(word: str, on: bool) -> None:
    """A switch accepts the usual words in any case, and is off if it is empty."""
    options = read_options(Path("c.yaml"), {"JSON_LOGS": f" {word} ", "ACCESS_LOG": word})
    assert (options.json_logs, options.access_log) == (on, on)


@pytest.mark.parametrize(("requests", "jitter"), [("1000", 100), ("9", 0), ("", 0)])
def test_default_jitter(requests: str, jitter: int) -> None:
    """The default jitter is a tenth of the limit."""
    assert read_options(Path("c.yaml"), {"MAX_REQUESTS_BEFORE_RESTART": requests}).jitter == jitter


@pytest.mark.parametrize("seconds", [2.0, 6.0, 30.0, 600.0])
def test_hung_worker_is_detected_before_systemds_watchdog(seconds: float) -> None:
    """A hung worker is detected, after several missed heartbeats, before systemd's own watchdog expires."""
    options = Options(config=Path("c.yaml"), watchdog_timeout=seconds)
    assert options.hang_limit < options.watchdog_timeout
    assert options.beat_interval * 4 <= options.hang_limit
