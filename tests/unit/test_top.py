"""`litellmctl top`: the figures of an exposition, and what a terminal of any size shows of them."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import pytest

from litellm_systemd.cli.top_display import build_screen
from litellm_systemd.client.gateway import Gateway
from litellm_systemd.client.metrics import LABELS, find_listener, needs_key, parse_samples, read_samples
from litellm_systemd.commands.figures import Ends, Latency, Sample
from litellm_systemd.commands.top import History, Snapshot
from litellm_systemd.errors import InvalidAnswer, PermissionDenied, Unavailable
from litellm_systemd.runtime.metrics.families import FAMILIES, PREFIX
from tests.unit.invented_top import EXPOSITION, figures, snapshot


def lines(shown: Snapshot, width: int, height: int | None = None) -> list[str]:
    return build_screen(shown, width, height).plain.split("\n")


def test_figures_of_an_exposition() -> None:
    """Requests by status, tokens, cost and models are the sums over all other labels."""
    found = figures(EXPOSITION)
    assert {status: rate.total for status, rate in (found.statuses or {}).items()} == {"200": 9, "400": 1, "500": 1}
    assert (found.inflight, found.connections, found.backlog, found.restarts) == (1, 3, 0, 2)
    assert found.worker_states == {"ready": 2, "draining": 1}
    assert found.reloads == {"success": 3, "failure": 1}
    assert [(each.model, each.requests.total, each.errors.total) for each in found.models or ()] == [
        ("demo", 3, 0),
        ("broken", 1, 1),
        ("claude-sonnet-5-5", 1, 0),
        ("other", 1, 1),
    ]
    demo = (found.models or ())[0]
    assert (demo.input_tokens.total, demo.output_tokens.total, demo.cost) == (29, 42, 0.00113)
    assert demo.first_token is not None
    assert demo.first_token.p50 == pytest.approx(0.0075)
    assert demo.first_token.p95 == pytest.approx(0.00975)
    assert found.cost is not None
    assert found.cost.total == pytest.approx(0.00163)
    assert found.ends == Ends(1_900_000_000.0, None, {"claude-3-7": 1_850_000_000.0})


def test_the_service_has_the_metrics_that_are_read() -> None:
    """The names and labels that are read are those that the service publishes."""
    published = {each.name: next(iter(each.labels), "") for each in FAMILIES}
    read = {name: label for name, label in LABELS.items() if name.startswith(PREFIX)}
    assert len(read) > 5
    assert read.items() <= published.items()


def test_rates_between_two_expositions() -> None:
    """A rate is the growth per second. A label that is new grew from 0, and a counter that began again from 0 too."""
    name = 'litellm_systemd_http_requests_total{status="%s"} %d\n'
    found = figures(name % (200, 50) + name % (401, 8) + name % (500, 2), name % (200, 10) + name % (500, 900))
    assert {status: rate.per_second for status, rate in (found.statuses or {}).items()} == {
        **{"200": 10.0, "401": 2.0, "500": 0.5}
    }
    assert found.requests is not None
    assert found.requests.per_second == 12.5
    assert found.window == 4.0


def test_latency_of_the_last_minute() -> None:
    """Latencies are those of the recent requests; without such, those of all."""
    name = 'litellm_request_total_latency_metric_bucket{le="%s",requested_model="a"} %d\n'
    total = 'litellm_proxy_total_requests_metric_total{requested_model="a"} 20\n'
    old = total + name % ("1.0", 10) + name % ("2.0", 10) + name % ("+Inf", 10)
    new = total + name % ("1.0", 10) + name % ("2.0", 20) + name % ("+Inf", 20)
    [recent] = figures(new, longer_ago=Sample(50.0, parse_samples(old), {})).models or ()
    assert recent.latency == Latency(1.5, 1.95)
    [idle] = figures(old, longer_ago=Sample(50.0, parse_samples(old), {})).models or ()
    assert idle.latency == Latency(0.5, 0.95)


@pytest.mark.parametrize("number", ["NaN", "+Inf", "-Inf"])
def test_what_is_no_number_is_left_out(number: str) -> None:
    """A value that JSON cannot express is no figure."""
    assert figures(f"litellm_systemd_connections {number}\n").connections is None


@pytest.mark.parametrize(
    "text",
    [
        'litellm_spend_metric_total{requested_model="a} 1\n',
        "litellm_spend_metric_total{} x\n",
        "litellm_request_total_latency_metric_bucket{} 1\n",
    ],
)
def test_no_exposition(text: str) -> None:
    """What a compromised service answers in place of metrics is an error, not a traceback."""
    with pytest.raises(InvalidAnswer):
        parse_samples(text)


@pytest.mark.parametrize(
    ("listen", "where", "key"),
    [
        ("127.0.0.1:9400 (Stream)", "127.0.0.1:9400", False),
        ("[::1]:9400 (Stream)", "[::1]:9400", False),
        ("0.0.0.0:9400 (Stream)", "0.0.0.0:9400", True),
        ("192.0.2.7:9400 (Stream)\n[::1]:9400 (Stream)", "192.0.2.7:9400", True),
        ("/run/litellm-metrics.sock (Stream)", "/run/litellm-metrics.sock", False),
        ("", None, False),
        ("127.0.0.1:9400 (Datagram)", None, False),
    ],
)
def test_where_the_metrics_are(listen: str, where: str | None, key: bool) -> None:
    """The listener is that of the socket unit, and only one that other machines reach gets the key."""
    found = find_listener(listen)
    assert (None if found is None else found.where) == where
    assert found is None or needs_key(found) is key


class _Handler(BaseHTTPRequestHandler):
    """Answers /metrics, for `keyed` servers only with the key."""

    def do_GET(self) -> None:
        key = self.headers.get("Authorization")
        is_refused = getattr(self.server, "keyed", False) and key != "Bearer sk-metrics"
        body = b"" if is_refused else EXPOSITION.encode()
        self.send_response(401 if is_refused else 200 if self.path == "/metrics" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


class _UnixServer(ThreadingMixIn, UnixStreamServer):
    def get_request(self) -> tuple[Any, Any]:
        return super().get_request()[0], ("local", 0)


@contextmanager
def serving(server: Any) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_read_over_tcp_with_a_key() -> None:
    """The key is sent, and its refusal says what to do."""
    with serving(HTTPServer(("127.0.0.1", 0), _Handler)) as server:
        server.keyed = True
        listener = Gateway(f"http://127.0.0.1:{server.server_port}", "sk-metrics")
        assert read_samples(listener, 5).total("litellm_spend_metric_total") > 0
        with pytest.raises(PermissionDenied, match="need a key"):
            read_samples(Gateway(listener.base_url), 5)
    with pytest.raises(Unavailable, match="nothing listens"):
        read_samples(listener, 5)


def test_read_over_a_unix_socket(tmp_path: Path) -> None:
    """A UNIX socket is read without a key."""
    path = tmp_path / "metrics.sock"
    with serving(_UnixServer(str(path), _Handler)):
        found = find_listener(f"{path} (Stream)")
        assert found is not None
        assert read_samples(found, 5).total("litellm_spend_metric_total") > 0


@pytest.mark.parametrize("width", [40, 80, 200])
def test_widths(width: int) -> None:
    """No line is wider than the terminal; the more columns there are, the more figures."""
    shown = lines(snapshot(figures(EXPOSITION, EXPOSITION)), width)
    assert max(map(len, shown)) <= width
    [models] = [line.split() for line in shown if line.startswith("model ")]
    [workers] = [line.split() for line in shown if line.startswith("worker ")]
    assert {"req/s", "errors", "latency"} <= set(models)
    assert ("cost" in models, "95" in models) == (width >= 80, width >= 200)
    assert ("pid" in workers, "age" in workers) == (width >= 80, width >= 200)
    text = " ".join(" ".join(shown).split())
    assert "last reload failed in 2.1 s, demo.yml has no model_list" in text
    assert "The credentials are not known." in text


@pytest.mark.parametrize(("width", "height"), [(40, 24), (80, 24), (200, 24), (200, 40)])
def test_what_does_not_fit_is_counted(width: int, height: int) -> None:
    """Rows for which a low terminal has no lines are counted. Models and notes are always shown."""
    found = snapshot(figures(EXPOSITION, EXPOSITION))
    shown = lines(found, width, height)
    assert len(shown) <= height
    assert any(line.startswith("model ") for line in shown)
    assert shown[-1].endswith("not known.")
    left_out = [int(line.split()[1]) for line in shown if line.startswith("… ")]
    assert bool(left_out) is (height == 24)
    if width > 40:
        assert any("bedrock-throttled" in line for line in shown)
        assert len(shown) + sum(left_out) - len(left_out) == len(lines(found, width))


def test_names_cannot_act_on_the_terminal() -> None:
    """A model's name with escape sequences is text."""
    text = 'litellm_proxy_total_requests_metric_total{requested_model="\x1b]0;x\x07\x1b[2J"} 1\n'
    shown = "\n".join(lines(snapshot(figures(text), title="\x1b[2Jserving"), 200))
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\ufffd[2J" in shown


def test_history() -> None:
    """Rates begin within the last 10 seconds, latencies a minute ago, and both again if the source changes."""
    history = History()
    assert history.add(Sample(0.0, None, {"7": 0.0})) == (None, None)
    for second in range(2, 100, 2):
        before, longer_ago = history.add(Sample(second, None, {"7": 0.0}))
    assert before is not None
    assert longer_ago is not None
    assert (before.moment, longer_ago.moment) == (88.0, 38.0)
    assert history.add(Sample(100.0, parse_samples(EXPOSITION), {"7": 0.0})) == (None, None)
    # The workers do not matter then: those of a standby are unknown.
    before, _ = history.add(Sample(102.0, parse_samples(EXPOSITION), {}))
    assert before is not None
    # With an interval that is longer than both.
    assert history.add(Sample(500.0, parse_samples(EXPOSITION), {"7": 0.0}))[0] is not None


class Terminal:
    """`top` on a terminal of its own, with 80 columns. `environ` is added to the environment."""

    def __init__(self, **environ: str) -> None:
        self._main, self._side = pty.openpty()
        self.resize(80)
        self.mode = termios.tcgetattr(self._side)
        self.written = ""
        environment = {**os.environ, "TERM": "xterm", **environ}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            if name not in environ:
                environment.pop(name, None)
        # The terminal that Ctrl-C acts on.
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            ("setsid", "--ctty", *argv()), env=environment, stdin=self._side, stdout=self._side, stderr=self._side
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)
        os.close(self._side)

    def resize(self, width: int) -> None:
        fcntl.ioctl(self._side, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def wait_for(self, pattern: str) -> str:
        """What was written since the last call, up to a screen that matches, and those that follow it at once. A
        screen arrives in several parts.
        """
        found, deadline = "", time.monotonic() + 120
        while (is_written := bool(select.select([self._main], [], [], 0.2)[0])) or not re.search(pattern, found):
            assert time.monotonic() < deadline, f"no {pattern!r} in {found[-500:]!r}"
            if is_written:
                found += os.read(self._main, 65536).decode(errors="replace")
        self.written += found
        return found

    def exit_code(self) -> int:
        """The exit code, once it has exited and its last output was read."""
        code = self.process.wait(120)
        while select.select([self._main], [], [], 0.1)[0]:
            self.written += os.read(self._main, 65536).decode()
        return code


def argv(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.unit.invented_top", "top", "--interval", "0.5", *arguments)


#: The alternative screen of a terminal, and the end of it (xterm: ctlseqs).
_SCREEN, _NO_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), [("q", 0), ("\x03", 0), (signal.SIGTERM, 143)])
def test_the_end_restores_the_terminal(end: str | signal.Signals, code: int) -> None:
    """q and Ctrl-C end it with 0, and the terminal is as it was, also after a signal. Other keys are ignored."""
    with Terminal() as terminal:
        terminal.wait_for("observation 1")
        terminal.press("x\r ")
        if isinstance(end, str):
            terminal.press(end)
        else:
            terminal.process.send_signal(end)
        assert terminal.exit_code() == code
        assert terminal.mode == termios.tcgetattr(terminal._side)
    assert terminal.written.count(_SCREEN) == terminal.written.count(_NO_SCREEN) == 1
    assert terminal.written.rindex(_NO_SCREEN) > terminal.written.rindex("observation 1")


