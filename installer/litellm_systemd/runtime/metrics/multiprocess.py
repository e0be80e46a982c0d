"""Prometheus metrics of all workers together.

prometheus_client counts in each process alone, so that each worker would answer /metrics with its own numbers. With a
folder in PROMETHEUS_MULTIPROC_DIR each process counts in files there, and each worker answers for all of them, also
for those that a reload has replaced. LiteLLM's own command sets it as well (`maybe_setup_prometheus_multiproc_dir` in
litellm/proxy/proxy_cli.py).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Mapping, MutableMapping
from pathlib import Path

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def share_metrics(environ: MutableMapping[str, str], directory: Path | None, workers: int) -> None:
    """Let the workers count together in a new folder of the runtime directory. Call it before LiteLLM is imported.

    A folder that the environment names is left to the user.
    """
    if _VARIABLE in environ or directory is None or workers < 2 or not importlib.util.find_spec("prometheus_client"):
        return
    folder = directory / "prometheus"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    environ[_VARIABLE] = str(folder)


def forget_live_gauges(pid: int, environ: Mapping[str, str] = os.environ) -> None:
    """Remove the gauges that count only while their process runs, such as the number of requests in flight.

    prometheus_client leaves that to the parent process (`mark_process_dead` in prometheus_client/multiprocess.py).
    """
    if folder := environ.get(_VARIABLE):
        for file in Path(folder).glob(f"gauge_live*_{pid}.db"):
            with contextlib.suppress(OSError):
                file.unlink()
