"""The adapter to LiteLLM: only this module, `litellm_authentication`, `_routes`, `_database`, `_outages`, `_redis`,
`_fixes`, `_metrics` and `_telemetry` use LiteLLM's modules.

It imports them by name at run time, because the import takes seconds and only a serving process needs it.

The functions for routes make FastAPI prepare LiteLLM's thousand routes in half the time, and before the workers are
forked (docs/profile.md). None is required: with a FastAPI whose internals differ, it has no effect.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib
import importlib.machinery
import importlib.util
import inspect
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, ForwardRef

from litellm_systemd.contract import OFFLINE_VARIABLES
from litellm_systemd.env.variables import API_DOCS, CORS_ORIGINS, is_on
from litellm_systemd.gateway.python_files import module_file
from litellm_systemd.runtime.worker import (
    litellm_database,
    litellm_failures,
    litellm_fixes,
    litellm_metrics,
    litellm_outages,
    litellm_redis,
    litellm_telemetry,
)

_UTILS = "fastapi.dependencies.utils"
_FIELDS = "fastapi._compat.v2"
_ADAPTER = "_type_adapter"


@contextlib.contextmanager
def lazy_declaration() -> Iterator[None]:
    """Declare routes with `cached_signatures` and `lazy_type_adapters`."""
    with cached_signatures(), lazy_type_adapters():
        yield


def prepare(application: Any) -> None:
    """Make FastAPI prepare its routes now instead of during the first request of each worker.

    FastAPI computes the parameters of a route when it first compares the route with a request (effective_candidates
    in fastapi/routing.py). That takes a quarter of a second up to the routes of the health checks, and half a second
    for /v1/messages or an unknown path. Here each route is compared with a path that matches none. No route is
    called.
    """
    scope = {"type": "http", "method": "GET", "path": "/-", "root_path": "", "headers": [], "query_string": b""}
    with contextlib.suppress(Exception):
        for route in application.router.routes:
            route.matches(dict(scope))


@contextlib.contextmanager
def cached_signatures() -> Iterator[None]:
    """Make FastAPI compute the signature of a function once, not for each of the routes that depend on it.

    A signature cannot change (inspect.Signature) unless it contains an unresolved name; such signatures are not
    cached. The cache is dropped at the end. See get_typed_signature in fastapi/dependencies/utils.py.
    """
    utils: Any = importlib.import_module(_UTILS)
    original: Any = getattr(utils, "get_typed_signature", None)
    cache: dict[int, tuple[Any, inspect.Signature]] = {}  # holds the function too, so that its id stays unique

    def get_typed_signature(call: Any) -> inspect.Signature:
        if id(call) in cache:
            return cache[id(call)][1]
        signature: inspect.Signature = original(call)
        if not any(isinstance(each.annotation, (str, ForwardRef)) for each in signature.parameters.values()):
            cache[id(call)] = call, signature
        return signature

    if original is None:
        yield
        return
    utils.get_typed_signature = get_typed_signature
    try:
        yield
    finally:
        utils.get_typed_signature = original


@contextlib.contextmanager
def lazy_type_adapters() -> Iterator[None]:
    """Make FastAPI build the validator of a parameter or a response at the first use, not at the declaration.

    The validators of about 3,300 fields take a fifth of the start time and 20 MB, and a gateway uses a few dozen. A
    field that is declared in this context builds its validator at the first use, with FastAPI's own code
    (ModelField.__post_init__ in fastapi/_compat/v2.py, which does nothing else). A field that is declared later, such
    as one of a user's callback, builds it at once.
    """
    field = _find_field_class()
    if field is None:
        yield
        return
    original: Any = field.__post_init__

    def build_adapter(self: Any) -> Any:
        original(self)
        return vars(self)[_ADAPTER]

    lazy_adapter: Any = functools.cached_property(build_adapter)
    lazy_adapter.__set_name__(field, _ADAPTER)
    setattr(field, _ADAPTER, lazy_adapter)
    field.__post_init__ = lambda _: None
    try:
        yield
    finally:
        field.__post_init__ = original


def _find_field_class() -> Any:
    """FastAPI's ModelField, or None if its constructor does more than build the validator."""
    with contextlib.suppress(Exception):
        module: Any = importlib.import_module(_FIELDS)
        declared = {each.name for each in dataclasses.fields(module.ModelField)}
        sample = module.ModelField(field_info=module.FieldInfo(annotation=str), name="sample")
        if vars(sample).keys() == declared | {_ADAPTER}:
            return module.ModelField
    return None


