"""What LiteLLM boots through in silence: see `lint`. Rules of settings here, of models in gateway_lint_models."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping

from litellm_systemd.contract import MASTER_KEY
from litellm_systemd.gateway_known import GENERAL, LITELLM, ROUTER, TOP_LEVEL
from litellm_systemd.gateway_lint_models import model_findings, with_own_variables
from litellm_systemd.gateway_model import REFERENCE, Finding, GatewayConfig, KeyPath, Severity, resolve_reference

SECTIONS: Mapping[str, frozenset[str]] = {
    "general_settings": GENERAL,
    "litellm_settings": LITELLM,
    "router_settings": ROUTER,
}

#: Settings that were never LiteLLM's, or no longer are, with the one that does what was meant.
_RETIRED: Mapping[KeyPath, str] = {
    ("openapi",): "Remove it: LiteLLM describes its API at /openapi.json by itself.",
    ("general_settings", "disable_user_auth"): "Remove it: no setting turns the key check off.",
    ("general_settings", "log_level"): "Remove it and set LITELLM_LOG=INFO in .env.",
    ("general_settings", "openai_api_base"): "Give the model an api_base in its litellm_params.",
    ("router_settings", "default_model"): "Remove it, or name a default_fallbacks list.",
    ("router_settings", "failover"): "Write it as fallbacks: - MODEL: [OTHER]",
    ("router_settings", "retries"): "Write it as num_retries.",
}

#: Settings that are dangerous in the wrong place: what LiteLLM does with them there. All belong to general_settings.
_MISPLACED: Mapping[KeyPath, str] = {
    ("litellm_settings", "master_key"): "is ignored",
    ("enable_jwt_auth",): "is ignored",
    ("litellm_jwtauth",): "is ignored",
    ("router_settings", "health_check_interval"): "stops LiteLLM from starting",
    ("router_settings", "health_check_concurrency"): "stops LiteLLM from starting",
}

#: The keys that a credential stands under in litellm_params, and in the sections.
_SECRETS = frozenset({"api_key", "aws_secret_access_key", "aws_session_token", "master_key", "database_url"})

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
    then what `model_findings` gives. LiteLLM starts with nearly all of them, and fails later or not at all.
    Without `environ` the environment isn't known, and what a variable could mend isn't found.
    """
    rules = (_unknown, _references, _master_key, _environment, _database, _hazards, _plain_secrets, model_findings)
    found = [finding for rule in rules for finding in rule(config, environ or {})]
    if environ is None:
        found = [finding for finding in found if finding.code not in _OF_THE_ENVIRONMENT]
    return tuple(sorted(found, key=lambda finding: finding.severity is Severity.WARNING))


def _unknown(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    del environ
    for name, value in config.document.items():
        path: KeyPath = (str(name),)
        if name not in TOP_LEVEL:
            # x-… is YAML's own custom for a place where anchors are kept.
            if not str(name).startswith(("x-", ".")):
                yield _unknown_setting(config, path, TOP_LEVEL)
        elif name in SECTIONS and value is not None:
            if isinstance(value, Mapping):
                yield from _unknown_in(config, str(name))
            else:
                yield config.error("not-a-mapping", path, "isn't a mapping", "Write one KEY: VALUE a line below it.")


def _unknown_in(config: GatewayConfig, section: str) -> Iterator[Finding]:
    for key in config.section(section):
        path = (section, str(key))
        if path in _MISPLACED or (key not in SECTIONS[section] and not _switch_of_a_feature(section, str(key))):
            yield _unknown_setting(config, path, SECTIONS[section])


def _switch_of_a_feature(section: str, key: str) -> bool:
    # proxy/common_utils/rbac_utils.py puts these names together.
    return section == "general_settings" and (
        (key.startswith("disable_") and key.endswith("_for_internal_users"))
        or (key.startswith("allow_") and key.endswith("_for_team_admins"))
    )


def _unknown_setting(config: GatewayConfig, path: KeyPath, known: frozenset[str]) -> Finding:
    name = str(path[-1])
    if path in _MISPLACED:
        return config.error("misplaced-setting", path, f"{_MISPLACED[path]} here", "Move it to general_settings.")
    if path in _RETIRED:
        return config.warning("retired-setting", path, "is not a setting of LiteLLM", _RETIRED[path])
    homes = [section for section, names in SECTIONS.items() if name in names]
    if homes:
        remedy = f"Move it to {homes[0]}."
        return config.warning("misplaced-setting", path, f"is ignored here: it belongs to {homes[0]}", remedy)
    unknown = "is not a setting that LiteLLM knows, and is ignored"
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.8)
    if not close:
        return config.warning("unknown-setting", path, unknown, "Remove it.")
    # A whole section that is ignored is an error; a single setting may be one of a newer LiteLLM.
    make = config.error if len(path) == 1 else config.warning
    return make("misspelt-setting", path, f"{unknown}: did you mean {close[0]}?", f"Write it as {close[0]}.")


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
    code, remedy = "weak-master-key", f"Set {MASTER_KEY} in .env to sk- and 32 random characters."
    if not (key or "").strip():
        state = (
            "is empty, isn't text, or refers to a variable that isn't set"
            if written
            else f"isn't there, nor is {MASTER_KEY} set"
        )
        yield _unset(config)("no-master-key", path, state, remedy)
    elif key == REFUSED_KEY:
        yield config.error(code, path, f"is {REFUSED_KEY}, which everybody knows and LiteLLM refuses", remedy)
    elif written and general["master_key"] == EXAMPLE_KEY:
        yield config.warning(code, path, f"is {EXAMPLE_KEY}, the example of the documentation", remedy)


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
    elif general.get("store_model_in_db") is True:
        path = ("general_settings", "store_model_in_db")
        yield config.warning("no-database", path, "does nothing without a database", "Remove it.")


def _hazards(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    del environ
    general = config.section("general_settings")
    for key, value in general.items():
        if str(key).startswith("dangerously_") and value:
            danger = "lets every client send mock_testing_* parameters"
            if "mock_testing" not in str(key):
                danger = "takes a protection away"
            yield config.warning("danger", ("general_settings", str(key)), danger, "Remove it outside of a test.")
    if general.get("background_health_checks"):
        message = "calls every model again and again, and each call is billed"
        path = ("general_settings", "background_health_checks")
        yield config.warning("billed-health-checks", path, message, "Remove it: litellmctl verify asks once.")
    if config.section("litellm_settings").get("set_verbose"):
        path = ("litellm_settings", "set_verbose")
        yield config.warning("danger", path, "writes prompts to the journal", "Remove it outside of a test.")


def _plain_secrets(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    del environ
    sections = [((*model.key, "litellm_params"), config.params(model)) for model in config.models]
    sections += [(("general_settings",), config.section("general_settings"))]
    for path, mapping in sections:
        for key in _SECRETS & mapping.keys():
            value = mapping[key]
            if isinstance(value, str) and value and not value.startswith(REFERENCE):
                variable = MASTER_KEY if key == "master_key" else key.upper()
                remedy = f"Put it in .env and write {key}: {REFERENCE}{variable}"
                yield config.warning("plain-secret", (*path, key), "holds a secret in plain text", remedy)
