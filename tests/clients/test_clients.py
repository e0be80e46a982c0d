"""Coding agents and SDKs use the installed service: on the demo configuration first, then on a Bedrock on loopback.

All programs do each task at the same time, because a reload or a killed worker takes as long for one as for all.
Every task is a fixture, and a test checks what one program made of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pytest
from aws import control_fakes
from service import ctl, inflight, signal_process, wait_for_workers, workers

from tests.clients.programs import HOME, INSTALLED, MISSING, PROGRAMS, Program
from tests.clients.running import Desk, Run

Runs = dict[str, Run]

EACH = [
    pytest.param(
        program, id=program.name, marks=[pytest.mark.skip(MISSING.get(program.name, ""))] * (program.name in MISSING)
    )
    for program in PROGRAMS
]
SDKS = [pytest.param(program, id=program.name) for program in INSTALLED if program.is_sdk]

WORDS = 150
#: A stream of 15 seconds, in which a restart fits.
STREAM = f"STREAM {WORDS} EVENTS EVERY 100 MS"
ENDLESS = "STREAM 6000 EVENTS EVERY 100 MS"
#: Seconds in which all programs start and get an answer. On a slow machine aider starts in more than a minute.
_LIMIT = 300
#: Commands of tools wait for this file.
GATE = f"{HOME}/gate"
EDITED = "The gateway edited this."
EDIT = "Edit notes.txt, please."
#: What aider runs after its edit: its "tool".
_TEST = f"""\
[ -e tested ] && exit 0
touch reached tested
while [ ! -e {GATE} ]; do sleep 0.1; done
echo {STREAM}
exit 1
"""


def start(desk: Desk, mode: str, prompt: str, *further: str, **options: Any) -> Runs:
    """Start all programs with a prompt. `further` are later prompts of the SDKs' programs, which run on."""
    return {
        program.name: desk.start(program, *((mode, prompt, *further) if program.is_sdk else (prompt,)), **options)
        for program in INSTALLED
    }


def finish(runs: Runs) -> Runs:
    return {name: run.wait() for name, run in runs.items()}


def count_requests(desk: Desk, mark: str) -> int:
    """How many requests with that text in a prompt the model received. Titles are asked for without tools."""
    bodies = [body for body in control_fakes(desk.box, "bodies") if mark in json.dumps(body["messages"])]
    with_tools = [body for body in bodies if "tools" in body or "toolConfig" in body]
    return len(with_tools or bodies)


def words(run: Run) -> int:
    """How many words of a STREAM a program has printed, in one piece."""
    longest = max(re.findall(r"(?:\b\d{4}\s+)+", f"{run.text or run.printed}\n"), key=len, default="")
    return len(longest.split())


def wait_for_streams(desk: Desk, runs: Runs) -> None:
    """Wait until a stream of each program is open, and each SDK has read its beginning: before that it repeats a
    request that fails. An agent prints only at the end, and may have another request in flight.
    """

    def all_open() -> bool:
        sdks = [run for run in runs.values() if run.program.is_sdk]
        return all(words(run) for run in sdks) and inflight(desk.box) >= len(runs)

    desk.box.wait_until(all_open, _LIMIT, f"{', '.join(runs)} read streams")


# --- the demo configuration ---


@pytest.fixture(scope="module")
def demo_runs(demo: Desk) -> Runs:
    """Each program asks for a file on the demo configuration."""
    return finish(
        {
            program.name: demo.start(
                program,
                *(("loop",) if program.is_sdk else ()),
                f"Run `echo demo > {program.work}/demo.txt`, and report.",
            )
            for program in INSTALLED
        }
    )


@pytest.mark.parametrize("program", EACH)
def test_demo(demo: Desk, demo_runs: Runs, program: Program) -> None:
    """On the demo configuration each client gets an answer, and each one with tools runs the command of a prompt."""
    run = demo_runs[program.name]
    assert run.code == 0, run
    assert "This is the demo configuration" in run.text, run
    if program.name != "aider":
        assert demo.box.read(f"{program.work}/demo.txt") == "demo\n", run


# --- chats ---


@pytest.fixture(scope="module")
def chats(bedrock: Desk) -> Runs:
    return finish(start(bedrock, "chat", "ping"))


@pytest.mark.parametrize("program", EACH)
def test_chat(chats: Runs, program: Program) -> None:
    """Each client prints the answer of the model."""
    run = chats[program.name]
    assert run.code == 0, run
    assert "pong" in run.text, run


@pytest.mark.parametrize("program", SDKS)
def test_stream(bedrock: Desk, program: Program) -> None:
    """Each SDK reads every event of a stream, also of OpenAI's Responses."""
    for mode in ("stream", "responses") if program.name.startswith("openai") else ("stream",):
        run = bedrock.start(program, mode, "STREAM 40 EVENTS").wait()
        assert (run.code, words(run)) == (0, 40), run


# --- a loop, with a reload and a restart ---


def start_loop(desk: Desk, program: Program) -> Run:
    """Start a program that edits notes.txt, waits for the gate, and streams."""
    notes, reached = f"{program.work}/notes.txt", f"{program.work}/reached"
    if program.write is None or program.shell is None:
        # aider. The model's first answer is the edit, in the form that aider asks for.
        desk.box.write(f"{program.work}/test.sh", _TEST)
        edit = {"text": f"notes.txt\n```\n{EDITED}\n```\n", "times": 1}
        control_fakes(desk.box, "script", **{"us.anthropic.claude-sonnet-4-6": edit})
        options = (
            "--model",
            "openai/claude-sonnet-4-6",
            "--edit-format",
            "whole",
            "--auto-test",
            "--test-cmd",
            "sh test.sh",
            "notes.txt",
        )
        return desk.start(program, EDIT, *options)
    wait = f"touch {reached}; while [ ! -e {GATE} ]; do sleep 0.1; done"
    prompt = f"{program.write(notes, EDITED)} {program.shell(wait)} {STREAM}"
    return desk.start(program, *(("loop",) if program.is_sdk else ()), prompt)


