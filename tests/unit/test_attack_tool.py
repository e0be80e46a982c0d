"""What the attack tool may attack, and how much."""

from __future__ import annotations

import pytest

from tests.attacks.__main__ import main


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--host", "192.0.2.1"), "192.0.2.1 is not an IP address of loopback"),
        (("--host", "localhost"), "localhost is not an IP address of loopback"),
        (("--host", "::ffff:192.0.2.1"), "::ffff:192.0.2.1 is not an IP address of loopback"),
        (("--source", "0.0.0.0"), "0.0.0.0 is not an IP address of loopback"),
        (("--unix", "/dev/null"), "/dev/null is not a UNIX socket"),
        (("--port", "0"), "0 is not a TCP port"),
        (("--seconds", "1000"), "seconds=1000.0 is not from 0 to 120.0"),
        (("--connections", "100000"), "connections=100000 is not from 0 to 4000"),
        (("--bytes", "-1"), "bytes=-1 is not from 0 to 268435456"),
    ],
)
def test_refuses(options: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The tool attacks nothing but this machine, and is bounded."""
    with pytest.raises(SystemExit) as caught:
        main(["--attack", "silent", "--port", "9", *options])
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err
