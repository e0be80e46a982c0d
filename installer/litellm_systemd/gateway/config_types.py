"""Values of a LiteLLM configuration: models, fallbacks, references, and findings of the linter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from litellm_systemd.contract import DEMO_PROVIDER
from litellm_systemd.contract import REFERENCE as REFERENCE
from litellm_systemd.errors import InputError, join_sentences
from litellm_systemd.gateway.snapshot import Resolved, load_snapshot

#: One step into a YAML document: a key of a mapping, or an index of a list.
KeyPath = tuple[str | int, ...]

#: The position of a key: file, line and column, the latter two counted from 1.
Mark = tuple[str, int, int]

#: The parameter by which a model names an entry of `credential_list`.
CREDENTIAL_NAME = "litellm_credential_name"

#: Our own key at the top of a configuration, which LiteLLM ignores: the identity that must call Bedrock.
IDENTITY = "x-identity"

#: The first step of the path of a finding about a variable of the environment; no key of a file can be it. The second
#: one is the variable's name.
ENVIRONMENT = -1


def render_key(path: KeyPath) -> str:
    """A key path as text: `model_list[2].litellm_params.model`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def mappings(value: object) -> list[Mapping[str, object]]:
    """The mappings in a list; an empty list if `value` is not a list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def walk_texts(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """The texts in a YAML document with their key paths, in the order of the file. `path` is that of `value`."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from walk_texts(item, (*path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from walk_texts(item, (*path, index))


def is_mocked(params: Mapping[str, Any]) -> bool:
    """Whether a model with these `litellm_params` responds without a provider: `mock_response`, or the demo model."""
    return bool(params.get("mock_response")) or str(params.get("model")).startswith(f"{DEMO_PROVIDER}/")


def resolve_reference(value: object, environ: Mapping[str, str]) -> str | None:
    """`value` as LiteLLM resolves it: `os.environ/X` becomes X of `environ`; None if that is unset or empty."""
    if not isinstance(value, str):
        return None
    if value.startswith(REFERENCE):
        value = environ.get(value.removeprefix(REFERENCE), "")
    return value or None


