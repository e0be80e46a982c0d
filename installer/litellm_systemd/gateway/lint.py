"""What LiteLLM boots through in silence: see `lint`. Rules of values here, the others in lint_*.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from litellm_systemd.contract import MASTER_KEY
from litellm_systemd.gateway.lint_models import model_findings, with_own_variables
from litellm_systemd.gateway.lint_names import name_findings
from litellm_systemd.gateway.lint_routes import route_findings
from litellm_systemd.gateway.model import REFERENCE, Finding, GatewayConfig, KeyPath, Severity, resolve_reference

#: The keys, in small letters, that a credential stands under.
_SECRET = re.compile(
    r"(^|_)(api_key|master_key|secret_access_key|session_token|client_secret|password|database_url|ad_token)$"
)
#: What servers without keys of their own are given in place of one, as in LiteLLM's examples.
_PLACEHOLDER = re.compile(
    r"\b(fake|dummy|none|null|empty|anything|not[-_ ]?needed|no[-_ ]?key|ollama)\b", re.IGNORECASE
)

#: The switches of detailed debugging: LiteLLM then logs requests with all that they hold.
_DEBUG = (
    ("litellm_settings", "set_verbose"),
    ("litellm_settings", "log_raw_request_response"),
    ("router_settings", "set_verbose"),
)

#: How the settings of general_settings begin that do nothing without a database.
_OF_A_DATABASE = (
    *("database_", "maximum_spend_logs_", "store_model_in_db", "supported_db_objects"),
    *("allow_requests_on_db_unavailable", "use_redis_transaction_buffer", "use_spend_logs_partitioning"),
)

#: By SHA-256 the only key that LiteLLM itself refuses (proxy/auth/master_key_boot_check.py), and the workshop's.
REFUSED_KEY = "sk-1234"
EXAMPLE_KEY = "sk-litellm-test-key"

#: LiteLLM takes these at their word when they are empty: no region, no profile, no database of that name.
_EMPTY_IS_A_VALUE = (
    *("AWS_REGION_NAME", "AWS_REGION", "AWS_PROFILE", "AWS_PROFILE_NAME", "AWS_ROLE_NAME", "AWS_SESSION_NAME"),
    *("AWS_WEB_IDENTITY_TOKEN", "AWS_STS_ENDPOINT", "AWS_EXTERNAL_ID", "DATABASE_URL", "DIRECT_URL"),
)


#: What is only so in an environment without a certain variable.
_OF_THE_ENVIRONMENT = frozenset({"unset-variable", "no-master-key", "no-region", "no-database"})


def lint(config: GatewayConfig, environ: Mapping[str, str] | None) -> tuple[Finding, ...]:
    """All that is wrong with a configuration in the service's environment: errors first, else as in the file.

    Unknown and misspelt settings, references to variables that aren't set, the master key, the database, hazards;
    then what `model_findings` and `route_findings` give. LiteLLM starts with nearly all of them, and fails later or
    not at all. Without `environ` the environment isn't known, and what a variable could mend is left out.
    """
    settings = (name_findings, _references, _master_key, _environment, _database, _hazards, _plain_secrets)
    rules = (*settings, model_findings, route_findings)
    found = [finding for rule in rules for finding in rule(config, environ or {})]
    if environ is None:
        found = [finding for finding in found if finding.code not in _OF_THE_ENVIRONMENT]
    return tuple(sorted(found, key=lambda finding: finding.severity is Severity.WARNING))


def _references(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    places: dict[str, list[KeyPath]] = {}
    for path, variable in config.references:
        # The master key and the database have a rule of their own.
        if path not in (("general_settings", "master_key"), ("general_settings", "database_url")):
            places.setdefault(variable, []).append(path)
    for variable, paths in places.items():
        if not environ.get(variable):
            more = f" ({len(paths)} keys do)" if len(paths) > 1 else ""
            state = "empty" if variable in environ else "not set"
            message = f"refers to {variable}, which is {state}{more}"
            yield _unset(config)("unset-variable", paths[0], message, f"Set {variable} in .env, or remove the key.")


def _unset(config: GatewayConfig) -> Callable[[str, KeyPath, str, str], Finding]:
    # With a secret manager LiteLLM looks there as well, and what is there can't be seen from here.
    return config.warning if "key_management_system" in config.section("general_settings") else config.error


def _master_key(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    general = config.section("general_settings")
    path: KeyPath = ("general_settings", "master_key")
    written = "master_key" in general
    own = with_own_variables(config, environ)
    key = resolve_reference(general["master_key"], environ) if written else own.get(MASTER_KEY)
    remedy = f"Set {MASTER_KEY} in .env to sk- and 32 random characters."
    if not (key or "").strip():
        state = (
            "is empty, isn't text, or refers to a variable that isn't set"
            if written
            else f"isn't there, nor is {MASTER_KEY} set"
        )
        yield _unset(config)("no-master-key", path, state, remedy)
    elif key == REFUSED_KEY:
        yield config.error(
            "weak-master-key", path, f"is {REFUSED_KEY}, which everybody knows and LiteLLM refuses", remedy
        )
    elif written and general["master_key"] == EXAMPLE_KEY:
        yield config.warning("weak-master-key", path, f"is {EXAMPLE_KEY}, the example of the documentation", remedy)


def _environment(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    for name in _EMPTY_IS_A_VALUE:
        if environ.get(name) == "":
            remedy = f"Remove {name} from .env, or give it a value."
            yield config.error("empty-variable", (), f"{name} is set but empty, and LiteLLM takes it so", remedy)
    trio = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    if all(environ.get(name) == "" for name in trio):
        message = f"{', '.join(trio)} are set but empty: LiteLLM would sign with them"
        yield config.error("empty-variable", (), message, "Remove them from .env to use the IAM role.")


def _database(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    general = config.section("general_settings")
    path = ("general_settings", "database_url")
    remedy = "Remove it. Virtual keys and the Admin UI's log-in need the database; models don't."
    needs = "wants a database, for which LiteLLM needs Prisma's engine: without it the service doesn't start"
    if resolve_reference(general.get("database_url"), environ):
        yield config.error("database", path, needs, remedy)
    elif environ.get("DATABASE_URL") or environ.get("DIRECT_URL"):
        yield config.error("database", (), f"DATABASE_URL {needs}", remedy)
    elif general.get("database_url"):
        yield config.warning("no-database", path, "refers to a variable that isn't set: there is no database", remedy)
    else:
        for key, value in general.items():
            if value and str(key).startswith(_OF_A_DATABASE):
                message = "does nothing without a database"
                yield config.warning("no-database", ("general_settings", str(key)), message, "Remove it.")


def _hazards(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    for key, value in config.section("general_settings").items():
        path: KeyPath = ("general_settings", str(key))
        if value and str(key).startswith("dangerously_"):
            danger = "lets every client send mock_testing_* parameters"
            if "mock_testing" not in str(key):
                danger = "takes a protection away"
            yield config.warning("danger", path, danger, "Remove it outside of a test.")
        elif value and key == "store_prompts_in_spend_logs":
            yield config.warning("danger", path, "keeps every prompt and answer in the database", "Remove it.")
        elif value and key == "background_health_checks":
            message = "calls every model again and again, and each call is billed"
            yield config.warning("billed-health-checks", path, message, "Remove it: litellmctl verify asks once.")
    yield from _debug(config, environ)


def _debug(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    remedy = "Remove it outside of a test."
    for section, key in _DEBUG:
        if config.section(section).get(key):
            yield config.warning("debug-log", (section, key), "writes prompts to the journal", remedy)
    own = config.section("environment_variables").get("LITELLM_LOG")
    if str(own or environ.get("LITELLM_LOG")).upper() == "DEBUG":
        path: KeyPath = ("environment_variables", "LITELLM_LOG") if own else ()
        said = "writes prompts to the journal" if own else "LITELLM_LOG=DEBUG writes prompts to the journal"
        yield config.warning("debug-log", path, said, "Set LITELLM_LOG=INFO outside of a test.")


def _plain_secrets(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    del environ
    sections = [((*model.key, "litellm_params"), config.params(model)) for model in config.models]
    sections += [((name,), config.section(name)) for name in ("general_settings", "router_settings")]
    sections += [(("environment_variables",), config.section("environment_variables"))]
    for path, mapping in sections:
        for key in sorted(str(key) for key in mapping if _SECRET.search(str(key).lower())):
            if _is_secret(key, mapping.get(key)):
                yield _plain_secret(config, (*path, key))


def _plain_secret(config: GatewayConfig, path: KeyPath) -> Finding:
    key = str(path[-1])
    variable = MASTER_KEY if key == "master_key" else key.upper()
    remedy = f"Put it in .env and write {key}: {REFERENCE}{variable}"
    if path[0] == "environment_variables":
        remedy = "Put it in .env, and remove it here."
    return config.warning("plain-secret", path, "holds a secret in plain text", remedy)


def _is_secret(key: str, value: object) -> bool:
    if not isinstance(value, str) or not value or value.startswith(REFERENCE):
        return False
    if key == "database_url":
        return "@" in value  # user and password stand before it
    return key in ("master_key", MASTER_KEY) or not _PLACEHOLDER.search(value)