#: Environment variables with a default: no network access at import, and a quick exit.
DEFAULTS = {
    # Saves a thread in every process. A thread would not survive fork(2).
    "OPENBLAS_NUM_THREADS": "1",
    **OFFLINE_VARIABLES,
    # In DEV, LiteLLM reads a .env from the parent folders. The environment of the service comes from systemd alone.
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_DONT_SHOW_FEEDBACK_BOX": "true",
    # LiteLLM waits for in-flight requests at its shutdown (proxy/shutdown). By then they are drained or force-closed.
    "GRACEFUL_SHUTDOWN_TIMEOUT": "2",
    # By default Pydantic reads the metadata of every installed package to find plugins (5 % of the start time).
    "PYDANTIC_DISABLE_PLUGINS": "1",
}

_CLI = "litellm.proxy.proxy_cli"
_SERVER = "litellm.proxy.proxy_server"
_AWS = "litellm.llms.bedrock.base_aws_llm"
#: Loads tiktoken's table (40 MB) from LiteLLM's own folder. With another folder it may download the table.
_TOKENS = "litellm.litellm_core_utils.default_encoding"
_TOKENS_FOLDER = "CUSTOM_TIKTOKEN_CACHE_DIR"
#: Modules that the first requests would import in every worker, which takes time and memory that is not shared.
_PRELOAD = (
    _CLI,
    _SERVER,
    "anyio._backends._asyncio",
    "boto3",
    "litellm.integrations.shadow_eval_logger",
    "litellm.integrations.websearch_interception.handler",
    _TOKENS,
    "litellm.llms.bedrock.chat.chat_completions.transformation",
    "litellm.llms.litellm_proxy.chat.transformation",
    "litellm.llms.openai.chat.gpt_audio_transformation",
    "litellm.llms.openai_like.dynamic_config",
    "litellm.llms.vertex_ai.vertex_ai_partner_models.anthropic.transformation",
    "litellm.proxy._experimental.mcp_server.mcp_server_manager",
    "litellm.proxy.anthropic_endpoints.endpoints",
    "litellm.proxy.response_polling.background_streaming",
    "nacl.secret",
    "uvloop",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
    "litellm.proxy.admin_mcp",
    "litellm.proxy.common_utils.banner",
    "litellm.proxy.guardrails.guardrail_helpers",
    "litellm.proxy.hooks.mcp_semantic_filter",
    "litellm.proxy.pass_through_endpoints.llm_passthrough_endpoints",
    "litellm.proxy.policy_engine.init_policies",
    "litellm.sandbox.sandbox_tools",
    "litellm.types.litellm_core_utils.streaming_chunk_builder_utils",
    "litellm.types.proxy.litellm_pre_call_utils",
    "litellm_enterprise.proxy.auth.route_checks",
)