def resolve_called(document: Mapping[str, Any], params: Mapping[str, Any], called: str) -> Resolved | None:
    """The provider and the model that LiteLLM calls for `called`; None if it finds no provider.

    `params` are the `litellm_params` with the name. LiteLLM then drops the entry, and logs it alone (Router).
    """
    settings = document.get("litellm_settings")
    own = mappings(settings.get("custom_provider_map") if isinstance(settings, Mapping) else None)
    provider, api_base = (_text(params.get(name)) for name in ("custom_llm_provider", "api_base"))
    return load_snapshot().resolve(
        called,
        provider=provider,
        api_base=api_base,
        custom_providers=tuple(str(entry.get("provider")) for entry in own),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def find_credential(document: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[KeyPath, Mapping[str, Any]]:
    """The credential of `credential_list` that a model names: the path of its values, and these; empty without one.

    LiteLLM adds them to the parameters of each call; the model's own take precedence (load_credentials_from_list in
    litellm/utils.py).
    """
    name, entries = params.get(CREDENTIAL_NAME), document.get("credential_list")
    for index, entry in enumerate(entries if isinstance(entries, list) and name else ()):
        if isinstance(entry, Mapping) and entry.get("credential_name") == name:
            values = entry.get("credential_values")
            return ("credential_list", index, "credential_values"), values if isinstance(values, Mapping) else {}
    return (), {}


class Identity(Enum):
    """The identity that a configuration can require for its calls to Bedrock, as `x-identity` spells it."""

    IAM_ROLE = "iam-role"
    ACCESS_KEY = "access-key"


class Severity(Enum):
    """An `ERROR` makes the gateway fail; with a `WARNING` it behaves differently from what one expects."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a configuration: file, line and column counted from 1, and the key as `render_key` writes it.

    A part is None if it does not exist: the service's environment has no file, a missing key has no line.
    """

    file: str | None = None
    line: int | None = None
    column: int | None = None
    key: str = ""

    @property
    def position(self) -> str:
        """`FILE:LINE:COLUMN` as compilers write it, without the missing parts; `environment` if there is none."""
        steps = [str(step) for step in (self.file, self.line, self.column) if step is not None]
        return ":".join(steps) or "environment"

    def __str__(self) -> str:
        """`FILE:LINE:COLUMN: key.path`."""
        return ": ".join(part for part in (self.position, self.key) if part)


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One problem in a configuration.

    `code` is a short stable identifier for programs; docs/linter.md has a section for each. `message` is a sentence
    whose subject is the key at `place`; it does not repeat the key. `remedy` says what to do. No field contains
    secrets.
    """

    severity: Severity
    code: str
    place: Place
    message: str
    remedy: str

    @property
    def where(self) -> str:
        return str(self.place)

    def __str__(self) -> str:
        """Position and message in one line."""
        return f"{self.place} {self.message}" if self.place.key else f"{self.place}: {self.message}"

    def render(self) -> str:
        """The problem and what to do, in one line."""
        return join_sentences(str(self), self.remedy)


class ConfigError(InputError):
    """A configuration cannot be used. `findings` are the reasons, for programs; the message is that of the first."""

    def __init__(self, *findings: LintFinding) -> None:
        super().__init__(str(findings[0]), findings[0].remedy)
        self.findings = findings


def config_error(code: str, place: Place, message: str, remedy: str) -> ConfigError:
    """The error to raise for a configuration that cannot be read."""
    return ConfigError(LintFinding(Severity.ERROR, code, place, message, remedy))


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of `model_list`; `key` is its path.

    `name` is the name that clients request (entries with the same name share the load), `provider_model` what
    LiteLLM calls, as written (`bedrock/us.anthropic.…`), and `resolved` what LiteLLM makes of that, None if it drops
    the entry or if it is a reference to a variable. `mocked` is what `is_mocked` says, `region` the `aws_region_name`
    of the model or of its credential as written, None if the environment decides.
    """

    name: str
    provider_model: str
    mocked: bool
    region: str | None
    key: KeyPath
    resolved: Resolved | None = None

    @property
    def provider(self) -> str | None:
        """The provider that LiteLLM calls, such as `bedrock`, whether it is written or follows from the name."""
        return None if self.resolved is None else self.resolved.provider

    @property
    def called(self) -> str:
        """What LiteLLM calls, with its provider: `bedrock/us.anthropic.…`; as written if LiteLLM drops it."""
        return self.provider_model if self.resolved is None else f"{self.resolved.provider}/{self.resolved.model}"

    @property
    def calls_bedrock(self) -> bool:
        return (self.provider or "").startswith("bedrock") and not self.mocked


@dataclass(frozen=True, slots=True)
class Fallback:
    """When `model` fails, LiteLLM calls `targets` in turn. `kind` is the name of the setting, such as `fallbacks`."""

    kind: str
    model: str
    targets: tuple[str, ...]
    key: KeyPath


@dataclass(frozen=True, slots=True)
class Replaced:
    """A section that an included file replaced as a whole. `lost` are the keys that only the one before had."""

    section: str
    before: Place
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PythonFile:
    """A Python file that a configuration names, or that such a file imports. `shown` names it in messages."""

    path: Path
    shown: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """A usable LiteLLM configuration: it has models, and each has a name and a model to call.

    `source` names it in messages. `aliases` are pairs (alias, model name) of `model_group_alias`; `hidden_aliases`
    can be requested but are not listed. `references` are all `os.environ/VARIABLE` as pairs (key path, variable).
    `digest` is the hexadecimal SHA-256 of the file, followed by its included files and its Python files. `includes`
    are the files of `include:`, `python_files` those that LiteLLM imports, and `folders` is where it looks for them;
    empty if the configuration is no file. `document` is the whole mapping, excluded from `repr` because it may
    contain keys; `marks` are the positions of its keys. `replaced` are the sections that an included file replaced.
    """

    source: str
    models: tuple[Model, ...]
    aliases: tuple[tuple[str, str], ...]
    hidden_aliases: tuple[tuple[str, str], ...]
    fallbacks: tuple[Fallback, ...]
    references: tuple[tuple[KeyPath, str], ...]
    digest: str
    includes: tuple[Path, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    marks: Mapping[KeyPath, Mark] = field(default_factory=dict, repr=False, compare=False)
    replaced: tuple[Replaced, ...] = ()
    python_files: tuple[PythonFile, ...] = ()
    folders: tuple[Path, ...] = field(default=(), compare=False)

    @property
    def other_files(self) -> tuple[Path, ...]:
        """The files that the service loads with the configuration: included ones, then Python files."""
        return (*self.includes, *(file.path for file in self.python_files))

    @property
    def names(self) -> tuple[str, ...]:
        """The names that `/v1/models` lists, each once, in the order of the file, aliases last."""
        listed = (*(model.name for model in self.models), *(alias for alias, _ in self.aliases))
        return tuple(dict.fromkeys(listed))

    @property
    def mocked_names(self) -> frozenset[str]:
        """The names, with aliases, whose entries all call no provider."""
        billed = {model.name for model in self.models if not model.mocked}
        mocked = {model.name for model in self.models} - billed
        return frozenset(mocked | {alias for alias, name in (*self.aliases, *self.hidden_aliases) if name in mocked})

    @property
    def identity(self) -> Identity | None:
        """The identity that the configuration requires; None if it requires none, or has an unknown value."""
        value = self.document.get(IDENTITY)
        return next((each for each in Identity if each.value == value), None)

    def section(self, name: str) -> Mapping[str, Any]:
        """A top-level mapping such as `general_settings`; empty if it is missing or not a mapping."""
        value = self.document.get(name)
        return value if isinstance(value, Mapping) else {}

    def params(self, model: Model) -> Mapping[str, Any]:
        params: Mapping[str, Any] = self.document["model_list"][model.key[1]]["litellm_params"]
        return params

    def called_params(self, model: Model) -> Mapping[str, Any]:
        """The parameters of its calls: its `litellm_params`, and the values of the credential that it names."""
        return {**find_credential(self.document, self.params(model))[1], **self.params(model)}

    def param_path(self, model: Model, name: str) -> KeyPath:
        """The path of a parameter, which may be in the credential that the model names."""
        path, values = find_credential(self.document, self.params(model))
        own = name in self.params(model) or name not in values
        return (*model.key, "litellm_params", name) if own else (*path, name)

    def info(self, model: Model) -> Mapping[str, Any]:
        """The `model_info` of a model; empty if it has none."""
        value = self.document["model_list"][model.key[1]].get("model_info")
        return value if isinstance(value, Mapping) else {}

    def error(self, code: str, path: KeyPath, message: str, remedy: str) -> LintFinding:
        """An error at a key of this configuration, or at `(ENVIRONMENT, VARIABLE)`; (): the environment."""
        return self._finding(Severity.ERROR, code, path, message, remedy)

    def warning(self, code: str, path: KeyPath, message: str, remedy: str) -> LintFinding:
        """A warning at a key of this configuration, or at `(ENVIRONMENT, VARIABLE)`; (): the environment."""
        return self._finding(Severity.WARNING, code, path, message, remedy)

    def _finding(self, severity: Severity, code: str, path: KeyPath, message: str, remedy: str) -> LintFinding:
        place = Place(key=str(path[1])) if path[:1] == (ENVIRONMENT,) else self.place(path) if path else Place()
        # Both quote values, and each line of a text is an event of the journal.
        message, remedy = (text.replace("\n", r"\n") for text in (message, remedy))
        return LintFinding(severity, code, place, message, remedy)

    def place(self, path: KeyPath) -> Place:
        """The position of a key, or of its closest parent in the file."""
        return find_place(self.source, self.marks, path)


def find_place(source: str, marks: Mapping[KeyPath, Mark], path: KeyPath) -> Place:
    """The position of a key, or of its closest parent with a mark; only `source` if there is none."""
    for length in range(len(path), 0, -1):
        mark = marks.get(path[:length])
        if mark is not None:
            return Place(*mark, render_key(path))
    return Place(source, key=render_key(path))
