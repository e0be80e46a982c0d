"""The installed service for tests: its verbs, key, workers and log lines, and a slow upstream model."""

from __future__ import annotations

import http.client
import json
import socket
import textwrap
import time
from typing import Any

from box import Box

from litellm_systemd.contract import CONTROL_SOCKET, RUNTIME_DIRECTORY

BASE = "http://127.0.0.1:4000"
#: The address of the slow model, see `add_upstream`.
UPSTREAM = "127.0.0.1:9000"
MODEL = "claude-sonnet-5-5"
OLD_MODEL = "bedrock-converse-us-claude-3-7-sonnet-v1"

#: If this file exists, the streams of the slow model end early.
_OVER = "/run/upstream-over"
#: Answers a chat after the number of seconds in its message, or with that many events, one a second, and a last one.
_UPSTREAM = """\
import json, os, socket, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Slow(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        seconds = int(asked["messages"][-1]["content"])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if asked.get("stream") else "application/json")
        self.end_headers()
        if asked.get("stream"):
            for number in range(seconds):
                if os.path.exists(sys.argv[1]):
                    break
                self.say("chat.completion.chunk", "delta", f"w{number} ")
                time.sleep(1)
            self.say("chat.completion.chunk", "delta", "end ")
            self.wfile.write(b"data: [DONE]\\n\\n")
        else:
            time.sleep(seconds)
            self.say("chat.completion", "message", "late")

    def say(self, kind, part, text):
        choice = {"index": 0, part: {"role": "assistant", "content": text}, "finish_reason": None}
        if part == "message":
            choice["finish_reason"] = "stop"
        answer = json.dumps({"id": "x", "object": kind, "created": 1, "model": "slow", "choices": [choice]})
        self.wfile.write((answer if part == "message" else f"data: {answer}\\n\\n").encode())
        self.wfile.flush()

    def log_message(self, *_):
        pass

ThreadingHTTPServer.request_queue_size = 64
server = ThreadingHTTPServer(("127.0.0.1", 9000), Slow)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
    systemd.connect(os.environ["NOTIFY_SOCKET"])
    systemd.send(b"READY=1")
server.serve_forever()
"""
_UPSTREAM_UNIT = f"""\
[Service]
Type=notify
ExecStart=python3 /opt/upstream.py {_OVER}
[Install]
WantedBy=multi-user.target
"""
#: A model that answers immediately, and one that calls the upstream.
CONFIG = """\
model_list:
  - model_name: claude-sonnet-5-5
    litellm_params: {model: openai/quick, api_key: none, mock_response: "At once."}
  - model_name: slow
    litellm_params: {model: openai/slow, api_base: "http://127.0.0.1:9000/v1", api_key: none}
router_settings: {num_retries: 0}
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}
"""
#: Appended to a configuration for the callback of `write_callback`.
CALLBACK = "litellm_settings: {callbacks: [mine.handler]}\n"
#: Before a program that calls litellmctl a hundred times: coverage, which other tests measure, makes a call half as
#: long again.
UNMEASURED = ("env", "--unset=COVERAGE_PROCESS_START")
_HELD = "/var/lib/litellm/held"
#: For `write_callback`, before the class: between `hold` and `let_go` each starting worker waits here.
HOLDING = f"while os.path.exists({_HELD!r}):\n    time.sleep(0.05)\n"


# --- verbs ---


def ctl(box: Box, *arguments: str, check: bool = True, **options: Any) -> str:
    return box.run(("/usr/local/bin/litellmctl", *arguments), check=check, timeout=300, **options).stdout


def add_upstream(box: Box) -> None:
    box.write("/opt/upstream.py", _UPSTREAM)
    box.write("/etc/systemd/system/upstream.service", _UPSTREAM_UNIT)
    box.systemctl("enable", "--now", "upstream")


def set_env(box: Box, text: str, *options: str) -> None:
    """Install with that .env and run the service with it."""
    box.write("/root/.env", text, 0o600)
    ctl(box, "install", "--env-file", "/root/.env", "--no-verify", *options)


def set_up(box: Box, env: str, config: str = CONFIG) -> None:
    """Start the service of an idle box with that .env and configuration."""
    box.write("/root/mine.yml", config)
    set_env(box, env, "-c", "/root/mine.yml")


def write_config(box: Box, text: str) -> None:
    """Edit the active configuration without a reload."""
    box.write(f"/etc/litellm/{active_config(box)}", text, 0o640, "root:litellm")


def active_config(box: Box) -> str:
    return box.run(("readlink", "/etc/litellm/config.yaml")).stdout.strip()


def with_model(text: str, name: str) -> str:
    """A configuration with one more model, which answers immediately."""
    model = f"  - {{model_name: {name}, litellm_params: {{model: openai/x, api_key: none, mock_response: hi}}}}\n"
    return text.replace("model_list:\n", f"model_list:\n{model}")


