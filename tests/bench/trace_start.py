"""Run the runtime and write time stamps of its phases: `python -m tests.bench.trace_start FILE ARGUMENTS...`.

Each is a line of JSON: the phase that just ended, the process, the clock, and the processor time of the process.
"""

from __future__ import annotations

import functools
import gc
import importlib._bootstrap_external as machinery
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

#: The processor seconds of the modules of each top-level package, to read and to run them.
packages: defaultdict[str, float] = defaultdict(float)
_inner: list[float] = []


def mark(file: Path, phase: str, **more: Any) -> None:
    line = {"phase": phase, "pid": os.getpid(), "at": time.monotonic(), "cpu": time.process_time(), **more}
    with file.open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def _mark_after(file: Path, owner: Any, name: str, phase: str) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def call(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        mark(file, phase)
        return result

    setattr(owner, name, call)


def _mark_after_async(file: Path, owner: Any, name: str, phase: str) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    async def call(*arguments: Any, **options: Any) -> Any:
        result = await original(*arguments, **options)
        mark(file, phase)
        return result

    setattr(owner, name, call)


def _count_packages() -> None:
    """Measure the time of each module in importlib's loaders, without the modules that it imports."""
    for loader in (machinery.SourceFileLoader, machinery.ExtensionFileLoader):
        _count(loader, loader.exec_module)


def _count(loader: Any, execute: Any) -> None:
    def exec_module(self: Any, module: Any) -> None:
        _inner.append(0.0)
        begin = time.process_time()
        try:
            execute(self, module)
        finally:
            took = time.process_time() - begin
            packages[module.__name__.partition(".")[0]] += took - _inner.pop()
            if _inner:
                _inner[-1] += took

    loader.exec_module = exec_module


def main() -> int:
    file = Path(sys.argv[1])
    mark(file, "interpreter")
    _count_packages()
    from litellm_systemd.runtime.__main__ import main as run
    from litellm_systemd.runtime.master import worker_pool
    from litellm_systemd.runtime.systemd import notify
    from litellm_systemd.runtime.worker import draining_server, litellm_adapter, worker

    mark(file, "our modules")
    _mark_after(file, litellm_adapter, "build", "routes")
    _mark_after(file, litellm_adapter, "_load_guardrail_translations", "import")
    _mark_after(file, gc, "freeze", "freeze")
    _mark_after(file, worker_pool, "reset_process", "fork")
    _mark_after(file, worker, "_set_up", "set-up")
    _mark_after_async(file, draining_server.Server, "startup", "lifespan")
    _mark_after_async(file, draining_server, "get_status", "first 200")
    _mark_after(file, notify.Notifier, "ready", "READY=1")
    preload = litellm_adapter.preload

    def preload_and_mark(environ: Any) -> None:
        preload(environ)
        mark(file, "preloaded", packages=packages)

    vars(litellm_adapter)["preload"] = preload_and_mark
    return run(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
