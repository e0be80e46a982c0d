"""The lifecycle of a service: start, replacement of workers, reload. All tests share one service."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runtime_service import CONFIG, KEY, Load, Service, is_alive, read_answer, wait_for


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, tuple[int, str], list[str]]]:
    """The service, the response to the first request, and the status lines until READY=1."""
    folder = tmp_path_factory.mktemp("life")
    # Generous timeouts for a busy machine: for heartbeats, and for requests on idle connections.
    with Service(folder, WATCHDOG_TIMEOUT="20", LAME_DUCK_TIMEOUT="20") as service:
        service.await_ready()
        first = service.chat()
        yield service, first, service.statuses()
        assert service.stop() == 0, service.log()
        assert "STOPPING=1" in service.read_notices()


@pytest.fixture
def service(started: tuple[Service, tuple[int, str], list[str]]) -> Iterator[Service]:
    """The service, with the first configuration and two workers."""
    service = started[0]
    wait_for("two workers and no other", lambda: len(service.workers()) == len(service.children()) == 2)
    service.forget_notices()
    yield service
    assert service.process.poll() is None, service.log()


def test_first_request(started: tuple[Service, tuple[int, str], list[str]]) -> None:
    """The first request after READY=1 succeeds."""
    assert started[1] == (200, "hello")


def test_no_metrics(started: tuple[Service, tuple[int, str], list[str]]) -> None:
    """Without METRICS and without a callback that counts, no worker counts for Prometheus."""
    assert list((started[0].folder / "run/prometheus").iterdir()) == []
    assert started[0].query("status")["metrics"] is None


def test_status_lines(started: tuple[Service, tuple[int, str], list[str]]) -> None:
    """`systemctl status` shows the progress of a start."""
    service, _, statuses = started
    address = f"127.0.0.1:{service.port}"
    assert statuses[:2] == ["importing LiteLLM", "starting 2 workers"]
    assert statuses[2] == f"serving on {address} with 1 model, 2 workers"


def test_journal_of_a_start(started: tuple[Service, tuple[int, str], list[str]]) -> None:
    """Every log line of a start has a priority, and there is no warning, banner or key."""
    lines = started[0].log().splitlines()
    assert any(line.startswith("<5>serving on ") for line in lines)
    assert all(line[0] == "<" and line[2] == ">" and line[1] in "567" for line in lines), lines
    assert KEY not in started[0].log()
    assert len(lines) == len(set(lines))


def test_two_workers(service: Service) -> None:
    """With NUM_WORKERS=2 the main process has two child processes."""
    assert sorted(service.workers()) == sorted(service.children())
    assert len(service.children()) == 2


def test_workers_have_no_notify_socket(service: Service) -> None:
    """Workers do not inherit the notify socket, so LiteLLM cannot notify systemd."""
    pid = service.workers()[0]

    def sockets() -> list[str]:
        found = []
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed in the meantime
                found.append(str(link.readlink()))
        return [name for name in found if name.startswith("socket:")]

    # The listening socket, the channel and the pair of the event loop. Those of health checks and clients vary.
    wait_for("no other socket", lambda: len(sockets()) <= 5)


def test_watchdog(service: Service) -> None:
    """WATCHDOG=1 is sent while workers pass their health checks."""
    service.await_notice("WATCHDOG=1")


def test_status_over_the_control_socket(service: Service) -> None:
    """The control socket returns the status, and only root and the user of the service may connect to it."""
    assert stat.S_IMODE(service.control.stat().st_mode) == 0o600
    facts = service.query("status")
    assert facts["state"] == "serving"
    assert facts["pid"] == service.process.pid
    assert facts["config"] == str(service.config)
    assert facts["models"] == 1
    assert len(facts["sha256"]) == 64
    assert facts["listen"] == [f"127.0.0.1:{service.port}"]
    assert [worker["worker"] for worker in facts["workers"]] == [1, 2]
    assert service.query("unknown")["ok"] is False


def await_heartbeats(service: Service) -> list[dict[str, Any]]:
    """The status of the workers after a new heartbeat of each of them."""
    begin = time.monotonic()

    def received() -> list[dict[str, Any]]:
        # Before the query, because its answer may wait before it is read.
        elapsed = time.monotonic() - begin
        workers: list[dict[str, Any]] = service.query("status")["workers"]
        return workers if all(worker["answered"] < elapsed for worker in workers) else []

    workers: list[dict[str, Any]] = wait_for("a beat of each worker", received)
    return workers


def count_requests(service: Service) -> int:
    """The number of requests that the workers have counted, after two heartbeats: the first may be outdated."""
    await_heartbeats(service)
    return sum(worker["requests"] for worker in await_heartbeats(service))


def test_requests_are_counted(service: Service) -> None:
    """The status counts the requests of clients and not the health checks."""
    before = count_requests(service)
    for _ in range(3):
        assert service.chat()[0] == 200
    assert count_requests(service) == before + 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_worker_is_replaced(service: Service, number: signal.Signals) -> None:
    """A worker that exits is replaced, and no connection is refused."""
    victim = service.workers()[0]
    os.kill(victim, number)
    assert service.chat() == (200, "hello")
    service.await_workers(without=victim)
    how = "was killed by SIGKILL" if number == signal.SIGKILL else "exited with code 0"
    assert "<4>" in service.await_log(f"(pid {victim}) {how}, replaced in ")


def test_hung_worker_is_replaced(service: Service) -> None:
    """A worker with a blocked event loop is killed and replaced before the watchdog timeout of systemd."""
    victim = service.workers()[0]
    os.kill(victim, signal.SIGSTOP)
    service.await_workers(without=victim)
    assert " and was killed, replaced in " in service.await_log(f"(pid {victim}) was blocked for ")
    assert service.chat() == (200, "hello")


def test_reload_under_load(service: Service) -> None:
    """A reload under load activates the new configuration, and no request fails."""
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
    assert service.read_notices().count("RELOADING=1") == service.read_notices().count("READY=1") == 1
    assert any(line.startswith("MONOTONIC_USEC=") for line in service.read_notices())
    service.config.write_text(CONFIG % "hello")
    assert service.reload().returncode == 0


BAD = {
    "YAML": "model_list: [",
    "no models": "model_list: []",
    "a variable that isn't set": CONFIG.replace("none", "os.environ/NO_SUCH_VARIABLE"),
    "a callback that isn't there": CONFIG % "x" + "litellm_settings: {callbacks: litellm.proxy.proxy_cli.absent}\n",
}


@pytest.mark.parametrize("why", BAD)
def test_failed_reload(service: Service, why: str) -> None:
    """A failed reload reports the cause, and the workers continue unchanged."""
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
    assert service.read_notices().count("RELOADING=1") == service.read_notices().count("READY=1") == 1


_MODEL = CONFIG.replace("mock_response", "max_agentic_loops: many, mock_response")
#: What LiteLLM rejects and the linter accepts: the configuration, and the beginning of the cause.
REJECTED = {
    "a model": (_MODEL % "x", "model demo: "),
    "an unknown key": (
        CONFIG % "x" + "  litellm_jwtauth: {admin_scop: x}\n",
        "general_settings.litellm_jwtauth: Invalid arguments provided: admin_scop. Allowed",
    ),
    "a class": (
        CONFIG % "x" + "litellm_settings: {callbacks: litellm.integrations.custom_logger.CustomLogger}\n",
        "litellm_settings.callbacks entry 'litellm.integrations.custom_logger.CustomLogger' resolved to the class",
    ),
}


@pytest.mark.parametrize("what", REJECTED)
def test_a_rejected_configuration_is_explained(service: Service, what: str) -> None:
    """A reload that LiteLLM rejects reports the model or the setting, and LiteLLM's own error."""
    text, cause = REJECTED[what]
    service.config.write_text(text)
    done = service.reload()
    service.config.write_text(CONFIG % "hello")
    assert done.stderr.startswith(f"reload failed: LiteLLM rejects {service.config}: {cause}")
    assert len(done.stderr) < 800