def write_callback(box: Box, body: str, before: str = "") -> None:
    """Write a custom logger, which `CALLBACK` names, next to the configuration: the body of its class, and code
    `before`.
    """
    head = f"import os, time\n{before}from litellm.integrations.custom_logger import CustomLogger\n"
    text = f"{head}class Mine(CustomLogger):\n{textwrap.indent(body, '    ')}handler = Mine()\n"
    box.write("/etc/litellm/mine.py", text, 0o640, "root:litellm")


def hold(box: Box) -> None:
    """From now on no worker whose callback has `HOLDING` becomes ready, so that a test can act on it."""
    box.write(_HELD, "")


def let_go(box: Box) -> None:
    box.run(("rm", _HELD))


def end_streams(box: Box) -> None:
    """End each stream of the slow model with its next event."""
    box.write(_OVER, "")


def let_streams_run(box: Box) -> None:
    """After `end_streams`: streams that begin now have all their events."""
    box.run(("rm", _OVER))


# --- requests ---


def key(box: Box) -> str:
    """The generated key, read with the command that install prints."""
    line = box.run(("grep", "LITELLM_MASTER_KEY", "/etc/litellm/litellm.env")).stdout.strip()
    return line.split("=", 1)[1].strip('"')


def chat(box: Box, model: str = MODEL, bearer: str | None = None, content: str = "hi", timeout: float = 180) -> int:
    """The status of one short chat on a new connection. The timeout is longer than a restart."""
    answer = box.http(
        "POST",
        f"{BASE}/v1/chat/completions",
        body={"model": model, "messages": [{"role": "user", "content": content}]},
        headers={"Authorization": f"Bearer {bearer or key(box)}"},
        timeout=timeout,
    )
    return answer.status


def refused(box: Box) -> bool:
    """Whether the port refuses connections. A connection that is cut or times out was accepted, so it does
    not count.
    """
    try:
        box.http("GET", f"{BASE}/health/liveliness", timeout=5)
    except ConnectionRefusedError:
        return True
    except (OSError, http.client.HTTPException):
        return False
    return False


# --- what can be seen ---


def state(box: Box) -> dict[str, str]:
    return box.show("litellm.service", "ActiveState", "SubState", "NRestarts", "ExecMainStatus", "MainPID")


def status_text(box: Box) -> str:
    """The status of the service in `systemctl status`."""
    return box.show("litellm.service", "StatusText")["StatusText"]


def runtime(box: Box) -> dict[str, Any]:
    """The status of the running service, from its control socket. Empty if there is none.

    `litellmctl status --json` contains the same. Waiting with it would take a processor.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        try:
            connection.connect(f"/proc/{box.leader}/root{RUNTIME_DIRECTORY}/{CONTROL_SOCKET}")
            connection.sendall(b'{"command": "status"}\n')
            answer = connection.makefile("rb").readline()
        except OSError:
            return {}
    found: dict[str, Any] = json.loads(answer or b"{}")
    return found


def workers(box: Box) -> set[str]:
    """The pids of the child processes of the main process."""
    return set(box.run(("pgrep", "-P", state(box)["MainPID"]), check=False).stdout.split())


def processes(box: Box) -> set[str]:
    """The pids of all processes of the service's user."""
    return set(box.run(("pgrep", "-u", "litellm"), check=False).stdout.split())


def inflight(box: Box) -> int:
    """The number of in-flight requests and streams, -1 if the service reports none."""
    found = runtime(box)
    return sum(worker["inflight"] for worker in found["workers"]) if found else -1


def signal_process(box: Box, name: str, pid: str) -> None:
    assert int(pid) > 1  # for kill(1), 0 is the process group of the tests
    box.run(("kill", f"-{name}", pid))


def now(box: Box) -> str:
    """The current time, for `said`. A cursor of the journal would not do: `--after-cursor` omits one line too many if
    its entry does not match the filters (systemd 252).
    """
    box.run(("journalctl", "--sync"), check=False)
    return f"@{time.time():.6f}"


#: For journalctl: the lines that the processes of a unit have written.
OWN_LINES = "_TRANSPORT=stdout"


def said(box: Box, priority: str = "debug", since: str | None = None) -> list[str]:
    """Log lines of the service's own processes, of a priority or above, since boot or since a `now`.

    systemd's lines about the unit have its name too, but do not come from standard error. (The name of the process is
    not used, because journald cannot determine it after the process has exited.)
    """
    return box.journal(
        "litellm", f"--since={since}" if since else "--boot", "--priority", priority, OWN_LINES
    ).splitlines()


def wait_for_workers(box: Box, number: int = 2, gone: set[str] | None = None) -> None:
    """Wait until that many workers serve, no other process of the service runs, and none of `gone` is one of them."""

    def whole() -> bool:
        found = processes(box)
        if len(found) != number + 1 or found & (gone or set()) or state(box)["ActiveState"] != "active":
            return False
        return [each["state"] for each in runtime(box).get("workers", ())] == ["serving"] * number

    box.wait_until(whole, 240, f"{number} workers serve, and nothing else is left")
