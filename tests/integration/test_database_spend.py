"""Spend with a database: each answered request is paid for by its key, once, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.database import Database
from tests.integration.runtime_service import CONFIG, KEY, Load, Service, post, wait_for

#: Of a request with 8 tokens and a response with 20.
_PRICED = (CONFIG % "hello").replace(
    "api_key: none,", "api_key: none, input_cost_per_token: 0.1, output_cost_per_token: 0.2,"
)
_PRICE = 4.8


def test_no_spend_is_lost(tmp_path: Path, database: Database) -> None:
    """Through reloads, recycled workers and the stop no request fails, and each is in the spend of its key."""
    variables = {
        **database.variables(),
        "NUM_WORKERS": "1",
        "MAX_REQUESTS_BEFORE_RESTART": "400",
        "MAX_REQUESTS_BEFORE_RESTART_JITTER": "0",
    }
    with Service(tmp_path, _PRICED, **variables) as service:
        service.await_ready()
        status, made = post(service, "/key/generate", KEY, {"max_budget": 1e9})
        assert status == 200, made
        with Load(service, clients=4, key=made["key"]) as clients:
            clients.await_answers(20)
            assert service.reload().returncode == 0
            clients.await_answers(20)
            service.await_log("recycled after")
            clients.await_answers(5)
        assert service.stop() == 0, service.log()
    assert clients.failures == []
    ((count, cost),) = database.execute('select count(*), sum(spend) from "LiteLLM_SpendLogs" where spend > 0')
    ((spent,),) = database.execute('select spend from "LiteLLM_VerificationToken"')
    assert count == clients.answers
    assert cost == pytest.approx(count * _PRICE)
    assert spent == pytest.approx(count * _PRICE)


def test_killed_worker(tmp_path: Path, database: Database) -> None:
    """A killed worker cuts its in-flight requests with a virtual key, and no later one fails."""
    with Service(tmp_path, _PRICED, **database.variables()) as service:
        service.await_ready()
        status, made = post(service, "/key/generate", KEY, {})
        assert status == 200, made
        with Load(service, clients=4, key=made["key"]) as clients:
            clients.await_answers(40)
            victim = service.workers()[0]
            os.kill(victim, signal.SIGKILL)
            service.await_workers(without=victim)
            seen, goal = list(clients.failures), clients.answers + 40
            wait_for("more answers", lambda: clients.answers >= goal)
        assert clients.failures == seen
        assert len(seen) <= 4
        assert [each for each in seen if each[0].isdigit()] == [], "an error response"
