"""The metrics of a main process: that they start without room, and end with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: A main process that finds no room for its first state, and exits while another child of it runs.
_MAIN = """
import errno, os, signal, socket, sys, time
from pathlib import Path
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master.metrics import Metrics
from litellm_systemd.runtime.metrics import families, store
from litellm_systemd.runtime.metrics.store import State
listener = socket.create_server(("127.0.0.1", 0))
listener.setblocking(False)
replace = store._replace
def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")
store._replace = full
metrics = Metrics(listener, Path(sys.argv[1]), os.environ, Journal())
store._replace = replace
metrics.start(lambda: None)
child = os.fork()
if child == 0:
    metrics.close_in_child()
    time.sleep(60)
    os._exit(0)
metrics.tick(time.monotonic(), lambda now: State(((families.READY.name, {}, 1.0),)))
with socket.create_connection(listener.getsockname()) as client:
    client.sendall(b"GET /metrics HTTP/1.1\\r\\n\\r\\n")
    answer = b""
    while part := client.recv(65536):
        answer += part
print(b"litellm_systemd_ready 1.0" in answer, metrics.build_status()["error"] == "")
start = time.monotonic()
metrics.stop()
print(time.monotonic() - start < 30)
os.kill(child, signal.SIGKILL)
"""


def test_start_and_end(tmp_path: Path) -> None:
    """A full file system at the start costs the first state alone, and no child keeps the exporter from its end."""
    argv = (sys.executable, "-c", _MAIN, str(tmp_path))
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "True", "True"]), done
