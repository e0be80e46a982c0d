"""Spend with a database: each answered request is paid for by its key, once, whatever happens to the workers."""

from __future__ import annotations

import threading
import time
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.database import Database
from tests.integration.runtime_service import CONFIG, KEY, Service, wait_for
from tests.integration.test_database import chat, post

#: Of a request with 8 tokens and a response with 20.
_PRICED = (CONFIG % "hello").replace(
    "api_key: none,", "api_key: none, input_cost_per_token: 0.1, output_cost_per_token: 0.2,"
)
_PRICE = 4.8


class Clients:
    """Four clients that send requests with a key. `answers` counts the responses with 200, `failures` the others."""

    def __init__(self, service: Service, key: str) -> None:
        self.answers = 0
        self.failures: list[str] = []
        self._service, self._key = service, key
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                status = chat(self._service, self._key, "demo")
            except (OSError, HTTPException) as error:
                self.failures.append(repr(error))
                continue
            if status == 200:
                with self._lock:
                    self.answers += 1
            else:
                self.failures.append(str(status))
            time.sleep(0.02)

    def await_answers(self, more: int) -> None:
        goal = self.answers + more
        wait_for("answers", lambda: self.answers >= goal)


def test_no_spend_is_lost(tmp_path: Path, database: Database) -> None:
    """Through reloads, recycled workers and the stop no request fails, and each is in the spend of its key."""
    variables = {
        **database.variables(),
        "MAX_REQUESTS_BEFORE_RESTART": "40",
        "MAX_REQUESTS_BEFORE_RESTART_JITTER": "0",
    }
    with Service(tmp_path, _PRICED, **variables) as service:
        service.await_ready()
        status, made = post(service, "/key/generate", KEY, {"max_budget": 1e9})
        assert status == 200, made
        with Clients(service, made["key"]) as clients:
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
