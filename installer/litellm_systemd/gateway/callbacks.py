"""The names of LiteLLM's own callbacks."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping

from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.gateway.config_types import ENVIRONMENT, GatewayConfig, KeyPath, LintFinding
from litellm_systemd.gateway.models import with_own_variables
from litellm_systemd.gateway.python_files import LOADED_CALLBACKS
from litellm_systemd.gateway.snapshot import Need, load_snapshot

#: The settings of litellm_settings that are lists of callbacks.
CALLBACK_SETTINGS = (*LOADED_CALLBACKS, "service_callback", "input_callback")
#: LiteLLM takes an unknown name of this setting for a Python file, and does not start. It ignores those of others.
_STRICT = "callbacks"
#: The variables of an agent on the host, which needs no key.
_AGENTS = {"datadog": "LITELLM_DD_AGENT_HOST"}

#: OpenTelemetry's callback, and what it reads: the kind of exporter, and the URL of the collector.
_TELEMETRY, _CONSOLE = "otel", "console"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER")
_COLLECTORS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_ENDPOINT")
_TRANSPORTS = ("otlp_http", "otlp_grpc", "http/protobuf", "http/json", "grpc", _CONSOLE)

#: The callbacks that write to S3, and the section with their bucket.
_BUCKETS, _BUCKET_SECTION, _BUCKET = ("s3", "s3_v2"), "s3_callback_params", "s3_bucket_name"
#: Sentry's callback, its variable, and the form of that (sentry_sdk.utils.Dsn).
_SENTRY, _DSN = "sentry", "SENTRY_DSN"
_DSN_FORM = re.compile(r"https?://[^@/\s]+@[^@/\s]+/(?:[^?#\s]+/)?\d+(?:[?#]\S*)?")


def callback_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Callbacks that LiteLLM does not know, with the intended name.

    Those of the user have a dot in their name, or are defined under callback_settings.
    """
    snapshot, settings = load_snapshot(), config.section("litellm_settings")
    own, seen = with_own_variables(config, environ), set[str]()
    single = settings.get(_STRICT)
    if isinstance(single, str) and "." not in single:
        message = f"is {single} alone, which LiteLLM takes for a Python file, so that it would not start"
        remedy = f"Write it as a list: {_STRICT}: [{single}]"
        yield config.error("unknown-callback", ("litellm_settings", _STRICT), message, remedy)
    defined = {name for name, value in config.section("callback_settings").items() if _is_generic(value)}
    for setting in CALLBACK_SETTINGS:
        known = defined | (snapshot.proxy_callbacks if setting == _STRICT else snapshot.callbacks.keys())
        value = settings.get(setting)
        for index, name in enumerate(value if isinstance(value, list) else ()):
            path: KeyPath = ("litellm_settings", setting, index)
            is_loaded = setting in LOADED_CALLBACKS
            if is_loaded and not isinstance(name, str):
                message = "is not a text: LiteLLM does not start with it"
                yield config.error("unknown-callback", path, message, "Write the name of a callback, or remove it.")
            elif isinstance(name, str) and not (is_loaded and "." in name) and name not in known:
                yield _unknown(config, path, name, in_others=name in snapshot.callbacks, known=sorted(known))
            elif isinstance(name, str) and name not in {*seen, *config.section("callback_settings")}:
                seen.add(name)
                yield from _without_keys(config, path, name, own)
                if name == _TELEMETRY and is_loaded:
                    yield from _without_collector(config, path, own)
                elif name in _BUCKETS:
                    yield from _without_bucket(config, path, name)
                elif name == _SENTRY:
                    yield from _bad_dsn(config, own.get(_DSN, ""))


def _without_keys(
    config: GatewayConfig, path: KeyPath, name: str, environ: Mapping[str, str]
) -> Iterator[LintFinding]:
    """A callback without its keys: LiteLLM logs an error for each request in place of calling it."""
    need = load_snapshot().callbacks.get(name, Need())
    missing = [each for each in need.variables if not environ.get(each)]
    # The keys may be those of a team or a model, or of the callback's own section.
    elsewhere = f"{name}_params" in config.section("litellm_settings") or any(
        each.lower() in str(config.document).lower() for each in missing
    )
    if missing and not elsewhere and not environ.get(_AGENTS.get(name, "")):
        message = f"is {name}, which logs nothing without {' and '.join(missing)}"
        yield config.warning("missing-variable", path, message, f"Write {missing[0]}= and its value in .env.")


def _without_collector(config: GatewayConfig, path: KeyPath, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """OpenTelemetry's callback without a collector: LiteLLM writes what it would send to standard output.

    As in OpenTelemetryConfig.from_env of litellm/integrations/opentelemetry.py.
    """
    variable = next((name for name in _PROTOCOLS if environ.get(name)), _PROTOCOLS[-1])
    protocol = environ.get(variable) or _CONSOLE
    endpoint = next((environ[name] for name in _COLLECTORS if environ.get(name)), "")
    if protocol not in _TRANSPORTS:
        message = f"is {protocol}, which LiteLLM does not know: it sends no spans and no metrics"
        yield config.warning(
            "bad-variable", (ENVIRONMENT, variable), message, f"Write one of these: {', '.join(_TRANSPORTS)}."
        )
    elif protocol == _CONSOLE and not endpoint:
        message = f"is {_TELEMETRY}, which sends nothing without {_COLLECTORS[0]}"
        remedy = f"Write {_COLLECTORS[0]}= and the URL of the collector in .env, such as http://127.0.0.1:4318."
        yield config.warning("missing-variable", path, message, remedy)


def _without_bucket(config: GatewayConfig, path: KeyPath, name: str) -> Iterator[LintFinding]:
    """A callback that writes to S3 without a bucket: LiteLLM takes None for its name, and no log is stored."""
    params = config.section("litellm_settings").get(_BUCKET_SECTION)
    if not (isinstance(params, Mapping) and params.get(_BUCKET)):
        message = f"is {name}, which stores nothing without {_BUCKET}"
        remedy = f"Write it under litellm_settings: {_BUCKET_SECTION}: {{{_BUCKET}: NAME}}"
        yield config.warning("missing-variable", path, message, remedy)


def _bad_dsn(config: GatewayConfig, dsn: str) -> Iterator[LintFinding]:
    if dsn and not (_DSN_FORM.fullmatch(dsn) or is_reference(dsn)):
        message = "is no DSN of Sentry, https://KEY@HOST/NUMBER: LiteLLM does not start with it"
        remedy = "Copy it from the settings of the project in Sentry (Client Keys)."
        yield config.error("bad-variable", (ENVIRONMENT, _DSN), message, remedy)


def _is_generic(value: object) -> bool:
    # As in litellm_core_utils/logging_callback_manager.py.
    given = value if isinstance(value, Mapping) else {}
    return given.get("callback_type") == "generic_api" and None not in (given.get("endpoint"), given.get("headers"))


def _unknown(config: GatewayConfig, path: KeyPath, name: str, *, in_others: bool, known: list[str]) -> LintFinding:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    guess = f": did you mean {close[0]}?" if close else ""
    remedy = f"Write it as {close[0]}." if close else "Remove it. A Python file of yours is MODULE.NAME."
    if path[1] != _STRICT:
        message = f"is {name}, which is no callback of LiteLLM, and is ignored{guess}"
        return config.warning("unknown-callback", path, message, remedy)
    if in_others:
        remedy, guess = "Move it to success_callback and failure_callback.", ""
    message = f"is {name}, which LiteLLM takes for a Python file here, so that it would not start{guess}"
    return config.error("unknown-callback", path, message, remedy)