def preload(environ: MutableMapping[str, str], *, metrics: bool = False) -> str:
    """Import LiteLLM for all future workers, and freeze the heap. `metrics`: it counts for METRICS.

    Returns why it cannot count for METRICS, an empty string if it can.

    The garbage collector is off during the import: it would traverse a growing heap repeatedly and free nothing,
    which takes a quarter of the import time. gc.freeze() excludes the existing objects from later collections, so
    that no worker writes to, and thereby copies, the shared pages. A collection before it takes half a second and
    frees almost nothing.
    """
    for name, value in DEFAULTS.items():
        environ.setdefault(name, value)
    environ.update(closed_defaults(environ))
    litellm_database.prepare(environ)
    gc.disable()
    with suppress_stdout(), lazy_declaration(), unchanged_import_path():
        for module in _PRELOAD:
            if module == _TOKENS and environ.get(_TOKENS_FOLDER):
                continue  # it could access the network
            # An error in one of the other modules is reported where LiteLLM needs the module.
            with contextlib.nullcontext() if module in (_CLI, _SERVER) else contextlib.suppress(Exception):
                importlib.import_module(module)
        _load_guardrail_translations()
        prepare(application())
    use_frozen_credentials()
    litellm_fixes.apply()
    litellm_failures.apply()
    litellm_database.apply(environ)
    litellm_outages.apply()
    litellm_redis.apply()
    litellm_telemetry.apply(application(), environ)
    failure = ""
    if metrics:
        try:
            litellm_metrics.apply()
        except (ImportError, AttributeError) as error:
            failure = str(error)
    _reserve_for_forking()
    gc.freeze()
    gc.enable()
    return failure


@contextlib.contextmanager
def unchanged_import_path() -> Iterator[None]:
    """Undo what LiteLLM adds to `sys.path` when it is imported: the current folder, and the one two levels up.

    The current folder of the service is its state, which a compromised worker can write. A file there could replace
    one that a user's callback imports.
    """
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before


def closed_defaults(environ: Mapping[str, str]) -> dict[str, str]:
    """LiteLLM's variables that turn off the documentation and CORS. What is set in `environ` stays."""

    def is_set(name: str) -> bool:
        return bool(environ.get(name, "").strip())

    closed: dict[str, str] = {}
    if not is_set(CORS_ORIGINS.name):  # LiteLLM takes a missing or empty value for any origin
        closed |= {CORS_ORIGINS.name: ",", "LITELLM_CORS_ALLOW_CREDENTIALS": "false"}
    if not is_on(environ, API_DOCS):
        switches = {name: environ.get(name, "").strip() or "true" for name in ("NO_DOCS", "NO_REDOC")}
        has_page = (
            is_set("DOCS_URL") or is_set("REDOC_URL") or any(each.lower() != "true" for each in switches.values())
        )
        # A page needs the document.
        closed |= switches if has_page or is_set("NO_OPENAPI") else {**switches, "NO_OPENAPI": "true"}
    return closed


def use_frozen_credentials() -> None:
    """Make LiteLLM sign each request with one consistent set of credentials, even during a refresh.

    LiteLLM passes botocore's refreshable credentials to the signer, which reads token, key and secret one by one. If
    another thread refreshes them in between, the signature mixes two sets and AWS answers 403 (see the warning in
    botocore's RefreshableCredentials). boto3 itself signs with a frozen copy, and so does this.
    """
    with contextlib.suppress(ImportError, AttributeError):
        base: Any = importlib.import_module(_AWS).BaseAWSLLM
        credentials: Any = importlib.import_module("botocore.credentials").Credentials
        original: Any = base.get_credentials

        @functools.wraps(original)
        def get_credentials(*args: Any, **options: Any) -> Any:
            found = original(*args, **options)
            if found is None:
                return None
            frozen = found.get_frozen_credentials()
            return credentials(frozen.access_key, frozen.secret_key, frozen.token)

        base.get_credentials = get_credentials


def set_up(config: Path, texts: Mapping[str, str], workers: int, pool_size: int | None = None) -> dict[str, str]:
    """Do what `litellm --config` does before it serves. Returns the environment variables that this changed.

    `pool_size` is the number of connections to the database of each worker, None for one that fits.

    LiteLLM sets up the database with its migrations, secret managers and its own environment. As with `litellm
    --num_workers` this runs once, in the first worker of a generation. The others use `apply_environment`.
    """
    before = dict(os.environ)
    _override_files(texts)
    arguments = ["--config", str(config), "--num_workers", str(workers), "--skip_server_startup"]
    # Not port 4000: LiteLLM would try to connect to it, and the service itself listens there.
    arguments += ["--port", "1"]
    importlib.import_module(_CLI).run_server.main(arguments, standalone_mode=False)
    litellm_database.limit_pools(os.environ, pool_size, workers)
    return {name: value for name, value in os.environ.items() if before.get(name) != value}


