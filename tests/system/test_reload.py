"""Failed reloads, simultaneous reloads, and reloads after a crash."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass

from box import Box
from load import CLIENTS, LONG_PAUSE, Load, loaded
from service import (
    CALLBACK,
    CONFIG,
    HOLDING,
    chat,
    hold,
    let_go,
    now,
    runtime,
    said,
    set_up,
    signal_process,
    state,
    status_text,
    wait_for_workers,
    workers,
    write_callback,
    write_config,
)


@dataclass(frozen=True)
class InvalidConfiguration:
    """A configuration that fails to load: its text, a part of the error, and the code of its callback if any."""

    name: str
    text: str
    cause: str
    callback: str = ""


def with_callback(name: str, cause: str, code: str) -> InvalidConfiguration:
    text = f"{CONFIG}litellm_settings: {{callbacks: [{name}.handler]}}\n"
    return InvalidConfiguration(name, text, cause, f"{code}handler = None\n")


MODEL = "model_list:\n  - model_name: m\n    litellm_params: {{model: {}, api_key: {}}}\n"
BAD = (
    InvalidConfiguration("bad YAML", "model_list: [\n", "mine.yml:2:1: this isn't YAML"),
    InvalidConfiguration("no models", "litellm_settings: {}\n", "model_list"),
    InvalidConfiguration("unset variable", MODEL.format("openai/m", "os.environ/NOT_THERE"), "NOT_THERE"),
    InvalidConfiguration("unknown provider", MODEL.format("nosuch/m", "none"), "nosuch"),
    InvalidConfiguration(
        "lost fallback", CONFIG.replace("retries: 0", "retries: 0, fallbacks: [{slow: [nowhere]}]"), "nowhere"
    ),
    with_callback("raises", "no such table", "raise RuntimeError('no such table')\n"),
    with_callback("dies", "was killed by SIGKILL before it was ready", "import os\nos.kill(os.getpid(), 9)\n"),
    with_callback(
        "hangs",
        "not ready after START_TIMEOUT=60 s; still running: time.sleep (/etc/litellm/hangs.py:2)",
        "import time\ntime.sleep(3600)\n",
    ),
)


def test_failed_reload(idle_box: Box) -> None:
    """Under load, `systemctl reload` and `litellmctl reload` of an invalid configuration fail with the cause.

    The service continues unchanged, and a later reload of a valid configuration succeeds.
    """
    box = idle_box
    set_up(box, "NUM_WORKERS=2\nSTART_TIMEOUT=60\n")
    before = state(box)["MainPID"], workers(box)
    with loaded(box, pause=LONG_PAUSE) as load:
        for bad in BAD:
            if bad.callback:
                box.write(f"/etc/litellm/{bad.name}.py", bad.callback, 0o640, "root:litellm")
            write_config(box, bad.text)
            assert_reload_fails(box, bad, "systemctl")
            # The one that runs into a timeout is tested once, because litellmctl calls systemctl.
            if bad.name != "hangs":
                assert_reload_fails(box, bad, "litellmctl")
            box.wait_until(lambda: workers(box) == before[1], 30, f"{bad.name}: the workers are the same")
            assert (state(box)["MainPID"], load.failed) == (before[0], [])
        write_config(box, CONFIG)
        box.systemctl("reload", "litellm")
    assert "the last reload failed" not in status_text(box)
    assert (load.failed, load.answered > 100) == ([], True)


def assert_reload_fails(box: Box, bad: InvalidConfiguration, program: str) -> None:
    """Check that the command fails, and that one error in the journal and the status contain the cause."""
    start = now(box)
    done = box.run((program, "reload", *(["litellm"] if program == "systemctl" else [])), check=False, timeout=240)
    assert done.returncode != 0, (bad.name, program)
    if program == "litellmctl":
        assert bad.cause in done.stderr
    errors = said(box, "err", start)
    assert len(errors) == 1, (bad.name, program, errors)
    assert errors[0].startswith("reload failed, the previous configuration stays active: ")
    assert bad.cause in errors[0]
    assert bad.cause in status_text(box)


def test_simultaneous_reloads(idle_box: Box) -> None:
    """Ten simultaneous reloads, a reload during another one and one after a crash succeed, one at a time."""
    write_callback(idle_box, "pass\n", f"time.sleep(2)\n{HOLDING}")
    set_up(idle_box, "NUM_WORKERS=2\n", CONFIG + CALLBACK)
    with loaded(idle_box, pause=LONG_PAUSE) as load:
        started = [reload(idle_box, number % 2 == 0) for number in range(10)]
        assert_all_succeed(idle_box, started)
        assert runtime(idle_box)["generation"] <= 11

        generation = runtime(idle_box)["generation"]
        hold(idle_box)
        started = [reload(idle_box)]
        idle_box.wait_until(lambda: runtime(idle_box)["state"] == "reloading", 60, "a reload is under way")
        started.append(reload(idle_box))
        let_go(idle_box)
        assert_all_succeed(idle_box, started)
        assert runtime(idle_box)["generation"] == generation + 2

        # Signals have no result, and several may count as one.
        idle_box.run(("sh", "-c", f"for i in 1 2 3 4 5 6 7 8 9 0; do kill -HUP {state(idle_box)['MainPID']}; done"))
        idle_box.wait_until(lambda: runtime(idle_box)["generation"] > generation + 2, 240, "the signals were heard")
        assert_settled(idle_box)
        assert runtime(idle_box)["generation"] <= generation + 4
        assert load.failed == []
        assert_reload_after_crash(idle_box, load)
    assert said(idle_box, "err") == []


def assert_reload_after_crash(box: Box, load: Load) -> None:
    victim = min(workers(box))
    hold(box)
    signal_process(box, "KILL", victim)
    box.wait_until(
        lambda: [each["state"] for each in runtime(box)["workers"]] != ["serving"] * 2, 60, "its place is empty"
    )
    started = reload(box)
    let_go(box)
    assert_all_succeed(box, [started])
    # On a busy machine another worker may have been late.
    [line] = (line for line in said(box, "warning") if f"(pid {victim})" in line)
    assert "was killed by SIGKILL" in line
    # Only the requests of the killed worker are lost.
    assert (len(load.failed) <= CLIENTS, load.refused) == (True, [])


def reload(box: Box, by_systemctl: bool = True) -> subprocess.Popen[str]:
    return box.popen(("systemctl", "reload", "litellm") if by_systemctl else ("litellmctl", "reload"))


def assert_all_succeed(box: Box, reloads: list[subprocess.Popen[str]]) -> None:
    """Check that all commands succeed, and that at most one generation starts at a time."""
    while any(each.poll() is None for each in reloads):
        found = runtime(box)
        starting = [each["generation"] for each in found["workers"] if each["generation"] > found["generation"]]
        assert len(set(starting)) <= 1
        assert len(starting) <= 2
        time.sleep(0.05)
    assert [each.returncode for each in reloads] == [0] * len(reloads)
    assert_settled(box)


def assert_settled(box: Box) -> None:
    """Wait until there are two workers of one generation and no others."""
    wait_for_workers(box)
    box.wait_until(lambda: runtime(box)["state"] == "serving", 60, "nothing is under way")
    found = runtime(box)["workers"]
    assert [each["state"] for each in found] == ["serving"] * 2
    assert len({each["generation"] for each in found}) == 1
    assert chat(box) == 200
