"""Reload and restart under load: nobody is refused, and nobody gets half an answer."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from box import Box
from load import loaded
from test_service import MODEL, chat, ctl, key, state


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(("systemctl", "reload", "litellm"), id="systemctl reload"),
        pytest.param(("systemctl", "restart", "litellm"), id="systemctl restart"),
        pytest.param(("litellmctl", "restart"), id="litellmctl restart"),
    ],
)
def test_no_request_fails(installed_box: Box, argv: tuple[str, ...]) -> None:
    """While clients chat without a pause, twice in a row, not one request fails, on kept or fresh connections."""
    secret = key(installed_box)
    with loaded(installed_box, secret, MODEL) as load:
        for _ in range(2):
            installed_box.run(argv, timeout=120)
            assert chat(installed_box, bearer=secret) == 200
    assert load.failed == []
    assert load.answered > 0


def test_standby_leaves_no_trace(installed_box: Box) -> None:
    """After `litellmctl restart` the service runs under its own name, as a new process, and nothing else is left."""
    before = state(installed_box)["MainPID"]
    ctl(installed_box, "restart")
    after = state(installed_box)
    assert (after["ActiveState"], after["NRestarts"]) == ("active", "0")
    assert after["MainPID"] != before
    installed_box.wait_until(
        lambda: installed_box.show("litellm-standby.service", "ActiveState")["ActiveState"] == "inactive",
        60,
        "the standby has gone",
    )
    main = installed_box.run(("pgrep", "-f", "litellm_systemd.runtime --config")).stdout.split()
    workers = installed_box.run(("pgrep", "-P", after["MainPID"])).stdout.split()
    assert set(main) == {after["MainPID"], *workers}
    assert not installed_box.exists("/run/systemd/system/litellm-standby.service")
    assert installed_box.systemctl("is-system-running") == "running"


def test_changed_environment_loses_no_request(installed_box: Box) -> None:
    """An install that has to restart the service for a new environment loses no request either."""
    secret = key(installed_box)
    installed_box.write("/root/.env", "MINE=1\n", 0o600)
    with loaded(installed_box, secret, MODEL) as load:
        ctl(installed_box, "install", "--env-file", "/root/.env")
    environ = installed_box.run(("cat", f"/proc/{state(installed_box)['MainPID']}/environ")).stdout.split("\0")
    assert "MINE=1" in environ
    assert load.failed == []
    assert load.answered > 0


def test_standby_honours_drop_ins(installed_box: Box) -> None:
    """When a drop-in of the administrator's keeps the new process from starting, the old one serves on untouched."""
    before = state(installed_box)["MainPID"]
    text = "[Service]\nExecStartPre=/bin/false\n"
    installed_box.write("/etc/systemd/system/litellm.service.d/refuse.conf", text)
    installed_box.systemctl("daemon-reload")
    done = installed_box.run(("litellmctl", "restart"), check=False, timeout=120)
    assert (done.returncode, "was not touched and serves on" in done.stderr) == (69, True), done.stderr
    assert (state(installed_box)["MainPID"], chat(installed_box)) == (before, 200)


UPSTREAM = """\
import json, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Slow(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in range(20):
            delta = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "slow",
                     "choices": [{"index": 0, "delta": {"role": "assistant", "content": f"w{number} "}}]}
            self.wfile.write(f"data: {json.dumps(delta)}\\n\\n".encode())
            self.wfile.flush()
            time.sleep(1)
        self.wfile.write(b"data: [DONE]\\n\\n")

ThreadingHTTPServer(("127.0.0.1", 9000), Slow).serve_forever()
"""
SLOW = """\
model_list:
  - model_name: slow
    litellm_params: {model: openai/slow, api_base: "http://127.0.0.1:9000/v1", api_key: none}
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}
"""
UPSTREAM_UNIT = "[Service]\nExecStart=python3 /root/upstream.py\n"


def read_stream(box: Box, secret: str) -> str:
    """The whole text of one streamed answer of the slow model, `[DONE]` included."""
    body = json.dumps({"model": "slow", "stream": True, "messages": [{"role": "user", "content": "hi"}]})
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    with contextlib.closing(box.http_connection("127.0.0.1", 4000, timeout=60)) as connection:
        connection.request("POST", "/v1/chat/completions", body, headers)
        return connection.getresponse().read().decode()


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param(["systemctl reload litellm", "litellmctl restart"], id="reload and litellmctl restart"),
        pytest.param(["systemctl restart litellm"], id="systemctl restart"),
    ],
)
def test_no_stream_is_cut(installed_box: Box, commands: list[str]) -> None:
    """Eight streams of twenty seconds that are open when it begins all come to their end."""
    installed_box.write("/root/upstream.py", UPSTREAM)
    installed_box.write("/etc/systemd/system/upstream.service", UPSTREAM_UNIT)
    installed_box.systemctl("start", "upstream")
    installed_box.write("/root/slow.yml", SLOW)
    ctl(installed_box, "config", "use", "./slow.yml", cwd="/root")
    secret = key(installed_box)
    with ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(read_stream, installed_box, secret) for _ in range(8)]
        installed_box.wait_until(lambda: _inflight(installed_box) == 8, 30, "eight streams are open")
        for command in commands:
            installed_box.run(command.split(), timeout=120)
        texts = [stream.result(timeout=120) for stream in streams]
    assert [text.rstrip().endswith("data: [DONE]") for text in texts] == [True] * 8
    assert all(f"w{number} " in text for text in texts for number in range(20))


def _inflight(box: Box) -> int:
    report = json.loads(ctl(box, "status", "--json"))
    return sum(worker["inflight"] for worker in report["data"]["runtime"]["workers"])
