"""Two instances with one Redis: what they share, and what happens while Redis is down, hangs or is full."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runtime_service import KEY, Service, chat, post, wait_for
from tests.redis import Access, Redis, why_no_redis
from tests.skipping import refuse

_METRIC = "litellm_systemd_redis_usable"
_LIMIT = 3
_PASSWORD = "2t4pq-8n5rw"
_MODEL = """
  - model_name: {name}
    litellm_params: {{model: openai/demo, api_key: none, {more}}}"""
_CONFIG = (
    """
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
router_settings:
  optional_pre_call_checks: [enforce_model_rate_limits]
  num_retries: 0
  allowed_fails: 0
  cooldown_time: 600
model_list:"""
    + _MODEL.format(name="demo", more="mock_response: hi")
    + "".join(
        _MODEL.format(name=f"limited-{phase}", more=f"mock_response: hi, rpm: {_LIMIT}")
        + _MODEL.format(name=f"pair-{phase}", more=f"mock_response: hi, user: {phase}")
        + _MODEL.format(name=f"pair-{phase}", more=f"api_base: 'http://127.0.0.1:9', user: {phase}")
        for phase in ("shared", "local", "again")
    )
)
#: Requests after which a cooldown that is not shared would have been noticed, but once in four thousand times.
_MANY = 12


class Pair:
    """Two instances with the same configuration and Redis, and what they do together in one phase of a test."""

    def __init__(self, first: Service, second: Service, redis: Redis) -> None:
        self.both = (first, second)
        self._redis = redis

    def count_allowed(self, phase: str) -> int:
        """How many requests are allowed in a minute, sent to one and the other in turn."""
        if (second := time.time() % 60) > 45:  # a minute of LiteLLM is one of the clock
            time.sleep(61 - second)
        found = [chat(each, KEY, f"limited-{phase}") for _ in range(_LIMIT + 1) for each in self.both]
        assert set(found) == {200, 429}
        return found.count(200)

    def shares_cooldown(self, phase: str) -> bool:
        """Whether a model that failed on the first instance gets no request from the second one."""
        first, second = self.both
        before = set() if phase == "local" else self._list_cooldowns()
        wait_for("a failure", lambda: chat(first, KEY, f"pair-{phase}") == 500)
        if phase != "local":  # LiteLLM writes after the answer
            wait_for("the cooldown in Redis", lambda: self._list_cooldowns() - before)
        time.sleep(2)  # LiteLLM reads the cooldowns of others once a second
        return {chat(second, KEY, f"pair-{phase}") for _ in range(_MANY)} == {200}

    def _list_cooldowns(self) -> set[str]:
        return {key for key in self._redis.list_keys() if key.endswith(":cooldown")}

    def shares_answers(self, phase: str) -> bool:
        """Whether the second instance has the answer of the first one to a request that wants a cached one."""
        first, second = self.both

        def is_cached() -> bool:
            answer = ask_cached(first, phase)
            time.sleep(0.3)  # LiteLLM writes after the answer
            return ask_cached(first, phase) == answer

        wait_for("a cached answer", is_cached)
        return ask_cached(first, phase) == ask_cached(second, phase)

    def await_counting(self, state: str) -> None:
        wait_for(state, lambda: {counting(each) for each in self.both} == {state})


def ask_cached(service: Service, text: str) -> str:
    """The id of the answer to a request that may be answered from the cache."""
    body: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": text}],
        "cache": {"use-cache": True},
    }
    status, answer = post(service, "/v1/chat/completions", KEY, body)
    assert status == 200, answer
    return str(answer["id"])


def counting(service: Service) -> str:
    return str(service.query("status")["redis"]["counting"])


def lines_about(service: Service, text: str) -> list[str]:
    """The lines of the journal with a text, without information and tracebacks."""
    return [line for line in service.log().splitlines() if text in line and line[:3] in ("<3>", "<4>", "<5>")]


@pytest.fixture
def pair(tmp_path: Path, redis: Redis) -> Iterator[Pair]:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with (
        Service(tmp_path / "first", _CONFIG, NUM_WORKERS="1", **redis.variables()) as first,
        Service(tmp_path / "second", _CONFIG, NUM_WORKERS="1", **redis.variables()) as second,
    ):
        first.await_ready()
        second.await_ready()
        yield Pair(first, second, redis)


def test_two_instances_share_and_count_alone_while_redis_is_down(pair: Pair, redis: Redis) -> None:
    """Limits, cooldowns and cached answers hold for both instances, count in each while Redis is down, with one error
    and one notice in each journal, and hold for both again when it is back.
    """
    pair.await_counting("shared")
    assert pair.count_allowed("shared") == _LIMIT
    assert pair.shares_cooldown("shared")
    assert pair.shares_answers("shared")

    with redis.killed():
        pair.await_counting("local")
        assert all("Redis cannot be used: Error 111" in each.query("status")["status"] for each in pair.both)
        assert pair.count_allowed("local") == 2 * _LIMIT
        assert not pair.shares_cooldown("local")
        assert not pair.shares_answers("local")
    pair.await_counting("shared")
    assert pair.count_allowed("again") == _LIMIT
    assert pair.shares_cooldown("again")
    assert pair.shares_answers("again")

    for each in pair.both:
        (lost,) = lines_about(each, "Redis cannot be used: ")
        assert lost.startswith("<3>")
        assert "each instance has its own limits, cooldowns and cache" in lost
        assert lost.endswith(": a limit of 10 allows 10 in each of them")
        (back,) = lines_about(each, "Redis can be used again, after ")
        assert back.startswith("<5>")
        # Nothing of LiteLLM's own lines about it, and nothing that says there was no outage.
        assert lines_about(each, "edis") == [lost, back]

    redis.pause()
    try:
        slowest = max(ask_all(pair.both))
        pair.await_counting("local")
        assert all(chat(each, KEY, "limited-again") in (200, 429) for each in pair.both)
    finally:
        redis.resume()
    # LiteLLM would wait for a minute where its event loop waits. Alone on a machine it is 4 seconds.
    assert slowest < 30
    pair.await_counting("shared")
    assert all(len(lines_about(each, "Redis cannot be used: no answer within 1 s.")) == 1 for each in pair.both)


def ask_all(services: tuple[Service, ...]) -> list[float]:
    """Send requests that use Redis to all at once: the seconds that each took."""
    times: list[float] = []

    def ask(service: Service) -> None:
        start = time.monotonic()
        assert chat(service, KEY, "limited-again") in (200, 429)
        times.append(time.monotonic() - start)

    threads = [threading.Thread(target=ask, args=(each,)) for each in services for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(times) == len(threads)
    return times


@pytest.fixture
def locked() -> Iterator[Redis]:
    """A Redis with a password."""
    if (reason := why_no_redis()) is not None:
        refuse(reason)
    with Redis(Access(_PASSWORD)) as running:
        yield running


def test_redis_is_down_at_the_start_and_full_later(tmp_path: Path, locked: Redis) -> None:
    """A Redis that is down or full stops no start and no request, is one error in its own words, and is used as soon
    as it accepts what LiteLLM writes.
    """
    with Service(tmp_path, _CONFIG, NUM_WORKERS="2", REDIS_URL=locked.url, METRICS="127.0.0.1:9400") as service:
        with locked.killed():
            service.await_ready()
            assert counting(service) == "local"
            assert chat(service, KEY, "limited-local") == 200
        wait_for("Redis", lambda: counting(service) == "shared")
        assert chat(service, KEY, "limited-shared") == 200
        assert any(":rpm:" in key for key in locked.list_keys())

        with locked.full():
            wait_for("the outage", lambda: counting(service) == "local")
            assert "used memory > 'maxmemory'" in service.query("status")["redis"]["cause"]
            wait_for("the metric", lambda: service.metrics()[_METRIC] == 0)
            assert chat(service, KEY, "limited-local") == 200
        wait_for("Redis", lambda: counting(service) == "shared")
        wait_for("the metric", lambda: service.metrics()[_METRIC] == 1)
        assert service.stop() == 0
    down, started, *others = lines_about(service, "edis")
    assert "; Redis cannot be used: " in started
    up, full, empty = others
    for lost, back in ((down, up), (full, empty)):
        assert lost.startswith("<3>Redis cannot be used: ")
        assert "each of the 2 workers of each instance has its own limits" in lost
        assert back.startswith("<5>Redis can be used again, after ")
    assert _PASSWORD not in service.log()
