"""Find mistakes in the variables of the service: placeholders, names that nothing reads, values of the wrong kind.

`environment_findings` is a part of `lint`. The others are for what installs a service: its sandbox hides files.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from litellm_systemd.contract import SERVICE_USER
from litellm_systemd.env.placeholders import is_placeholder
from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.env.secrets import is_secret_name, redact
from litellm_systemd.env.variables import (
    AWS_ACCESS_KEY_ID,
    AWS_BEARER_TOKEN_BEDROCK,
    AWS_CONFIG_FILE,
    AWS_EC2_METADATA_DISABLED,
    AWS_PROFILE_NAME,
    AWS_REGION_NAME,
    AWS_SECRET_ACCESS_KEY,
    AWS_SESSION_TOKEN,
    AWS_SHARED_CREDENTIALS_FILE,
    CONFIG_FILE,
    HIDDEN,
    HOST,
    LITELLM_LOG,
    MASTER_KEY,
    MAX_CONNECTIONS,
    NUM_WORKERS,
    PORT,
    RUNTIME_VARIABLES,
    TABLE,
    TLS_CERT_FILE,
    TLS_KEY_FILE,
    WATCHDOG_TIMEOUT,
)
from litellm_systemd.gateway.config_types import (
    ENVIRONMENT,
    REFERENCE,
    GatewayConfig,
    KeyPath,
    LintFinding,
    walk_texts,
)
from litellm_systemd.gateway.snapshot import load_snapshot

_OURS = frozenset(name for each in TABLE for name in each.names)
#: Their values are checked with the table.
_CHECKED = frozenset(each.name for each in RUNTIME_VARIABLES)

#: Variables that LiteLLM's command line reads for its own server, which does not run here.
_OF_ITS_SERVER = {
    "SSL_CERTFILE_PATH": TLS_CERT_FILE.name,
    "SSL_KEYFILE_PATH": TLS_KEY_FILE.name,
    "TIMEOUT_WORKER_HEALTHCHECK": WATCHDOG_TIMEOUT.name,
    "LIMIT_CONCURRENCY": MAX_CONNECTIONS.name,
}
#: Names that look right, by the variable that is read. None of them counts if LiteLLM or the configuration reads it.
#: Clients of the gateway read LITELLM_API_KEY and LITELLM_BASE_URL, which often are in the same file.
_MISTAKEN = {
    PORT.name: "LITELLM_PORT LITELLM_PROXY_PORT UVICORN_PORT",
    HOST.name: "LITELLM_HOST LITELLM_BIND_HOST LITELLM_BIND LITELLM_BIND_ADDRESS LITELLM_LISTEN UVICORN_HOST",
    LITELLM_LOG.name: "LITELLM_LOG_LEVEL LITELLM_LOGLEVEL LITELLM_LOGGING LITELLM_LOGGING_LEVEL LOG_LEVEL LOGLEVEL"
    " LITELLM_VERBOSE LITELLM_SET_VERBOSE SET_VERBOSE LITELLM_DEBUG UVICORN_LOG_LEVEL",
    NUM_WORKERS.name: "LITELLM_WORKERS LITELLM_NUM_WORKERS WORKERS WEB_CONCURRENCY UVICORN_WORKERS NUM_WORKER",
    CONFIG_FILE.name: "LITELLM_CONFIG LITELLM_CONFIG_FILE LITELLM_CONFIG_PATH LITELLM_CONFIG_FILE_PATH",
    MASTER_KEY.name: "MASTER_KEY LITELLM_MASTER LITELLM_MASTER_API_KEY LITELLM_PROXY_MASTER_KEY LITELLM_ADMIN_KEY"
    " PROXY_MASTER_KEY",
    AWS_ACCESS_KEY_ID.name: "AWS_ACCESS_KEY AWS_KEY_ID AWS_ACCESS_ID AWS_ACCESSKEY AWS_ACCESS_KEYID",
    AWS_SECRET_ACCESS_KEY.name: "AWS_SECRET_KEY AWS_SECRET AWS_SECRET_ACCESS AWS_SECRETKEY AWS_SECRET_KEY_ID",
    AWS_SESSION_TOKEN.name: "AWS_TOKEN AWS_SESSION AWS_SESSION_KEY",
    AWS_REGION_NAME.name: "BEDROCK_REGION BEDROCK_AWS_REGION AWS_BEDROCK_REGION BEDROCK_REGION_NAME LITELLM_REGION"
    " AWS_DEFAULT_REGION_NAME",
    AWS_BEARER_TOKEN_BEDROCK.name: "AWS_BEARER_TOKEN AWS_BEDROCK_API_KEY BEDROCK_API_KEY BEDROCK_BEARER_TOKEN"
    " AWS_BEDROCK_BEARER_TOKEN",
}
#: Names that other programs use, which therefore say nothing if the right one is set as well.
_SHARED = {"LOG_LEVEL": LITELLM_LOG.name, "LOGLEVEL": LITELLM_LOG.name}
_MEANT = {wrong: right for right, names in _MISTAKEN.items() for wrong in names.split()}
#: A shorter word resembles too many others, and a less similar one is another word.
_LEAST_LETTERS, _ALIKE, _VERY_ALIKE = 3, 0.8, 0.9
#: Variables that libraries, the shell or systemd read.
_OF_LIBRARIES = re.compile(
    r"(?:AWS|BOTO|OTEL|PYTHON|UV|PIP|SSL|LC|GRPC|GOOGLE|GCLOUD|CLOUDSDK|AZURE|MSI|IDENTITY|REDIS|PROMETHEUS|DD|HF"
    r"|LANGFUSE|LANGSMITH|LANGCHAIN|SENTRY|TIKTOKEN|TRANSFORMERS|MALLOC|LD|OMP|OPENBLAS|MKL|XDG|SYSTEMD|KUBERNETES"
    r"|CURL|REQUESTS|NODE)_\w+|PYTHON\w+|(?:HTTPS?|ALL|NO)_PROXY|\w+_DIRECTORY|FORWARDED_ALLOW_IPS",
    re.IGNORECASE,
)
_SHELL = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR", "PWD", "HOSTNAME"),
        *("MAINPID", "INVOCATION_ID", "JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
        *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
    )
)

#: Switches of botocore, as the snapshot has those of LiteLLM.
_OF_BOTOCORE = {AWS_EC2_METADATA_DISABLED.name: ("true", False)}
#: What click takes for a boolean (click.types.BoolParamType).
_CLICK_WORDS = frozenset(["1", "true", "t", "yes", "y", "on", "0", "false", "f", "no", "n", "off"])
#: Words that mean true, and that LiteLLM ignores where it knows true alone.
_TRUE_WORDS = frozenset(["1", "yes", "y", "on", "t", "enabled", "enable"])
_FALSE_WORDS = frozenset(["0", "no", "off", "n", "f", "false", "disabled", "disable"])


def environment_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Variables with a placeholder or a value of the wrong kind, and names that nothing reads."""
    snapshot = load_snapshot()
    referenced = frozenset(variable for _, variable in config.references)
    names = _Names(snapshot.variables | snapshot.variable_kinds.keys() | referenced)
    yield from _other_configuration(config, environ)
    for name, value in environ.items():
        if not value.strip():
            continue
        kind = snapshot.variable_kinds.get(name) or _OF_BOTOCORE.get(name)
        if kind is not None and name not in _CHECKED:
            yield from _kind(config, name, value, *kind)
        if name in _OF_ITS_SERVER or (name not in _OURS and name not in names.known):
            yield from _unread(config, (ENVIRONMENT, name), environ, names)
        elif _is_placeholder(name, value):
            remedy = f"Write the value of {name}, or remove the line."
            yield config.warning("placeholder", (ENVIRONMENT, name), "is a placeholder, not a usable value", remedy)
    for name in map(str, config.section(_SECTION)):
        if name in _OF_ITS_SERVER or (name not in _OURS and name not in names.known):
            yield from _unread(config, (_SECTION, name), environ, names)


