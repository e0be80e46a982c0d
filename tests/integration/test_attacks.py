"""Attacks without a key against the real service: each has an effect without its protection, and none with it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.attacks import client
from tests.attacks.attacks import ATTACKS
from tests.integration import litellm_process
from tests.integration.runtime_service import CONFIG, KEY, Service

#: Short timeouts, so that they are over before the attack is, and few connections: the body of a refused request has
#: 30 s, if the limit of connections is not reached.
_PROTECTED = {"HEADER_TIMEOUT": "1", "KEEPALIVE_TIMEOUT": "1", "MAX_CONNECTIONS": "100", "MAX_REQUEST_SIZE": "4"}
_UNPROTECTED = {
    "API_DOCS": "true",
    "HEADER_TIMEOUT": "0",
    "KEEPALIVE_TIMEOUT": "600",
    "MAX_CONNECTIONS": "0",
    "MAX_HEADER_SIZE": "0",
    "MAX_REQUEST_SIZE": "0",
    "MIN_UPLOAD_RATE": "0",
    "NUM_WORKERS": "1",
}
#: Attacks that run at the same time, and the most seconds without and with the protection. On a busy machine, what
#: ends when it has had its effect, or when its connections are closed, needs more than a few seconds.
_GROUPS = {
    ("silent", "slow-headers", "slow-bodies"): (3.0, 4.0),
    ("endless-header", "endless-headers", "many-headers"): (30.0, 2.0),
    ("large-bodies",): (120.0, 2.0),
    ("pages", "disconnect", "trailer"): (1.5, 1.5),
    ("flood",): (0.0, 1.5),
    ("guesses",): (0.0, 2.0),
}
#: Attacks whose protection no variable switches off, or whose effect the attacker does not see.
_NO_SWITCH = {"disconnect", "flood", "guesses", "trailer"}
#: Of one body: more than twice its limit, up to which a refused one is dropped, and the buffers of sockets.
_BYTES = 64 * 2**20
#: Seconds that a client with a key may wait while the machine is busy with other tests too.
_PATIENCE = 20.0
_GROWTH = 1.5


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("protected"), **_PROTECTED) as service:
        service.await_ready()
        # The first requests of a worker import and allocate, which is no effect of an attack.
        end = time.monotonic() + 1
        client.watch(_describe(service), lambda: time.monotonic() > end)
        yield service


@pytest.fixture(scope="module")
def unprotected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[client.Service]:
    with Service(tmp_path_factory.mktemp("unprotected"), **_UNPROTECTED) as service:
        service.await_ready()
        yield _describe(service)


def _attack(service: client.Service, names: Iterable[str], seconds: float, *options: str) -> client.Measured:
    return client.attack(service, names, "--seconds", str(seconds), "--bytes", str(_BYTES), *options)


def _describe(service: Service) -> client.Service:
    return client.Service(service.port, (service.process.pid,), KEY, "demo")


@pytest.mark.parametrize("names", [names for names in _GROUPS if set(names) - _NO_SWITCH], ids="+".join)
def test_without_protection(unprotected: client.Service, names: tuple[str, ...]) -> None:
    """With the limits off an attack has its effect, so that this tool would notice a missing limit."""
    expected = set(names) - _NO_SWITCH
    found = _attack(unprotected, sorted(expected), _GROUPS[names][0])
    assert found.succeeded == expected, found.outcomes


def test_trailer_on_plain_litellm(tmp_path: Path) -> None:
    """Plain LiteLLM accepts a key in a trailer, so that this tool would notice that the service does."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG % "hello")
    with litellm_process.run_litellm(config, {}) as gateway:
        service = client.Service(gateway.port, (gateway.pid,), litellm_process.KEY, "demo")
        assert _attack(service, ["trailer"], 60.0).succeeded == {"trailer"}


def test_guesses_from_many_addresses(protected: Service) -> None:
    """Guesses are slowed down by address: from many addresses each gets its answer."""
    found = _attack(_describe(protected), ["guesses"], 4.0, "--forwarded")
    # One address gets 12 a second. Many get thousands, but on a busy machine the attack may hardly run.
    assert found.outcomes["guesses"]["answers"]["401"] > 100, found.outcomes


@pytest.mark.parametrize("names", _GROUPS, ids="+".join)
def test_attack(protected: Service, names: tuple[str, ...]) -> None:
    """During an attack no request of a client with a key fails, and no worker grows by half or is replaced."""
    workers = sorted(protected.workers())
    found = _attack(_describe(protected), names, _GROUPS[names][1])
    assert not found.succeeded, found.outcomes
    assert not found.noticed.failures
    assert found.noticed.worst < _PATIENCE
    assert found.growth < _GROWTH
    assert sorted(protected.workers()) == workers


def test_every_attack() -> None:
    """Every attack of the tool is run here."""
    assert {name for names in _GROUPS for name in names} == set(ATTACKS)


def test_journal(protected: Service) -> None:
    """No attack fills the journal: it has no error and no traceback of them, and a few lines at most."""
    log = protected.log()
    assert "Traceback" not in log
    assert not re.search("^<[0-4]>", log, re.MULTILINE), log
    assert log.count("\n") < 50
