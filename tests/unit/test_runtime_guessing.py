"""Which clients guess keys, and how long their refusals are delayed."""

from __future__ import annotations

import asyncio

import pytest

from litellm_systemd.runtime.http import guessing
from litellm_systemd.runtime.http.guessing import FREE_KEYS, MAX_DELAYED, Guesses

ADDRESS = "192.0.2.7"


def send_keys(guesses: Guesses, number: int, address: str = ADDRESS, now: float = 0.0) -> list[float]:
    """The delays after this many different wrong keys."""
    return [guesses.count(address, key, now) for key in range(number)]


def test_growing_delays() -> None:
    """The first ten wrong keys of an address are refused at once, and then each refusal takes longer, up to 5 s."""
    assert send_keys(Guesses(), 16) == [0.0] * FREE_KEYS + [0.5, 1, 2, 4, 5, 5]


def test_one_wrong_key() -> None:
    """A client that repeats its wrong key, such as an agent with an old one, is never delayed."""
    guesses = Guesses()
    assert {guesses.count(ADDRESS, 1, float(now)) for now in range(1000)} == {0.0}


def test_other_addresses() -> None:
    """Other addresses are not delayed. An IPv6 client cannot use the other addresses of its network."""
    guesses = Guesses()
    assert send_keys(guesses, 12)[-1] > 0
    assert guesses.count("192.0.2.8", 1, 0.0) == 0
    delays = [guesses.count(f"2001:db8::{number:x}", number, 0.0) for number in range(12)]
    assert delays[-1] > 0
    assert guesses.count("2001:db8:0:1::1", 1, 0.0) == 0


def test_forgetting() -> None:
    """An address starts again after ten minutes without a wrong key."""
    guesses = Guesses()
    assert send_keys(guesses, 12)[-1] > 0
    assert guesses.count(ADDRESS, 0, 600.0) > 0
    assert guesses.count(ADDRESS, 0, 1201.0) == 0


def test_bounded_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker with any number of addresses takes a bounded amount of memory, and an active one is remembered."""
    monkeypatch.setattr(guessing, "_MAX_CLIENTS", 10)
    guesses = Guesses()
    send_keys(guesses, 12)
    for number in range(100):
        guesses.count(f"198.51.100.{number}", 1, 0.0)
        assert guesses.count(ADDRESS, 1, 0.0) > 0
    assert len(guesses._clients) == 10


async def test_bounded_number_of_delays() -> None:
    """A limited number of refusals wait at a time; the connections of further ones close at once."""
    guesses = Guesses()
    waiting = [asyncio.create_task(guesses.delay(60)) for _ in range(MAX_DELAYED)]
    await asyncio.sleep(0)
    assert not await guesses.delay(60)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert await guesses.delay(0)