def test_replaced_worker_keeps_its_configuration(service: Service) -> None:
    """A replaced worker uses the configuration of its generation, not the edited file on disk."""
    victim = service.workers()[0]
    service.config.write_text("model_list: [")
    os.kill(victim, signal.SIGKILL)
    service.await_workers(without=victim)
    service.config.write_text(CONFIG % "hello")
    assert [service.chat() for _ in range(6)] == [(200, "hello")] * 6


def test_simultaneous_reloads(service: Service) -> None:
    """Ten simultaneous reload requests cause at most two reloads."""
    # The main process is stopped meanwhile, so that all requests arrive before the first reload begins.
    service.process.send_signal(signal.SIGSTOP)
    try:
        service.process.send_signal(signal.SIGHUP)
        asked = [service.send_command("reload") for _ in range(8)]
        service.process.send_signal(signal.SIGHUP)
    finally:
        service.process.send_signal(signal.SIGCONT)
    assert [read_answer(each)["ok"] for each in asked] == [True] * 8
    wait_for("an end", lambda: service.query("status")["state"] == "serving")
    assert 1 <= service.read_notices().count("RELOADING=1") <= 2
    wait_for("two workers", lambda: len(service.children()) == 2)


def test_reload_while_a_worker_is_replaced(service: Service) -> None:
    """A reload during a crash of a worker ends with only the new workers."""
    os.kill(service.workers()[0], signal.SIGKILL)
    assert service.query("reload")["ok"] is True
    generation = service.query("status")["generation"]
    wait_for("two workers", lambda: len(service.children()) == 2)
    assert {worker["generation"] for worker in service.query("status")["workers"]} == {generation}


def test_sighup_reloads(service: Service) -> None:
    """SIGHUP reloads the configuration."""
    service.config.write_text(CONFIG % "by signal")
    service.process.send_signal(signal.SIGHUP)
    service.await_notice("READY=1")
    assert service.chat() == (200, "by signal")
    service.config.write_text(CONFIG % "hello")
    assert service.reload().returncode == 0
