"""A runtime process for tests, started as by systemd: with a notify socket and a listening socket."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from tests.connections import is_stale
from tests.ports import free_port

KEY = "sk-test-0123456789abcdef"
#: Seconds. With nine processes for each processor, an import of LiteLLM took over a minute.
DEADLINE = 180.0

_UNTRACED = Path(__file__).parents[1] / "untraced"
#: The prefix of datagrams of the test itself.
_MARK = "MARK="
#: Starts the runtime like systemd: the socket is descriptor 3, LISTEN_PID is the pid of the process
#: (sd_listen_fds(3)).
_SHIM = """
import os, sys
fd = int(sys.argv[1])
if fd >= 0:
    names = {"litellm.socket": fd, **({"metrics": int(sys.argv[2])} if int(sys.argv[2]) >= 0 else {})}
    kept = [os.dup(each) for each in names.values()]
    for number, each in enumerate(kept, 3):
        os.dup2(each, number)
        os.set_inheritable(number, True)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(names)), LISTEN_FDNAMES=":".join(names))
os.environ["WATCHDOG_PID"] = str(os.getpid())
stream = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{stream.st_dev}:{stream.st_ino}"
os.execv(sys.executable, [sys.executable, "-m", "litellm_systemd.runtime", *sys.argv[3:]])
"""

CONFIG = """
model_list:
  - model_name: demo
    litellm_params: {model: openai/demo, api_key: none, mock_response: "%s"}
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
"""


def wait_for(what: str, probe: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """Call `probe` until it returns a true value, and return that value. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := probe()):
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.02)
    return value


def coverage_variables() -> dict[str, str]:
    """Variables with which coverage measures a process that imports LiteLLM, if test.sh measures it."""
    config = os.environ.get("COVERAGE_PROCESS_START")
    return {"COVERAGE_PROCESS_START": config, "PYTHONPATH": str(_UNTRACED)} if config else {}


def environment(**more: str) -> dict[str, str]:
    """The environment of a service, which inherits only PATH."""
    return {
        "PATH": os.environ["PATH"],
        **coverage_variables(),
        "HOME": tempfile.gettempdir(),
        "LITELLM_MASTER_KEY": KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        **more,
    }


def run_runtime(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "litellm_systemd.runtime", *arguments)
    return subprocess.run(
        argv, env=environment(**variables), capture_output=True, text=True, timeout=DEADLINE, check=False
    )


