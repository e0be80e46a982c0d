"""What is counted of the responses, and under which labels."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import prometheus_client.values
import pytest

from litellm_systemd.runtime.http.refuse import Reason, RefusalCounter
from litellm_systemd.runtime.http.response_count import IS_GONE, ResponseCounter
from litellm_systemd.runtime.metrics import counting, families, store
from litellm_systemd.runtime.metrics.counting import Counters
from tests.unit.test_runtime_access_log import END, MORE, START, Application, scope_of


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counters:
    """Counters of this process, in `tmp_path`."""
    monkeypatch.setenv(counting.FOLDER_VARIABLE, str(tmp_path))
    for name in ("MmapedDict", "ValueClass"):
        monkeypatch.setattr(prometheus_client.values, name, getattr(prometheus_client.values, name))
    return counting.start(os.environ, tmp_path, pytest.fail)


def counted(folder: Path) -> dict[tuple[str, ...], float]:
    """What was counted in `folder`, by name and labels, without zeros."""
    values = [each for file in folder.glob("*.db") for each in store.read_file(file, pytest.fail)]
    return {
        (key.sample.removeprefix(families.PREFIX), *(value for _, value in key.labels)): value
        for (_, key), value in store.add_up(values).items()
        if value
    }


def serve(
    counters: Counters, messages: Sequence[dict[str, Any]], error: Exception | None = None, **scope: Any
) -> None:
    """Serve a request with an application that sends `messages` and fails with `error`."""

    async def send(_message: Any) -> None:
        """The client takes everything."""

    application = ResponseCounter(Application(messages, error), counters)
    try:
        asyncio.run(application(scope_of(**scope), None, send))
    except ValueError:
        assert error is not None


def test_responses(counters: Counters, tmp_path: Path) -> None:
    """Each response counts once, by its status: also that to an exception and to a WebSocket. A health check of the
    worker, and a request whose client has gone, do not count.
    """
    serve(counters, (START, MORE, END))
    serve(counters, (START, MORE), ValueError())
    serve(counters, (), ValueError())
    serve(counters, ({"type": "websocket.accept"}, {"type": "websocket.close"}), type="websocket")
    serve(counters, ({"type": "websocket.close"},), type="websocket")
    serve(counters, (START, END), server=("", None))
    serve(counters, (START, END), state={IS_GONE: True})
    serve(counters, (), ValueError(), state={IS_GONE: True})
    name = "http_requests_total"
    assert counted(tmp_path) == {(name, "200"): 2, (name, "500"): 1, (name, "101"): 1, (name, "403"): 1}


def test_labels_are_bounded(counters: Counters, tmp_path: Path) -> None:
    """A value that the table does not have, and a status that does not exist, count as `other`."""
    for status in (200, 799, -1):
        counters.count_response(status)
    for cause in ("crash", "of a later version", "another"):
        counters.count(families.WORKER_RESTARTS, cause)
    assert counted(tmp_path) == {
        ("http_requests_total", "200"): 1,
        ("http_requests_total", "other"): 2,
        ("worker_restarts_total", "crash"): 1,
        ("worker_restarts_total", "other"): 2,
    }


def test_refusals(counters: Counters, tmp_path: Path) -> None:
    """Each refused request and each closed connection counts by its reason, without its client."""
    refusals = RefusalCounter(counters)
    for reason in Reason:
        refusals.add(("192.0.2.1", 1), reason)
    found = counted(tmp_path)
    assert found == {
        (f"{'closed_connections' if each.is_connection else 'refused_requests'}_total", each.name.lower()): 1
        for each in Reason
    }