@pytest.mark.slow
def test_an_error_passes_and_a_new_size_is_used() -> None:
    """What cannot be observed at the moment is reported, and it goes on. A resized terminal is drawn at its new size.
    NO_COLOR leaves the colors out.
    """
    with Terminal(NO_COLOR="1") as terminal:
        # On a busy machine several screens may be read together, so the next one has any number.
        assert "observation 1" in terminal.wait_for("systemd does not answer")
        assert "generation" in terminal.wait_for(r"observation \d")
        terminal.resize(40)
        terminal.wait_for(r"observation \d")
        assert "generation" not in terminal.wait_for(r"observation \d")
        terminal.press("q")
        assert terminal.exit_code() == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal.written)


@pytest.mark.slow
def test_a_pipe_gets_one_snapshot() -> None:
    """Where the output is no terminal, the figures are printed once without escape sequences."""
    done = subprocess.run(argv(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("observation 2 ")
    assert "\x1b" not in done.stdout


@pytest.mark.slow
def test_json_lines() -> None:
    """--json prints an object for each snapshot until the reader is gone; with --once one."""
    with subprocess.Popen(argv("--json"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.stdout.close()
        assert process.wait(30) == 0
    assert (first["title"], second["title"]) == ("observation 2", "observation 3")
    assert first["figures"]["statuses"]["200"] == {"total": 9.0, "per_second": 0.0}
    assert first["workers"][0]["pss_mib"] == 234
    assert first["errors"][0]["kind"] == "bedrock-throttled"
    done = subprocess.run(argv("--json", "--once"), capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(done.stdout)["title"] == "observation 2"