class Service:
    """A service with the configuration `text` and `variables` in its environment. Use it in a `with` statement."""

    #: Whether no systemd passes the listener, as in a container.
    owns_port = False

    def __init__(self, folder: Path, text: str = CONFIG % "hello", **variables: str) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.config.write_text(text)
        self.notices: list[str] = []
        self._log = folder / "journal"
        run = folder / "run"
        run.mkdir()
        (folder / "litellm-metrics").mkdir()
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(folder / "notify"))
        self._notify.settimeout(0.2)
        self._closed = threading.Event()
        self._marks = itertools.count(1)
        self._read_to = ""
        # The queue of the socket holds ten datagrams, then senders block. So a thread reads them, as systemd does.
        self._reader = threading.Thread(target=self._read_notices, daemon=True)
        self.listener = None if self.owns_port else socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self.listener.getsockname()[1] if self.listener else free_port()
        #: That of litellm-metrics.socket; only with METRICS, whose address does not matter then.
        self.metrics_listener = socket.create_server(("127.0.0.1", 0)) if "METRICS" in variables else None
        self.control = run / "control.sock"
        self.environment = environment(
            NOTIFY_SOCKET=str(folder / "notify"),
            WATCHDOG_USEC=str(int(float(variables.get("WATCHDOG_TIMEOUT", "30")) * 1e6)),
            RUNTIME_DIRECTORY=str(run),
            **{"NUM_WORKERS": "2", "PORT": str(self.port), **variables},
        )

    def __enter__(self) -> Service:
        self._reader.start()
        passed = [-1 if each is None else each.fileno() for each in (self.listener, self.metrics_listener)]
        argv = (sys.executable, "-c", _SHIM, *map(str, passed), "--config", str(self.config))
        descriptors = [each for each in passed if each >= 0]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(argv, env=self.environment, stderr=log, stdout=log, pass_fds=descriptors)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            pids = [self.process.pid, *self.children()]
            self.process.kill()
            self.process.wait()
            for pid in pids[1:]:
                _end(pid)
        self._await_reader()
        self._closed.set()
        self._reader.join()
        for listener in filter(None, (self.listener, self.metrics_listener)):
            listener.close()
        self._notify.close()

    # Notifications to systemd.

    def read_notices(self) -> list[str]:
        """All assignments that the service has sent."""
        self._await_reader()
        return list(self.notices)

    def _read_notices(self) -> None:
        while not self._closed.is_set():
            try:
                text = self._notify.recv(65536).decode()
            except TimeoutError:
                continue
            if text.startswith(_MARK):
                self._read_to = text
            else:
                self.notices += text.split("\n")

    def _await_reader(self) -> None:
        """Wait until all earlier datagrams are read, by sending another one and waiting for it."""
        if self._closed.is_set():
            return  # the reader has read all datagrams
        mark = f"{_MARK}{next(self._marks)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(mark.encode(), str(self.folder / "notify"))
        wait_for("the reader of notices", lambda: self._read_to == mark)

    def forget_notices(self) -> None:
        """Forget the assignments so far."""
        self._await_reader()
        self.notices.clear()

    def await_notice(self, assignment: str) -> None:
        """Wait until the service has sent an assignment. Fails if the service exits first."""

        def sent() -> bool:
            if assignment in self.read_notices():
                return True
            assert self.process.poll() is None, f"exited with {self.process.returncode}: {self.log()}"
            return False

        wait_for(assignment, sent)

    def await_ready(self) -> None:
        self.await_notice("READY=1")

    def statuses(self) -> list[str]:
        return [line.removeprefix("STATUS=") for line in self.read_notices() if line.startswith("STATUS=")]

    def log(self) -> str:
        return self._log.read_text()

    def await_log(self, text: str) -> str:
        """Wait for a log line that contains `text`, and return the line."""

        def find() -> str:
            return next((line for line in self.log().splitlines() if text in line), "")

        line: str = wait_for(f"{text!r} in the journal", find)
        return line

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the service. Returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    # The control socket.

    def query(self, command: str) -> dict[str, Any]:
        return read_answer(self.send_command(command))

    def send_command(self, command: str) -> socket.socket:
        """Send a command. `read_answer` reads the answer from the returned connection."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE)
        connection.connect(str(self.control))
        connection.sendall(json.dumps({"command": command}).encode() + b"\n")
        return connection

    def reload(self) -> subprocess.CompletedProcess[str]:
        """Run the command of ExecReload=, with the variables that systemd gives it."""
        names = ("RUNTIME_DIRECTORY", "TLS_CERT_FILE", "TLS_KEY_FILE")
        variables = {name: self.environment[name] for name in names if name in self.environment}
        return run_runtime("reload", "--pid", str(self.process.pid), **variables)

    def workers(self, state: str = "serving") -> list[int]:
        """The pids of workers in a state."""
        return [worker["pid"] for worker in self.query("status")["workers"] if worker["state"] == state]

    def await_workers(self, *, without: int = 0, count: int = 2) -> list[int]:
        """Wait until `count` workers serve and `without` is none of them. Returns their pids."""

        def found() -> list[int]:
            pids = self.workers()
            return pids if len(pids) == count and without not in pids else []

        pids: list[int] = wait_for(f"{count} workers without {without}", found)
        return pids

    def children(self) -> list[int]:
        return children_of(self.process.pid)

    def metrics(self) -> dict[str, float]:
        """A scrape: values by name and labels, as they are written (`name{label="value"}`)."""
        assert self.metrics_listener is not None
        client = HTTPConnection("127.0.0.1", self.metrics_listener.getsockname()[1], timeout=DEADLINE)
        client.request("GET", "/metrics")
        with client.getresponse() as response:
            lines = [line for line in response.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    # Clients.

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)

    def chat(self, connection: HTTPConnection | None = None, model: str = "demo") -> tuple[int, str]:
        """Send a chat completion. Returns the status code and the text of the response."""
        connection = connection or self.connect()
        response = post_chat(connection, model)
        body = json.loads(response.read())
        return response.status, body["choices"][0]["message"]["content"] if response.status == 200 else str(body)


class Load:
    """Clients with and without keep-alive that send requests with a key continuously. `failures` must stay empty."""

    def __init__(self, service: Service, clients: int = 6, key: str = KEY) -> None:
        self.answers = 0
        self.failures: list[str] = []
        self._service, self._key = service, key
        self._lock = threading.Lock()
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
                if is_stale(connection):
                    connection.close()
                response = post_chat(connection, "demo", key=self._key)
                body = response.read()
                if response.status != 200:
                    self.failures.append(f"{response.status} {body[:200]!r}")
                with self._lock:
                    self.answers += 1
            except (OSError, HTTPException) as error:
                self.failures.append(repr(error))
            if not keep_alive:
                connection.close()
        connection.close()

    def await_answers(self, more: int) -> None:
        """Wait for this many more responses, so that the service is under load."""
        goal = self.answers + more
        wait_for("answers", lambda: self.answers >= goal or self.failures)


def read_answer(connection: socket.socket) -> dict[str, Any]:
    """Read the answer to `send_command`, and close the connection."""
    with connection, connection.makefile("rb") as lines:
        answer: dict[str, Any] = json.loads(lines.readline())
        return answer


def post(service: Service, path: str, key: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Send a request with a key. Returns the status and the body of the response."""
    connection = service.connect()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    with connection.getresponse() as response:
        return response.status, json.loads(response.read())


def chat(service: Service, key: str, model: str) -> int:
    """Send a chat completion with a key. Returns the status."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return post(service, "/v1/chat/completions", key, body)[0]


def post_chat(connection: HTTPConnection, model: str, stream: bool = False, key: str = KEY, **more: str) -> Any:
    """Send a chat completion with `more` fields. Returns the response with its body unread."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream, **more}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    return connection.getresponse()


def children_of(pid: int) -> list[int]:
    """The pids of the child processes of `pid`."""
    return [child for child, parent in _parents() if parent == pid]


def is_alive(pid: int) -> bool:
    """Whether a process runs. A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def _parents() -> Iterator[tuple[int, int]]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            yield int(stat.parent.name), int(stat.read_text().rpartition(") ")[2].split()[1])
        except OSError:
            continue


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def processor_time(pids: Iterable[int]) -> float:
    """Seconds of processor time that processes have used (proc_pid_stat(5))."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")