def apply_environment(texts: Mapping[str, str], environment: Mapping[str, str]) -> None:
    """Apply the result of `set_up` in another process to this one."""
    _override_files(texts)
    os.environ.update(environment)
    litellm_database.renew_own_token(os.environ)


def application() -> Any:
    """LiteLLM's ASGI application. It loads the configuration at its startup."""
    return importlib.import_module(_SERVER).app


def is_model_group(name: str) -> bool:
    """Whether the configuration has a model group or an alias of that name, or it is unknown whether it has."""
    router = getattr(importlib.import_module(_SERVER), "llm_router", None)
    return name in getattr(router, "model_names", (name,)) or name in (
        getattr(router, "model_group_alias", None) or ()
    )


def api_renderer() -> Callable[[], Any] | None:
    """What makes LiteLLM's OpenAPI document, in 3 to 4 s of CPU; None if it is off."""
    litellm = application()
    return litellm.openapi if litellm.openapi_url else None


def redact(text: str) -> str:
    """A text without the secrets that LiteLLM recognizes."""
    with contextlib.suppress(Exception):
        return str(importlib.import_module("litellm._logging").redact_secrets(text))
    return text


@contextlib.contextmanager
def suppress_stdout() -> Iterator[None]:
    """Keep LiteLLM's banner, feedback box and list of models out of the journal."""
    with contextlib.redirect_stdout(_NOWHERE):
        yield


class _Nowhere(io.TextIOBase):
    """Drops what is written. OpenTelemetry's exporter for the console keeps the stream and writes to it for ever."""

    def write(self, text: str) -> int:
        return len(text)

    def fileno(self) -> int:
        """For child processes, such as the query engine of the database: they write to the journal."""
        return 2


_NOWHERE = _Nowhere()


def _load_guardrail_translations() -> None:
    """Import the modules that LiteLLM searches for at the first chat request (litellm/llms/__init__.py)."""
    with contextlib.suppress(Exception):
        importlib.import_module("litellm.llms").load_guardrail_translation_mappings()


def _reserve_for_forking() -> None:
    # Native threads of LiteLLM's Rust library would not survive a fork. This makes it refuse to start them here.
    with contextlib.suppress(ImportError, AttributeError):
        guard = importlib.import_module("litellm.rust_bridge.fork_guard")
        guard.reserve_process_for_forking("litellm-systemd's main process")


def _override_files(texts: Mapping[str, str]) -> None:
    """Make LiteLLM read the checked text of its files instead of the current files on disk.

    A copy of the files in another folder is no option, because LiteLLM searches for callbacks and includes next to
    the configuration. `proxy_server` calls the built-in open(), so a global of that name in the module overrides it.
    If a later LiteLLM reads its files differently, it reads them from disk.
    """

    def open_text(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        text = texts.get(os.path.abspath(file)) if mode == "r" and isinstance(file, str) else None  # noqa: PTH100
        return open(file, mode, *rest, **options) if text is None else io.StringIO(text)  # noqa: PTH123

    vars(importlib.import_module(_SERVER))["open"] = open_text
    _override_python_files(texts)


def _override_python_files(texts: Mapping[str, str]) -> None:
    """The same for the Python files: `import` compiles the checked text, without the cache in __pycache__."""
    loader: Any = importlib.machinery.SourceFileLoader
    original: Any = loader.get_code

    def get_code(self: Any, name: str) -> Any:
        path = self.get_filename(name)
        text = texts.get(path)
        return original(self, name) if text is None else self.source_to_code(text.encode(), path)

    loader.get_code = get_code
    sys.meta_path.append(_CheckedFiles(texts))


class _CheckedFiles:
    """Finds the Python files that are no longer on disk. Python asks it last."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Called by Python (importlib.abc.MetaPathFinder)."""
        paths = (f"{folder}/{module_file(name)}" for folder in sys.path)
        path = next((path for path in paths if path in self._texts), None)
        return None if path is None else importlib.util.spec_from_file_location(name, path)