#: The section of a configuration with variables that LiteLLM sets itself.
_SECTION = "environment_variables"

#: LiteLLM loads this file in place of the one of its command line (proxy_startup_event in proxy/proxy_server.py).
_OTHER_FILE, _OTHER_BUCKET = "CONFIG_FILE_PATH", "LITELLM_CONFIG_BUCKET_NAME"


def _other_configuration(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    if environ.get(_OTHER_FILE):
        message = (
            f"is {environ[_OTHER_FILE]}, which LiteLLM would load in place of the configuration that is checked here"
        )
        remedy = f"Remove it, and write the path as {CONFIG_FILE.name}."
        yield config.error("other-configuration", (ENVIRONMENT, _OTHER_FILE), message, remedy)
    if environ.get(_OTHER_BUCKET):
        message = "makes LiteLLM load a configuration from a bucket in place of the one that is checked here"
        yield config.warning("other-configuration", (ENVIRONMENT, _OTHER_BUCKET), message, "Remove it.")


def _is_placeholder(name: str, value: str) -> bool:
    if is_reference(value) or not is_placeholder(value):
        return False
    # Any text may be the value of another variable; these forms are unmistakable.
    return is_secret_name(name) or "://" in value or re.match(r"<|your[-_]|change[-_]?me", value.lower()) is not None


def _unread(config: GatewayConfig, path: KeyPath, environ: Mapping[str, str], names: _Names) -> Iterator[LintFinding]:
    name = str(path[-1])
    meant = names.find_meant(name)
    is_of_another = name in _SHARED and bool(environ.get(_SHARED[name]))
    if meant is not None and not is_of_another:
        # LiteLLM sets those of the section when the service has read its own.
        in_env = " in .env" if path[0] == _SECTION and meant in _OURS else ""
        remedy = f"Write it as {meant}{in_env}, or remove it."
        message = "has no effect: neither LiteLLM nor the service reads it"
        yield config.warning("unread-variable", path, message, remedy)


class _Names:
    """The names that something reads, and the search for one that resembles a name that nothing reads."""

    def __init__(self, known: frozenset[str]) -> None:
        self.known = known

    @cached_property
    def _by_pattern(self) -> Mapping[str, list[str]]:
        """The names by each pattern with one word left out (`OPENAI_*_KEY`), and by their letters alone."""
        found: dict[str, list[str]] = {}
        for name in sorted(self.known | _OURS):
            for pattern in _patterns(name):
                found.setdefault(pattern, []).append(name)
        return found

    def find_meant(self, name: str) -> str | None:
        """The variable that was meant by a name that nothing reads; None if the name resembles none."""
        if name in _OF_ITS_SERVER or name in _MEANT:
            return _OF_ITS_SERVER.get(name) or _MEANT[name]
        bare = name.upper().replace("-", "_")
        for candidate in (bare, bare.removeprefix("LITELLM_"), f"LITELLM_{bare}"):
            # Without the prefix, a name is one of ours or a stranger's.
            if candidate != name and (candidate in _OURS or (candidate == bare and candidate in self.known)):
                return candidate
        longer = re.sub(r"(?<!_API)_KEY$", "_API_KEY", bare)
        if longer != bare and longer in self.known | _OURS and not bare.startswith("LITELLM_"):
            return longer
        if name in _SHELL:
            return None
        is_library = _OF_LIBRARIES.fullmatch(name) is not None
        similar = (each for pattern in _patterns(bare) for each in self._by_pattern.get(pattern, ()))
        return next((each for each in similar if _is_typo(bare, each, is_library=is_library)), None)


def _patterns(name: str) -> Iterator[str]:
    words = name.split("_")
    yield "".join(words)
    yield from ("_".join((*words[:index], "*", *words[index + 1 :])) for index in range(len(words)))


def _is_typo(name: str, right: str, *, is_library: bool) -> bool:
    """Whether `name`, which differs in one word at most, may be a misspelling of `right`.

    `is_library`: a library may have another variable that is similar.
    """
    if name.replace("_", "") == right.replace("_", ""):
        return True
    pairs = zip(name.split("_"), right.split("_"), strict=False)
    word, other = next((pair for pair in pairs if pair[0] != pair[1]), ("", ""))
    if min(len(word), len(other)) < _LEAST_LETTERS or re.search(r"\d", word + other):
        return False
    least = _VERY_ALIKE if is_library and right not in _OURS else _ALIKE
    return difflib.SequenceMatcher(None, word, other).ratio() > least


def unread_names(config: GatewayConfig, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The variables that neither LiteLLM, the service nor the configuration reads, as far as is known.

    Code of the user's own may read them. Those that have a finding, and those that libraries read, are left out.
    """
    snapshot = load_snapshot()
    referenced = {variable for _, variable in config.references}
    names = _Names(snapshot.variables | snapshot.variable_kinds.keys() | referenced)
    known = _OURS | names.known | _SHELL
    others = (name for name in environ if name not in known and not _OF_LIBRARIES.fullmatch(name))
    return tuple(name for name in others if names.find_meant(name) is None)


def _kind(config: GatewayConfig, name: str, value: str, kind: str, stops: bool) -> Iterator[LintFinding]:
    """A value that LiteLLM cannot convert, or takes for the opposite."""
    path: KeyPath = (ENVIRONMENT, name)
    word, shown = value.strip().lower(), redact(value)[:_SHOWN]
    if kind == "text":
        if word in _FALSE_WORDS:
            message = f"is {shown}, which LiteLLM takes for true, as any text"
            yield config.warning("bad-variable", path, message, "Remove it.")
    elif kind in ("True", "true"):
        if word in _TRUE_WORDS or (kind == "True" and value.strip() == "true"):
            message = f"is {shown}, which counts as false here"
            yield config.warning("bad-variable", path, message, f"Write {name}={kind}")
    elif not _fits(value, kind):
        effect = "does not start with it" if stops else "cannot use it"
        remedy = f"Write {_EXAMPLES[kind]}, or remove it. If another program needs it, use another .env for that."
        make = config.error if stops else config.warning
        yield make("bad-variable", path, f"is {shown}, which is no {kind}: LiteLLM {effect}", remedy)


#: The characters of a bad value that a message shows.
_SHOWN = 40
_EXAMPLES = {"boolean": "true or false", "integer": "a whole number", "number": "a number"}


def _fits(value: str, kind: str) -> bool:
    if kind == "boolean":
        return value.strip().lower() in _CLICK_WORDS
    try:
        int(value) if kind == "integer" else float(value)
    except ValueError:
        return False
    return True


#: Keys and variables that name a file, first those of files that must exist, last those that may name something else.
_INPUT_KEY = re.compile(
    r"(?:.*_)?(?:credentials?|cert(?:ificate)?s?|ca_?certs?|bundle|ssl_verify)(?:_path|_file)?", re.I
)
_FILE_KEY = re.compile(r"(?:.*_)?file(?:_path)?", re.I)
_PERHAPS_FILE_KEY = re.compile(r"(?:.*_)?(?:path|dir|directory|folder)|pythonpath", re.I)
#: Settings whose values are paths of URLs.
_URL_PATHS = frozenset({"pass_through_endpoints", "server_root_path", "public_routes", "allowed_routes"})


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file or folder that a key of the configuration, or a variable, names by its absolute path.

    `is_certain`: the key names nothing but files. `must_exist`: the service reads the file and never writes it.
    """

    key: KeyPath
    path: str
    is_certain: bool
    must_exist: bool


def named_files(config: GatewayConfig, environ: Mapping[str, str]) -> tuple[NamedFile, ...]:
    """The files that the configuration and the variables outside of our table name."""
    found: dict[KeyPath, NamedFile] = {}
    for key, value in walk_texts(config.document):
        if _URL_PATHS.intersection(key):
            continue
        variable = value.removeprefix(REFERENCE)
        # A file that a variable names is the variable's.
        is_own = variable != value
        for each in _named_file(key, environ.get(variable, "") if is_own else value):
            place = (ENVIRONMENT, variable) if is_own else key
            found[place] = replace(each, key=place)
    for name in load_snapshot().variables | {"PYTHONPATH"}:
        if name not in _OURS and name in environ:
            for each in _named_file((ENVIRONMENT, name), environ[name]):
                found.setdefault(each.key, each)
    return tuple(found.values())


def _named_file(key: KeyPath, value: str) -> Iterator[NamedFile]:
    # https://docs.litellm.ai/docs/providers/bedrock: a web identity token may be oidc/file/PATH.
    path = value.strip().removeprefix("oidc/file/")
    name = next((step for step in reversed(key) if isinstance(step, str)), "")
    must_exist = _INPUT_KEY.fullmatch(name) is not None
    is_certain = must_exist or _FILE_KEY.fullmatch(name) is not None or path != value.strip()
    is_path = path.startswith("/") and "\n" not in path and name.lower() not in _URL_PATHS
    if is_path and (is_certain or _PERHAPS_FILE_KEY.fullmatch(name)):
        yield NamedFile(key, path, is_certain, must_exist)


def hidden_file_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Files that the sandbox of the service hides: an error where the service surely reads them."""
    for each in named_files(config, environ):
        found = HIDDEN.match(each.path)
        # A folder in /tmp may be one that LiteLLM writes.
        if found is None or (not each.is_certain and found[1] in ("tmp", "var/tmp")):
            continue
        target = f"/etc/litellm/{each.path.rstrip('/').rpartition('/')[2]}"
        message = f"is {each.path}, which the sandbox of the service hides (/home, /root, /tmp)"
        remedy = f"Name {target}, and copy the file: sudo install -m 640 -g {SERVICE_USER} {each.path} {target}"
        make = config.error if each.is_certain else config.warning
        yield make("hidden-file", each.key, message, remedy)


def profile_findings(
    config: GatewayConfig, environ: Mapping[str, str], *, has_profiles: bool
) -> Iterator[LintFinding]:
    """A profile that the service cannot find: it reads no ~/.aws of a user. `has_profiles`: its home has one."""
    name = next((name for name in AWS_PROFILE_NAME.names if environ.get(name)), None)
    files = (AWS_SHARED_CREDENTIALS_FILE.name, AWS_CONFIG_FILE.name)
    needs_it = any(model.calls_bedrock for model in config.models)
    if name is not None and needs_it and not has_profiles and not any(environ.get(file) for file in files):
        message = f"is {environ[name]}, but the service reads no ~/.aws"
        remedy = (
            f"'litellmctl init --from-profile {environ[name]}' writes the key of the profile to .env. Or name a file"
            f" of profiles for the service: {files[0]}=/etc/litellm/NAME"
        )
        yield config.error("profile-without-file", (ENVIRONMENT, name), message, remedy)
