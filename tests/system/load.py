"""A small load on a box's gateway: threads that chat without a pause, on kept and on fresh connections."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from box import Box

CLIENTS = 8


@dataclass
class Load:
    """What came of it: how many requests were answered with 200, and each other outcome in words."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, outcome: str) -> None:
        with self._lock:
            if outcome == "200":
                self.answered += 1
            else:
                self.failed.append(outcome)


@contextmanager
def loaded(box: Box, key: str, model: str) -> Iterator[Load]:
    """Keep `CLIENTS` clients busy while the block runs, half of them on a kept connection."""
    load, over = Load(), threading.Event()
    threads = [
        threading.Thread(target=_client, args=(box, key, model, load, over, number % 2 == 0))
        for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        over.set()
        for thread in threads:
            thread.join(timeout=120)


def _client(box: Box, key: str, model: str, load: Load, over: threading.Event, keep: bool) -> None:
    connection: http.client.HTTPConnection | None = None
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    while not over.is_set():
        try:
            if connection is None:
                connection = box.http_connection("127.0.0.1", 4000, timeout=60)
            connection.request("POST", "/v1/chat/completions", body, headers)
            response = connection.getresponse()
            response.read()
            load.note(str(response.status))
            leaves = response.will_close
        except (OSError, http.client.HTTPException) as error:
            load.note(repr(error))
            leaves = True
        # A client that is told `Connection: close` opens a new one; http.client would do that by itself, but in the
        # host's network.
        if connection is not None and (leaves or not keep):
            connection.close()
            connection = None
