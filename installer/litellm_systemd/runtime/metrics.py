"""Prometheus metrics of all workers together.

prometheus_client counts in each process alone, so that each worker would answer /metrics with its own numbers. With a
folder in PROMETHEUS_MULTIPROC_DIR each process counts in files there, and each worker answers for all of them, also
for those that a reload has replaced. LiteLLM's own command sets it as well (`maybe_setup_prometheus_multiproc_dir` in
litellm/proxy/proxy_cli.py).
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import MutableMapping
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
