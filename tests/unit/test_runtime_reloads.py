"""The order of reloads and the results that their clients get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litellm_systemd.env.tls import TlsPair
from litellm_systemd.runtime.master.control import Reloads


class Client:
    def __init__(self) -> None:
        self.answers: list[Mapping[str, Any]] = []

    def answer(self, reply: Mapping[str, Any]) -> None:
        self.answers.append(reply)


def test_one_reload_at_a_time() -> None:
    """Requests during a reload share the next one, and each client gets the result of a reload that began later."""
    reloads = Reloads()
    first, second, third = Client(), Client(), Client()
    assert not reloads.begin()
    reloads.request(first)
    assert reloads.begin()
    reloads.request(second)
    reloads.request(third)
    reloads.request()  # a signal
    assert not reloads.begin()
    success = reloads.finish(2, "")
    assert (success.error, first.answers) == ("", [])
    reloads.notify(success)
    assert first.answers == [{"ok": True, "error": "", "generation": 2}]
    assert (second.answers, third.answers) == ([], [])
    assert reloads.begin()
    result = reloads.finish(2, "bad")
    assert (result.error, result.generation, reloads.last) == ("bad", 2, result)
    reloads.notify(result)
    assert second.answers == third.answers == [{"ok": False, "error": "bad", "generation": 2}]
    assert not reloads.begin()


def test_cancelled_reloads() -> None:
    """When the service stops, every waiting client gets an error."""
    reloads = Reloads()
    running, waiting = Client(), Client()
    reloads.request(running)
    reloads.begin()
    reloads.request(waiting)
    reloads.cancel("the service is stopping")
    assert running.answers == waiting.answers == [{"ok": False, "error": "the service is stopping"}]
    assert not reloads.begin()


def test_reload_without_a_client() -> None:
    """A SIGHUP requests a reload, although no client waits for it."""
    reloads = Reloads()
    reloads.request()
    assert reloads.begin()


def test_the_last_certificate_counts() -> None:
    """Of several certificates that arrive during a reload, the next one serves the last, and a later one keeps it."""
    reloads = Reloads()
    first, second = TlsPair("a", "a"), TlsPair("b", "b")
    reloads.request(Client(), pair=first)
    reloads.request(Client(), pair=second)
    reloads.request()  # a signal
    assert reloads.begin()
    assert reloads.pair == second
    reloads.finish(2, "")
    assert reloads.pair is None
    reloads.request(Client())
    assert reloads.begin()
    assert reloads.pair is None
