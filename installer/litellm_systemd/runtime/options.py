"""What the service runs with: its options from the environment, and the LiteLLM configuration, checked.

Defaults and ranges of the options are in the table of variables.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from litellm_systemd import contract
from litellm_systemd.env import variables
from litellm_systemd.env.database import find_url, parse_url
from litellm_systemd.env.retired_keys import RetiredKey, read_retired_keys
from litellm_systemd.env.secret_references import SecretReference, find_references
from litellm_systemd.env.tls import Tls, TlsFiles, find_credentials, find_files
from litellm_systemd.errors import InputError
from litellm_systemd.gateway.config import GatewayConfig, check, read_config, read_text, real_path, render_document
from litellm_systemd.gateway.models import build_served, ends_by_name
from litellm_systemd.gateway.redis_settings import add_redis
from litellm_systemd.gateway.snapshot import load_snapshot
from litellm_systemd.runtime.http.limits import Limits, read_limits
from litellm_systemd.runtime.memory import default_memory_limit, read_total_memory

#: LiteLLM's switch for mock testing, in general_settings (litellm/proxy/route_llm_request.py).
MOCK_TESTING_SETTING = "dangerously_allow_mock_testing_request_params"


@dataclass(frozen=True, slots=True)
class Options:
    """Address, number of workers and limits. Times are in seconds, memory in MiB; 0 is no limit."""

    config: Path
    host: str = variables.HOST.default
    port: int = variables.PORT.default
    trusted_proxies: tuple[str, ...] = variables.TRUSTED_PROXIES.default
    workers: int = 1
    keepalive_timeout: int = variables.KEEPALIVE_TIMEOUT.default
    start_timeout: float = variables.START_TIMEOUT.default
    drain_timeout: float = variables.DRAIN_TIMEOUT.default
    lame_duck_timeout: float = variables.LAME_DUCK_TIMEOUT.default
    #: Between the plan of a drain, when /health/readiness answers 503, and the drain itself.
    deregistration_delay: float = 0.0
    watchdog_timeout: float = variables.WATCHDOG_TIMEOUT.default
    max_requests: int = variables.MAX_REQUESTS.default
    #: A worker may answer up to this many requests more than `max_requests`, so that not all are due at once.
    jitter: int = 0
    memory_limit: int = 0
    limits: Limits = field(default_factory=Limits)
    json_logs: bool = variables.JSON_LOGS.default
    access_log: bool = variables.ACCESS_LOG.default
    runtime_directory: Path | None = None
    #: The certificate and the key of HTTPS, where systemd has copied them; None for plain HTTP.
    tls_files: TlsFiles | None = None
    #: A temporary instance listens here, with one worker, and on no port.
    trial_socket: Path | None = None
    #: Clients may make models fail, for tests.
    mock_testing: bool = False
    #: Anyone may read LiteLLM's catalogues. LiteLLM itself reads whether it serves its documentation.
    api_docs: bool = variables.API_DOCS.default
    #: The variables whose values are in AWS.
    references: tuple[SecretReference, ...] = ()
    #: The address of /metrics, HOST:PORT or the path of a UNIX socket; None if it is off.
    metrics: str | None = None
    #: The master keys that `rotate-key` has replaced.
    retired_keys: tuple[RetiredKey, ...] = ()

    @property
    def hang_limit(self) -> float:
        """A worker whose event loop is blocked for this long is hung, and is killed.

        Half of WatchdogSec=: the master replaces that one worker before systemd would restart the service.
        """
        return self.watchdog_timeout / 2

    @property
    def unhealthy_limit(self) -> float:
        """A worker that passes no health check for this long, although its event loop runs, is recycled.

        Many expensive requests can delay a health check, so this is longer than `hang_limit`.
        """
        return self.watchdog_timeout * 2

    @property
    def beat_interval(self) -> float:
        """Time between two heartbeats of a worker. A few may be late within `hang_limit`."""
        return min(1.0, self.hang_limit / 4)


def read_options(config: Path, environ: Mapping[str, str]) -> Options:
    """`Options` from the service's environment.

    Raises:
        InputError: names the variable that cannot be used.
    """
    variables.check_runtime_variables(environ)
    max_requests = variables.MAX_REQUESTS.read(environ)
    jitter = variables.MAX_REQUESTS_JITTER.read(environ)
    trial = environ.get(contract.TRIAL_SOCKET)
    # A temporary instance on a UNIX socket serves plain HTTP.
    tls_files = None if trial else find_files(environ)
    workers = 1 if trial else variables.NUM_WORKERS.read(environ)
    workers = workers or len(os.sched_getaffinity(0))
    directories = environ.get("RUNTIME_DIRECTORY", "")  # colon-separated if there are several (systemd.exec(5))
    return Options(
        config=config.absolute(),
        host=variables.HOST.read(environ),
        port=variables.PORT.read(environ),
        trusted_proxies=variables.TRUSTED_PROXIES.read(environ),
        workers=workers,
        keepalive_timeout=variables.KEEPALIVE_TIMEOUT.read(environ),
        start_timeout=variables.START_TIMEOUT.read(environ),
        drain_timeout=variables.DRAIN_TIMEOUT.read(environ),
        lame_duck_timeout=variables.LAME_DUCK_TIMEOUT.read(environ),
        deregistration_delay=variables.find_deregistration_delay(environ),
        watchdog_timeout=variables.WATCHDOG_TIMEOUT.read(environ),
        max_requests=max_requests,
        jitter=max_requests // 10 if jitter is None else jitter,
        memory_limit=variables.WORKER_MEMORY_LIMIT.read(environ)
        or default_memory_limit(workers, read_total_memory()),
        limits=read_limits(environ),
        json_logs=variables.JSON_LOGS.read(environ),
        access_log=variables.ACCESS_LOG.read(environ),
        runtime_directory=Path(directories.split(":")[0]) if directories else None,
        tls_files=tls_files and find_credentials(tls_files, environ),
        trial_socket=Path(trial) if trial else None,
        mock_testing=variables.allows_mock_testing(environ),
        api_docs=variables.API_DOCS.read(environ),
        metrics=None if trial else variables.METRICS.read(environ),
        references=find_references(environ),
        retired_keys=read_retired_keys(environ) if environ.get(variables.MASTER_KEY.name) else (),
    )


@dataclass(frozen=True, slots=True)
class Configuration:
    """A checked LiteLLM configuration.

    `path` is the file itself, not a link to it: LiteLLM looks for Python files next to the path that it is given.
    `texts` holds what LiteLLM reads, as it was when it was checked, by path, and the Python files that it imports: a
    worker that is replaced hours later gets these, not an unfinished edit of an administrator. `name` is that of the
    file in its folder. `tls` is the certificate that the workers of this configuration serve, None for plain HTTP.
    `ends` has the day on which Bedrock ends a model, by the name that clients use; only with METRICS. `pool_size` is
    the number of connections of each worker to the database that the administrator has set.
    """

    path: Path
    digest: str
    models: int
    texts: Mapping[str, str] = field(repr=False)
    name: str = ""
    tls: Tls | None = None
    ends: Mapping[str, date] = field(default_factory=dict)
    has_database: bool = False
    pool_size: int | None = None


def load_configuration(path: Path, environ: Mapping[str, str]) -> Configuration:
    """Read and check. Raises InputError, MissingError or PermissionDenied, each with its remedy.

    LiteLLM gets one text with the included files merged in, because it would read these from the disk. The text, but
    not the file, also has the settings for the Redis of the environment, and LiteLLM's switch for mock testing if the
    environment allows that.
    """
    for _ in range(3):
        entry = path.parent / path.readlink() if os.path.islink(path) else path  # noqa: PTH114 - is_symlink() may raise
        file = real_path(entry)
        config = read_config(file)
        check(config, environ)
        texts = {str(each): read_text(each, str(each)) for each in (file, *config.includes)}
        code = {str(each.path): each.text for each in config.python_files}
        if hashlib.sha256("".join([*texts.values(), *code.values()]).encode()).hexdigest() == config.digest:
            document = add_redis(config, environ)
            if variables.allows_mock_testing(environ):
                document = _allow_mock_testing(document)
            if config.includes or document is not config.document:
                texts = {str(file): render_document(document)}
            ends = _find_ends(config, environ) if variables.METRICS.read(environ) else {}
            url = find_url(environ, config.section("general_settings"))
            return Configuration(
                file,
                config.digest,
                len(config.names),
                texts | code,
                entry.name,
                ends=ends,
                has_database=url is not None,
                pool_size=_find_pool_size(config, *url) if url else None,
            )
    raise InputError(f"{path} changes while it is read", "Try again when the edit is complete.")


def _find_pool_size(config: GatewayConfig, url: str, position: str) -> int | None:
    found = config.section("general_settings").get("database_connection_pool_limit")
    text = str(found or parse_url(url, position).parameters.get("connection_limit"))
    return int(text) if text.isdecimal() else None


def _find_ends(config: GatewayConfig, environ: Mapping[str, str]) -> dict[str, date]:
    ends = ends_by_name(build_served(config, environ))
    load_snapshot.cache_clear()
    return ends


def _allow_mock_testing(document: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the switch turned on."""
    settings = document.get("general_settings")
    general = {**(settings if isinstance(settings, Mapping) else {}), MOCK_TESTING_SETTING: True}
    return {**document, "general_settings": general}
