"""Reloads in turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litellm_systemd.runtime.master.reloads import Reloads


class Client:
    def __init__(self) -> None:
        self.answers: list[Mapping[str, Any]] = []

    def answer(self, reply: Mapping[str, Any]) -> None:
        self.answers.append(reply)


def test_one_at_a_time() -> None:
    """All who ask during a reload wait for one more, and each hears of the one that began after they asked."""
    reloads = Reloads()
    first, second, third = Client(), Client(), Client()
    assert not reloads.begin()
    reloads.ask(first)
    assert reloads.begin()
    reloads.ask(second)
    reloads.ask(third)
    reloads.ask()  # a signal
    assert not reloads.begin()
    good = reloads.end(2, "")
    assert (good.error, first.answers) == ("", [])
    reloads.tell(good)
    assert first.answers == [{"ok": True, "error": "", "generation": 2}]
    assert (second.answers, third.answers) == ([], [])
    assert reloads.begin()
    outcome = reloads.end(2, "bad")
    assert (outcome.error, outcome.generation, reloads.last) == ("bad", 2, outcome)
    reloads.tell(outcome)
    assert second.answers == third.answers == [{"ok": False, "error": "bad", "generation": 2}]
    assert not reloads.begin()


def test_refused() -> None:
    """When the service stops, everybody who waits hears it."""
    reloads = Reloads()
    running, waiting = Client(), Client()
    reloads.ask(running)
    reloads.begin()
    reloads.ask(waiting)
    reloads.refuse("the service is stopping")
    assert running.answers == waiting.answers == [{"ok": False, "error": "the service is stopping"}]
    assert not reloads.begin()


def test_a_signal_counts() -> None:
    """A HUP, for which nobody waits, reloads as well."""
    reloads = Reloads()
    reloads.ask()
    assert reloads.begin()
