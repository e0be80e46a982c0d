"""The journal of the service: priorities, tracebacks, JSON, and no banners."""

from __future__ import annotations

import json

from box import Box
from load import loaded
from service import (
    CALLBACK,
    CONFIG,
    OWN_LINES,
    chat,
    ctl,
    key,
    now,
    said,
    set_up,
    signal_process,
    wait_for_workers,
    workers,
    write_callback,
    write_config,
)

#: A callback that raises an exception after each chat. LiteLLM logs it with a traceback.
RAISING = """\
async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
    raise ZeroDivisionError("a callback's own mistake")
"""
#: Parts of LiteLLM's output at its start: banner, feedback box, curl command, list of models.
BANNERS = (
    "██",
    "Give Feedback",
    "Thank you for using LiteLLM",
    "curl --location",
    "Set models:",
    "github.com/",
)


def test_tracebacks_and_requests(idle_box: Box) -> None:
    """With ACCESS_LOG=true each request is one line without a key. A callback that raises an exception for each
    request is an error in few lines, and the lines of its traceback are consecutive.
    """
    write_callback(idle_box, RAISING)
    set_up(idle_box, "NUM_WORKERS=2\nACCESS_LOG=true\nAPI_DOCS=true\n", CONFIG + CALLBACK)
    start, secret = now(idle_box), key(idle_box)
    with loaded(idle_box) as load:
        idle_box.wait_until(lambda: load.answered > 200, 180, "some requests")
    idle_box.http("GET", f"http://127.0.0.1:4000/health/liveliness?key={secret}")
    chat(idle_box, bearer="sk-by-mistake-0123456789")
    document = "http://127.0.0.1:4000/openapi.json"
    idle_box.wait_until(lambda: idle_box.http("GET", document).status == 200, 120, "the API document, in the sandbox")
    idle_box.systemctl("stop", "litellm")

    lines = said(idle_box, since=start)
    posts = [line for line in lines if "/v1/chat/completions" in line and " ms " in line]
    assert sum(" 200 " in line for line in posts) == load.answered
    assert len(posts) == load.answered + 1
    assert sum("GET /health/liveliness 200 " in line for line in lines) == 1
    everything = "\n".join(lines)
    assert secret not in everything
    assert "sk-by-mistake-0123456789" not in everything
    from_the_start = "\n".join(said(idle_box))
    assert "serving on 127.0.0.1:4000" in from_the_start
    assert not any(words in from_the_start for words in BANNERS)
    assert_tracebacks_are_whole(idle_box, start)


def assert_tracebacks_are_whole(box: Box, start: str) -> None:
    """Check that the lines of each traceback are consecutive and have the same process and priority."""
    argv = ("--output=json", f"--since={start}", OWN_LINES)
    entries = [json.loads(line) for line in box.journal("litellm", *argv).splitlines()]
    errors = [str(entry["MESSAGE"]) for entry in entries if entry["PRIORITY"] <= "3"]
    assert 0 < len(errors) < 8, errors
    assert all(
        "ZeroDivisionError: a callback's own mistake" in text and "async_log_success" in text for text in errors
    )
    open_by: tuple[str, str] | None = None
    whole = 0
    for entry in entries:
        text, source = str(entry["MESSAGE"]), (entry["_PID"], entry["PRIORITY"])
        if open_by is not None:
            assert source == open_by, text
            if text.startswith("ZeroDivisionError: a callback's own mistake"):
                open_by, whole = None, whole + 1
        elif text.endswith("Traceback (most recent call last):"):
            open_by = source
            assert entry["PRIORITY"] == "7"
    assert whole > 0


def test_json_lines(idle_box: Box) -> None:
    """With JSON_LOGS=true each line of the service is a JSON object, also after reloads, kills and restarts."""
    write_callback(idle_box, RAISING)
    set_up(idle_box, "NUM_WORKERS=2\nACCESS_LOG=true\nJSON_LOGS=true\nWATCHDOG_TIMEOUT=10\n", CONFIG + CALLBACK)
    chat(idle_box)
    chat(idle_box, bearer="sk-wrong")
    chat(idle_box, model="slow", content="no number")
    write_config(idle_box, "model_list: [\n")
    idle_box.systemctl("reload", "litellm", check=False)
    write_config(idle_box, CONFIG + CALLBACK)
    idle_box.systemctl("reload", "litellm")
    wait_for_workers(idle_box)
    for name in ("KILL", "STOP"):
        victim = min(workers(idle_box))
        signal_process(idle_box, name, victim)
        wait_for_workers(idle_box, gone={victim})
    ctl(idle_box, "restart")
    idle_box.systemctl("stop", "litellm")
    lines = [*said(idle_box), *idle_box.journal("litellm-standby.service", OWN_LINES).splitlines()]
    assert len(lines) > 20
    # ExecReload= is another process, which prints nothing in the journal: the service logs the error.
    other = [line for line in lines if not is_object(line)]
    assert other == []


def is_object(line: str) -> bool:
    try:
        found = json.loads(line)
    except ValueError:
        return False
    return isinstance(found, dict) and {"message", "level", "timestamp"} <= set(found)
