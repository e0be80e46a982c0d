"""A running service: ready, replaced, reloaded. One service for all of these tests."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runtime_service import CONFIG, KEY, Service, is_alive, post_chat, read_answer, wait_for


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, tuple[int, str], list[str]]]:
    """The service, what the very first request got, and the status lines until READY=1."""
    folder = tmp_path_factory.mktemp("life")
    # With time for a busy machine: for a worker to say that it lives, for a client to ask on an idle connection.
    with Service(folder, WATCHDOG_TIMEOUT="20", LAME_DUCK_TIMEOUT="20", START_TIMEOUT="60") as service:
        service.await_ready()
        first = service.chat()
        yield service, first, service.statuses()
        assert service.stop() == 0, service.log()
        assert "STOPPING=1" in service.notice()


@pytest.fixture
def service(started: tuple[Service, tuple[int, str], list[str]]) -> Iterator[Service]:
    """The service, with the first configuration and two workers."""
    service = started[0]
    wait_for("two workers and no other", lambda: len(service.workers()) == len(service.children()) == 2)
    service.forget_notices()
    yield service
    assert service.process.poll() is None, service.log()


class Load:
    """Clients that ask one after the other, with and without keep-alive. `failures` is to stay empty."""

    def __init__(self, service: Service, clients: int = 6) -> None:
        self.answers = 0
        self.failures: list[str] = []
        self._service = service
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number % 2 == 0,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, keep_alive: bool) -> None:
        connection = self._service.connect()
        while not self._over.is_set():
            try:
                response = post_chat(connection, "demo")
                body = response.read()
                if response.status != 200:
                    self.failures.append(f"{response.status} {body[:200]!r}")
                self.answers += 1
            except (OSError, HTTPException) as error:
                self.failures.append(repr(error))
            if not keep_alive:
                connection.close()
        connection.close()

    def await_answers(self, more: int) -> None:
        """Wait for so many more answers: the service is under load now."""
        goal = self.answers + more
        wait_for("answers", lambda: self.answers >= goal or self.failures)


def test_ready_means_ready(started: tuple[Service, tuple[int, str], list[str]]) -> None:
    """The first request after READY=1, on a fresh connection, is answered."""
    assert started[1] == (200, "hello")


def test_status_lines(started: tuple[Service, tuple[int, str], list[str]]) -> None:
    """`systemctl status` says in plain words how far the start is."""
    service, _, statuses = started
    place = f"127.0.0.1:{service.port}"
    assert statuses[:2] == ["importing LiteLLM", "starting 2 workers"]
    assert statuses[2] == f"serving on {place} with 1 model, 2 workers"


def test_journal_of_a_sound_start(started: tuple[Service, tuple[int, str], list[str]]) -> None:
    """Every line of a start has a priority, none warns of anything, no banner is among them, and no key."""
    lines = started[0].log().splitlines()
    assert any(line.startswith("<5>serving on ") for line in lines)
    assert all(line[0] == "<" and line[2] == ">" and line[1] in "567" for line in lines), lines
    assert KEY not in started[0].log()
    assert len(lines) == len(set(lines))


def test_two_workers(service: Service) -> None:
    """NUM_WORKERS=2 gives two processes below the main one, and no more."""
    assert sorted(service.workers()) == sorted(service.children())
    assert len(service.children()) == 2


def test_environment_is_clean(service: Service) -> None:
    """Neither LiteLLM nor a worker can speak to systemd in the service's name."""
    pid = service.workers()[0]

    def sockets() -> list[str]:
        found = []
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.append(str(link.readlink()))
        return [name for name in found if name.startswith("socket:")]

    # The listening socket, the channel, and the event loop's own pair. Probes and clients come and go.
    wait_for("no other socket", lambda: len(sockets()) <= 5)


def test_watchdog(service: Service) -> None:
    """Systemd gets its sign of life while workers answer."""
    service.await_notice("WATCHDOG=1")


def test_status_over_the_control_socket(service: Service) -> None:
    """Root and the service's user read all facts from the control socket, and nobody else can open it."""
    assert stat.S_IMODE(service.control.stat().st_mode) == 0o600
    facts = service.ask("status")
    assert facts["state"] == "serving"
    assert facts["pid"] == service.process.pid
    assert facts["config"] == str(service.config)
    assert facts["models"] == 1
    assert len(facts["sha256"]) == 64
    assert facts["listen"] == [f"127.0.0.1:{service.port}"]
    assert [worker["worker"] for worker in facts["workers"]] == [1, 2]
    assert service.ask("fly")["ok"] is False


def await_beats(service: Service) -> list[dict[str, Any]]:
    """The workers, once the main process has heard of each of them from now on."""
    begin = time.monotonic()

    def heard() -> list[dict[str, Any]]:
        # Before the question: its answer may lie about for a while before it is read.
        elapsed = time.monotonic() - begin
        workers: list[dict[str, Any]] = service.ask("status")["workers"]
        return workers if all(worker["answered"] < elapsed for worker in workers) else []

    workers: list[dict[str, Any]] = wait_for("a beat of each worker", heard)
    return workers


def count_requests(service: Service) -> int:
    """What the workers have counted by now. They report with each beat; the first one may have been on its way."""
    await_beats(service)
    return sum(worker["requests"] for worker in await_beats(service))


