"""What a worker and the master are made of, seen from within."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from litellm_systemd.runtime.worker import litellm_adapter
from tests.integration.runtime_service import CONFIG, DEADLINE, Service, environment, wait_for

#: A callback of LiteLLM's, found beside the configuration. It looks for what answers the request that called it.
_WITNESS = """
import asyncio, gc, json, os
from pathlib import Path
from litellm.integrations.custom_logger import CustomLogger

class Witness(CustomLogger):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        loop = asyncio.get_running_loop()
        protocols = {f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects()
                     if isinstance(each, asyncio.Protocol) and getattr(each, "cycle", None) is not None}
        seen = {"loop": type(loop).__module__, "protocols": sorted(protocols)}
        Path(__file__).with_name(f"seen.{os.getpid()}").write_text(json.dumps(seen))

witness = Witness()
"""


def test_fast_loop_and_parser(tmp_path: Path) -> None:
    """Every worker answers requests on uvloop's event loop, with httptools' parser."""
    (tmp_path / "witness.py").write_text(_WITNESS)
    with Service(tmp_path, CONFIG % "x" + "litellm_settings: {callbacks: witness.witness}\n") as service:
        service.await_ready()

        def all_seen() -> bool:
            assert service.chat()[0] == 200, service.log()
            return len(list(tmp_path.glob("seen.*"))) == 2

        wait_for("an answer from each worker", all_seen)
        assert service.stop() == 0
    for file in tmp_path.glob("seen.*"):
        seen = json.loads(file.read_text())
        assert seen["loop"].split(".")[0] == "uvloop"
        assert seen["protocols"] == ["uvicorn.protocols.http.httptools_impl.HttpToolsProtocol"]


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
        continue  # the listing's own
print(json.dumps({
    "threads": len(os.listdir("/proc/self/task")),
    "descriptors": [link for link in links if link not in before],
    "missing": [name for name in litellm_adapter._PRELOAD if name not in sys.modules],
}))
"""


@pytest.fixture(scope="module")
def preloaded() -> dict[str, object]:
    """What a process is after the preload."""
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
    """After the preload the master has one thread, and no socket, file or pipe that workers would share."""
    assert preloaded["threads"] == 1
    assert preloaded["descriptors"] == []


def test_preload_is_complete(preloaded: dict[str, object]) -> None:
    """Every module that the preload names still exists in LiteLLM and its dependencies."""
    assert preloaded["missing"] == []


_DOCUMENT = """
import hashlib, json, os, sys
from litellm_systemd.runtime.worker import litellm_adapter

if sys.argv[1] == "preloaded":
    litellm_adapter.preload(os.environ)
document = litellm_adapter.application().openapi()
print(len(document["paths"]), hashlib.sha256(json.dumps(document).encode()).hexdigest())
"""


def test_preload_leaves_the_routes_as_they_are() -> None:
    """What LiteLLM says of its routes is the same to the byte whether they were declared cheaply or not."""
    variables = environment() | litellm_adapter.DEFAULTS | {"PYTHONHASHSEED": "0"}  # it writes sets
    usual, cheap = (
        subprocess.run(
            (sys.executable, "-c", _DOCUMENT, how),
            env=variables,
            capture_output=True,
            text=True,
            check=True,
            timeout=DEADLINE,
            stdin=subprocess.DEVNULL,
        ).stdout.splitlines()[-1]
        for how in ("as it comes", "preloaded")
    )
    assert usual == cheap
    assert int(cheap.split()[0]) > 300
