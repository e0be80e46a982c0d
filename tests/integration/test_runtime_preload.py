"""The preload of the main process, and the event loop and HTTP parser of the workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from litellm_systemd.runtime.worker import litellm_adapter
from tests.integration.runtime_service import CONFIG, DEADLINE, Service, environment, wait_for

#: A LiteLLM callback that records the event loop and the HTTP protocol of the request that it handles.
_RECORDER = """
import asyncio, gc, json, os
from pathlib import Path
from litellm.integrations.custom_logger import CustomLogger

class Recorder(CustomLogger):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        loop = asyncio.get_running_loop()
        protocols = {f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects()
                     if isinstance(each, asyncio.Protocol) and getattr(each, "cycle", None) is not None}
        seen = {"loop": type(loop).__module__, "protocols": sorted(protocols)}
        Path(__file__).with_name(f"seen.{os.getpid()}").write_text(json.dumps(seen))

recorder = Recorder()
"""


def test_event_loop_and_parser(tmp_path: Path) -> None:
    """Every worker uses uvloop, and httptools with our limits."""
    (tmp_path / "recorder.py").write_text(_RECORDER)
    with Service(tmp_path, CONFIG % "x" + "litellm_settings: {callbacks: recorder.recorder}\n") as service:
        service.await_ready()

        def all_seen() -> bool:
            assert service.chat()[0] == 200, service.log()
            return len(list(tmp_path.glob("seen.*"))) == 2

        wait_for("an answer from each worker", all_seen)
        assert service.stop() == 0
    for file in tmp_path.glob("seen.*"):
        seen = json.loads(file.read_text())
        assert seen["loop"].split(".")[0] == "uvloop"
        assert seen["protocols"] == ["litellm_systemd.runtime.http.protocol.LimitedProtocol"]


_PRELOADED = """
import json, os, sys
from pathlib import Path
from litellm_systemd.runtime.worker import litellm_adapter

before = {os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if int(name) < 3}
litellm_adapter.preload(os.environ)
links = []
for name in os.listdir("/proc/self/fd"):
    try:
        links.append(os.readlink(f"/proc/self/fd/{name}"))
    except OSError:
        continue  # the descriptor of the listing itself
print(json.dumps({
    "threads": len(os.listdir("/proc/self/task")),
    "descriptors": [link for link in links if link not in before],
    "missing": [name for name in litellm_adapter._PRELOAD if name not in sys.modules],
}))
"""


@pytest.fixture(scope="module")
def preloaded() -> dict[str, object]:
    """Threads, descriptors and missing modules of a process after the preload."""
    argv = (sys.executable, "-c", _PRELOADED)
    done = subprocess.run(
        argv,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
        stdin=subprocess.DEVNULL,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_preload_is_safe_to_fork(preloaded: dict[str, object]) -> None:
    """After the preload a process has one thread, and no socket, file or pipe that workers would share."""
    assert preloaded["threads"] == 1
    assert preloaded["descriptors"] == []


def test_preload_is_complete(preloaded: dict[str, object]) -> None:
    """Every module in the list of the preload exists."""
    assert preloaded["missing"] == []


_DOCUMENT = """
import hashlib, json, os, sys
from litellm_systemd.runtime.worker import litellm_adapter

if sys.argv[1] == "preloaded":
    litellm_adapter.preload(os.environ)
document = litellm_adapter.application().openapi()
print(len(document["paths"]), hashlib.sha256(json.dumps(document).encode()).hexdigest())
"""


def test_preload_does_not_change_routes() -> None:
    """The OpenAPI document of LiteLLM is the same with and without the preload."""
    variables = environment() | litellm_adapter.DEFAULTS | {"PYTHONHASHSEED": "0"}  # the document contains sets
    # The tracer doubles the time, and sees no line that other tests don't run.
    variables.pop("COVERAGE_PROCESS_START", None)
    plain, preloaded = (
        subprocess.run(
            (sys.executable, "-c", _DOCUMENT, mode),
            env=variables,
            capture_output=True,
            text=True,
            check=True,
            timeout=DEADLINE,
            stdin=subprocess.DEVNULL,
        ).stdout.splitlines()[-1]
        for mode in ("plain", "preloaded")
    )
    assert plain == preloaded
    assert int(preloaded.split()[0]) > 300