def test_requests_are_counted(service: Service) -> None:
    """Only clients' requests count, not the probes."""
    before = count_requests(service)
    for _ in range(3):
        assert service.chat()[0] == 200
    assert count_requests(service) == before + 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_lost_worker_is_replaced(service: Service, number: signal.Signals) -> None:
    """A worker that dies is replaced at once, and the port never refuses."""
    victim = service.workers()[0]
    os.kill(victim, number)
    assert service.chat() == (200, "hello")
    service.await_workers(without=victim)
    how = "was killed by SIGKILL" if number == signal.SIGKILL else "exited with code 0"
    assert "<4>" in service.await_log(f"(pid {victim}) {how}, replaced in ")


def test_hung_worker_is_replaced(service: Service) -> None:
    """A worker whose event loop stands still is killed and replaced before systemd's watchdog strikes."""
    victim = service.workers()[0]
    os.kill(victim, signal.SIGSTOP)
    service.await_workers(without=victim)
    assert " s and was killed, replaced in " in service.await_log(f"(pid {victim}) failed its health check for ")
    assert service.chat() == (200, "hello")


def test_reload_loses_nothing(service: Service) -> None:
    """A reload under load brings the new configuration, and not one request fails."""
    before = service.workers()
    service.config.write_text(CONFIG % "new")
    with Load(service) as load:
        load.await_answers(20)
        done = service.reload()
        assert (done.returncode, done.stderr) == (0, "")
        assert service.chat() == (200, "new")
        wait_for("the former workers' leave", lambda: not any(map(is_alive, before)))
        load.await_answers(20)
    assert load.failures == []
    assert service.notice().count("RELOADING=1") == service.notice().count("READY=1") == 1
    assert any(line.startswith("MONOTONIC_USEC=") for line in service.notice())
    service.config.write_text(CONFIG % "hello")
    assert service.reload().returncode == 0


BAD = {
    "YAML": "model_list: [",
    "no models": "model_list: []",
    "a variable that isn't set": CONFIG.replace("none", "os.environ/NO_SUCH_VARIABLE"),
    "a callback that isn't there": CONFIG % "x" + "litellm_settings: {callbacks: no_such_module.handler}\n",
}


@pytest.mark.parametrize("why", BAD)
def test_bad_reload_changes_nothing(service: Service, why: str) -> None:
    """A reload that can't work fails loudly, with the reason, and the workers serve on untouched."""
    before = service.workers()
    service.config.write_text(BAD[why])
    done = service.reload()
    service.config.write_text(CONFIG % "hello")
    assert done.returncode == 1
    assert done.stderr.startswith("reload failed: ")
    assert len(done.stderr.splitlines()) == 1
    reason = done.stderr.removeprefix("reload failed: ").strip()
    service.await_log(f"<3>reload failed, the previous configuration stays active: {reason}")
    assert service.workers() == before
    wait_for("the end of the new workers", lambda: sorted(service.children()) == sorted(before))
    assert service.chat() == (200, "hello")
    assert "the last reload failed" in service.statuses()[-1]
    assert service.notice().count("RELOADING=1") == service.notice().count("READY=1") == 1


def test_replaced_worker_keeps_its_configuration(service: Service) -> None:
    """A worker that is replaced serves what its generation serves, not what is being edited on the disk."""
    victim = service.workers()[0]
    service.config.write_text("model_list: [")
    os.kill(victim, signal.SIGKILL)
    service.await_workers(without=victim)
    service.config.write_text(CONFIG % "hello")
    assert [service.chat() for _ in range(6)] == [(200, "hello")] * 6


def test_many_reloads_are_few(service: Service) -> None:
    """Ten reloads at once make two at most: the one that runs, and one for all that came meanwhile."""
    # While it stands still, so that all are there before the first is begun, however long it takes to ask.
    service.process.send_signal(signal.SIGSTOP)
    try:
        service.process.send_signal(signal.SIGHUP)
        asked = [service.put("reload") for _ in range(8)]
        service.process.send_signal(signal.SIGHUP)
    finally:
        service.process.send_signal(signal.SIGCONT)
    assert [read_answer(each)["ok"] for each in asked] == [True] * 8
    wait_for("an end", lambda: service.ask("status")["state"] == "serving")
    assert 1 <= service.notice().count("RELOADING=1") <= 2
    wait_for("two workers", lambda: len(service.children()) == 2)


def test_reload_while_a_worker_is_replaced(service: Service) -> None:
    """A reload that meets a crash ends with exactly the new workers."""
    os.kill(service.workers()[0], signal.SIGKILL)
    assert service.ask("reload")["ok"] is True
    generation = service.ask("status")["generation"]
    wait_for("two workers", lambda: len(service.children()) == 2)
    assert {worker["generation"] for worker in service.ask("status")["workers"]} == {generation}


def test_hup_reloads(service: Service) -> None:
    """A plain `kill -HUP` reloads too."""
    service.config.write_text(CONFIG % "by signal")
    service.process.send_signal(signal.SIGHUP)
    service.await_notice("READY=1")
    assert service.chat() == (200, "by signal")
    service.config.write_text(CONFIG % "hello")
    assert service.reload().returncode == 0
