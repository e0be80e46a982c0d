"""The only place that knows LiteLLM's modules.

They are imported by name, at run time: LiteLLM takes seconds, and nothing but a serving process pays for it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import io
import os
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from litellm_systemd.runtime.worker import routes

#: Set unless the user did: no network at import, and quick exits.
DEFAULTS = {
    # One thread less in every process; a thread would not survive fork(2).
    "OPENBLAS_NUM_THREADS": "1",
    # Each of these files comes with LiteLLM; without it, it is fetched with retries.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    # In DEV, LiteLLM looks for a .env in the folders above its own. The service's environment is systemd's alone.
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_DONT_SHOW_FEEDBACK_BOX": "true",
    # LiteLLM waits for requests again after they have been drained (proxy/shutdown). Whoever is left was cut.
    "GRACEFUL_SHUTDOWN_TIMEOUT": "2",
    # Otherwise Pydantic reads what every installed package says of itself, to look for plugins (5 % of a start).
    "PYDANTIC_DISABLE_PLUGINS": "1",
}

_CLI = "litellm.proxy.proxy_cli"
_SERVER = "litellm.proxy.proxy_server"
_AWS = "litellm.llms.bedrock.base_aws_llm"
#: Loads tiktoken's table, 40 MB, from LiteLLM's own folder; from another one it may have to be fetched first.
_TOKENS = "litellm.litellm_core_utils.default_encoding"
_TOKENS_FOLDER = "CUSTOM_TIKTOKEN_CACHE_DIR"
#: What the first requests would import otherwise, in every worker again: time, and memory that isn't shared.
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


def preload(environ: MutableMapping[str, str]) -> None:
    """Import LiteLLM for all workers to come, and freeze the heap.

    The collector is off meanwhile: it would walk a growing heap again and again and find nothing (a quarter of the
    time). gc.freeze() moves all that lives out of its reach, so that no worker touches, and thereby copies, the
    shared pages (gc.freeze in Python's library). Collecting first costs half a second and frees next to nothing.
    """
    for name, value in DEFAULTS.items():
        environ.setdefault(name, value)
    gc.disable()
    with silence(), routes.declared_cheaply():
        for module in _PRELOAD:
            if module == _TOKENS and environ.get(_TOKENS_FOLDER):
                continue  # no network here
            # What is wrong with one of the others shows, or doesn't matter, where it is needed.
            with contextlib.nullcontext() if module in (_CLI, _SERVER) else contextlib.suppress(Exception):
                importlib.import_module(module)
        _load_guardrail_translations()
        routes.build(application())
    sign_with_one_set()
    _reserve_for_forking()
    gc.freeze()
    gc.enable()


def sign_with_one_set() -> None:
    """Have LiteLLM sign a request with credentials of one set, also when they are renewed meanwhile.

    It hands botocore's refreshable credentials to the signer, which reads token, key and secret one after the other;
    a renewal by another thread in between makes a mix that AWS refuses with 403 (the warning in botocore's
    RefreshableCredentials says so). boto3 itself signs with a frozen copy, and so does this.
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


def set_up(config: Path, texts: Mapping[str, str], workers: int) -> dict[str, str]:
    """Do what `litellm --config` does before it serves; the environment variables that this changed.

    That is: the database and its migrations, secret managers, LiteLLM's own environment. Done once a generation, in
    its first worker, as `litellm --num_workers` does it once: the others take the variables over with `adopt`.
    """
    before = dict(os.environ)
    _serve_texts(texts)
    arguments = ["--config", str(config), "--num_workers", str(workers), "--skip_server_startup"]
    # Any port but 4000, which it would try to reach: that is us.
    arguments += ["--port", "1"]
    importlib.import_module(_CLI).run_server.main(arguments, standalone_mode=False)
    return {name: value for name, value in os.environ.items() if before.get(name) != value}


def adopt(texts: Mapping[str, str], environment: Mapping[str, str]) -> None:
    """Make this process what `set_up` made of another one."""
    _serve_texts(texts)
    os.environ.update(environment)


def application() -> Any:
    """LiteLLM's ASGI application. It loads the configuration when its lifespan starts."""
    return importlib.import_module(_SERVER).app


def render_cause(error: BaseException) -> str:
    """Why LiteLLM refused to start, in one line and without secrets."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, SystemExit):
        text = f"LiteLLM exits with code {error.code}"
    text = text.removesuffix(" The fix is printed once the server exits.")
    with contextlib.suppress(Exception):
        text = str(importlib.import_module("litellm._logging").redact_secrets(text))
    return text


@contextlib.contextmanager
def silence() -> Iterator[io.StringIO]:
    """Keep LiteLLM's banner, its feedback box and its list of models out of the journal; yields what was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield printed


def _load_guardrail_translations() -> None:
    """Import what LiteLLM looks for in its folders at the first chat (litellm/llms/__init__.py, which keeps it)."""
    with contextlib.suppress(Exception):
        importlib.import_module("litellm.llms").load_guardrail_translation_mappings()


def _reserve_for_forking() -> None:
    # Native threads of LiteLLM's Rust part would not survive a fork; from here on it refuses to start them here.
    with contextlib.suppress(ImportError, AttributeError):
        guard = importlib.import_module("litellm.rust_bridge.fork_guard")
        guard.reserve_process_for_forking("litellm-systemd's main process")


def _serve_texts(texts: Mapping[str, str]) -> None:
    """Let LiteLLM read the checked text of its files instead of what stands on the disk by now.

    A copy of the files elsewhere won't do: callbacks and includes are looked for beside the configuration.
    `proxy_server` calls the built-in open(); a name of the same spelling in the module comes first. Should LiteLLM
    read its files another way some day, it gets them from the disk again.
    """

    def open_text(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        text = texts.get(os.path.abspath(file)) if mode == "r" and isinstance(file, str) else None  # noqa: PTH100
        return open(file, mode, *rest, **options) if text is None else io.StringIO(text)  # noqa: PTH123

    vars(importlib.import_module(_SERVER))["open"] = open_text
