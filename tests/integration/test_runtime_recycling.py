"""Recycling of workers under load, with LiteLLM."""

from __future__ import annotations

import threading
import time
from http.client import HTTPException
from pathlib import Path

from tests.integration.runtime_service import Service, is_alive, wait_for

CLIENTS = 4
REQUESTS = 100


def send_requests(service: Service, keep_alive: bool, failures: list[str]) -> None:
    connection = service.connect()
    for _ in range(REQUESTS):
        try:
            if (answer := service.chat(connection)) != (200, "hello"):
                failures.append(str(answer))
        except (OSError, HTTPException) as error:
            failures.append(repr(error))
        if not keep_alive:
            connection.close()
    connection.close()


def serving_while(threads: list[threading.Thread], service: Service) -> list[int]:
    """The number of serving workers, polled until the threads end."""
    counts = [len(service.workers())]
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.02)
        counts.append(len(service.workers()))
    return counts


def test_recycling_under_load(tmp_path: Path) -> None:
    """Under load each worker is recycled, two workers serve at any time, and no request fails."""
    with Service(tmp_path, MAX_REQUESTS_BEFORE_RESTART="20", LAME_DUCK_TIMEOUT="20") as service:
        service.await_ready()
        first = service.workers()
        failures: list[str] = []
        threads = [
            threading.Thread(target=send_requests, args=(service, number % 2 == 0, failures))
            for number in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        counts = serving_while(threads, service)
        for thread in threads:
            thread.join()
        assert failures == []
        assert min(counts) >= 2

        def gone() -> bool:
            # A worker may have served few requests so far. It is recycled when it reaches its limit.
            assert service.chat() == (200, "hello")
            return not any(map(is_alive, first))

        wait_for("the first workers' leave", gone)
        for pid in first:
            assert service.await_log(f"(pid {pid}) recycled after ").startswith("<5>worker ")
        assert service.stop() == 0
    assert "<3>" not in service.log()
    assert "<4>worker " not in service.log()