def run_until_tool(desk: Desk, programs: Iterable[Program]) -> Runs:
    """Start the programs, and wait until the tool of each one waits for the gate."""
    runs = {program.name: start_loop(desk, program) for program in programs}

    def all_wait() -> bool:
        return all(run.ended or desk.box.exists(f"{run.program.work}/reached") for run in runs.values())

    desk.box.wait_until(all_wait, _LIMIT, f"{', '.join(runs)} run their tools")
    return runs


@pytest.fixture(scope="module")
def loops(bedrock: Desk) -> Runs:
    """Each program edits a file and then streams. While its tool runs, the service reloads; in the middle of the
    stream it restarts.
    """
    box = bedrock.box
    # Codex starts last: its tool returns after 30 seconds, and on a slow machine the others start in more.
    codex = [program for program in INSTALLED if program.name == "codex"]
    runs = run_until_tool(bedrock, (program for program in INSTALLED if program not in codex))
    runs |= run_until_tool(bedrock, codex)
    ctl(box, "reload")
    box.write(GATE, "")
    box.wait_until(lambda: inflight(box) >= sum(not run.ended for run in runs.values()), _LIMIT, "streams are open")
    ctl(box, "restart")
    return finish(runs)


@pytest.mark.parametrize("program", EACH)
def test_loop(bedrock: Desk, loops: Runs, program: Program) -> None:
    """A reload and a restart in the middle of a loop with tools lose nothing: the file is edited, the stream is
    whole, and no request was repeated.
    """
    run = loops[program.name]
    assert bedrock.box.read(f"{program.work}/notes.txt").strip() == EDITED, run
    assert (run.code, words(run)) == (0, WORDS), run
    calls = f"{run.argv[-1]} {run.prompt}".count("CALL ") if program.write else 1
    mark = f"{program.work}/reached" if program.write else EDIT
    assert count_requests(bedrock, mark) == calls + 1, run


# --- cancel ---


@pytest.fixture(scope="module")
def cancelled(bedrock: Desk) -> Runs:
    """Each program is interrupted in the middle of an endless stream."""
    runs = start(bedrock, "stream", ENDLESS, "ping")
    wait_for_streams(bedrock, runs)
    for run in runs.values():
        run.interrupt()
    bedrock.box.wait_until(lambda: inflight(bedrock.box) == 0, 90, "no stream is open")
    return finish(runs)


@pytest.mark.parametrize("program", EACH)
def test_cancel(cancelled: Runs, program: Program) -> None:
    """Ctrl-C in the middle of a stream ends it, and the gateway frees it. An SDK's next request succeeds."""
    run = cancelled[program.name]
    assert words(run) < 1000, run
    if program.is_sdk:
        assert words(run) > 0, run
        assert run.code == 0, run
        assert "pong" in run.text, run


# --- a wrong key ---


@pytest.fixture(scope="module")
def refused(bedrock: Desk) -> Runs:
    return finish(start(bedrock, "chat", "ping", wrong=True))


@pytest.mark.parametrize("program", EACH)
def test_wrong_key(refused: Runs, program: Program) -> None:
    """A wrong key is an AuthenticationError in each SDK, and each agent says so."""
    run = refused[program.name]
    assert "pong" not in run.text, run
    if program.is_sdk:
        assert run.code == 1, run
        assert run.text.startswith("AuthenticationError: "), run
    else:
        assert re.search(r"401|authenticat|api key", run.text, re.IGNORECASE), run


# --- prefill ---


@pytest.mark.parametrize("program", SDKS)
def test_prefill(bedrock: Desk, program: Program) -> None:
    """A message of the assistant at the end reaches a model as it is: Bedrock's refusal is a BadRequestError."""
    run = bedrock.start(program, "prefill", "ping").wait()
    assert run.code == 1, run
    assert run.text.startswith("BadRequestError: "), run
    assert "prefill" in run.text, run


# --- a killed worker ---


@pytest.fixture(scope="module")
def killed(bedrock: Desk) -> Runs:
    """The workers are killed in the middle of each program's stream. Then the model answers at once."""
    box = bedrock.box
    endless = "".join(f"{number:04} " for number in range(6000))
    control_fakes(box, "script", **{"us.anthropic.claude-sonnet-5-5": {"text": endless, "size": 5, "pause": 0.1}})
    runs = start(bedrock, "stream", "ping", "ping")
    wait_for_streams(bedrock, runs)
    control_fakes(box, "script")
    for pid in workers(box):
        signal_process(box, "KILL", pid)
    wait_for_workers(box)
    return finish(runs)


@pytest.mark.parametrize("program", EACH)
def test_killed_worker(bedrock: Desk, killed: Runs, program: Program) -> None:
    """A killed worker never looks like a short answer: the client reports the broken stream or repeats the request.
    Its next turn succeeds.
    """
    run = killed[program.name]
    if program.repeats:
        assert "pong" in run.text, run
    else:
        assert re.search("error", run.text, re.IGNORECASE), run
    if not program.is_sdk:
        run = bedrock.start(program, "ping", resume=True).wait()
    assert run.code == 0, run
    assert "pong" in run.text, run
