"""What a LiteLLM configuration says, as values: models, fallbacks, references, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from litellm_systemd.errors import InputError

#: One step into a YAML document: a key of a mapping, or an index of a list.
KeyPath = tuple[str | int, ...]

#: Where a key stands: file, line, column, the latter two from 1 on.
Mark = tuple[str, int, int]

#: What LiteLLM replaces by the environment variable that follows it.
REFERENCE = "os.environ/"


def render_key(path: KeyPath) -> str:
    """A key path as people write it: `model_list[2].litellm_params.model`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def mappings(value: object) -> list[Mapping[str, object]]:
    """The mappings in a list; none where it is no list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def resolve_reference(value: object, environ: Mapping[str, str]) -> str | None:
    """`value` as LiteLLM will see it: `os.environ/X` becomes X of `environ`; None when that is unset or empty."""
    if not isinstance(value, str):
        return None
    if value.startswith(REFERENCE):
        value = environ.get(value.removeprefix(REFERENCE), "")
    return value or None


class Severity(Enum):
    """An `ERROR` keeps the gateway from doing its job; a `WARNING` is a surprise in waiting."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: a file, line and column from 1 on, and the key as `render_key` writes it.

    None where there is none: no file for the service's environment, no line for a key that is missing.
    """

    file: str | None = None
    line: int | None = None
    column: int | None = None
    key: str = ""

    @property
    def position(self) -> str:
        """`FILE:LINE:COLUMN`, as compilers write it, as much of it as there is; else `environment`."""
        steps = [str(step) for step in (self.file, self.line, self.column) if step is not None]
        return ":".join(steps) or "environment"

    def __str__(self) -> str:
        """`FILE:LINE:COLUMN: key.path`."""
        return ": ".join(part for part in (self.position, self.key) if part)


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One thing that is wrong: where, what, and the `remedy`.

    `code` is a short stable slug for programs; docs/linter.md has a section for each. `message` is a sentence about
    the key at `place`, without that key. No field ever holds a secret.
    """

    severity: Severity
    code: str
    place: Place
    message: str
    remedy: str

    @property
    def where(self) -> str:
        """The place as text."""
        return str(self.place)

    def __str__(self) -> str:
        """Place and message, in one line."""
        return f"{self.place} {self.message}" if self.place.key else f"{self.place}: {self.message}"


class ConfigError(InputError):
    """A configuration can't be used. `findings` say why, for programs; the message is the first one's."""

    def __init__(self, *findings: LintFinding) -> None:
        super().__init__(str(findings[0]), findings[0].remedy)
        self.findings = findings


def config_error(code: str, place: Place, message: str, remedy: str) -> ConfigError:
    """What to raise where a configuration can't even be read."""
    return ConfigError(LintFinding(Severity.ERROR, code, place, message, remedy))


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of `model_list`, `key` being its place there.

    `name` is what clients ask for (two entries of one name share the load), `provider_model` what LiteLLM calls
    (`bedrock/converse/us.anthropic.…`), `mocked` whether it answers by `mock_response` with no provider behind
    it, `region` the model's own `aws_region_name` as written, None where the environment decides.
    """

    name: str
    provider_model: str
    mocked: bool
    region: str | None
    key: KeyPath

    @property
    def provider(self) -> str | None:
        """What stands before the first slash of `provider_model`: `bedrock`; None if there is no slash."""
        head, slash, _ = self.provider_model.partition("/")
        return head if slash else None


@dataclass(frozen=True, slots=True)
class Fallback:
    """When `model` fails, `targets` are asked in turn. `kind` is the setting's name, such as `fallbacks`."""

    kind: str
    model: str
    targets: tuple[str, ...]
    key: KeyPath


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """A LiteLLM configuration that can be used: it has models, and each has a name and something to call.

    `source` names it in messages. `aliases` are pairs (alias, model name) of `model_group_alias`; hidden ones, which
    answer and aren't listed, stand apart. `references` are all `os.environ/VARIABLE` as pairs (key path, variable).
    `digest` is the SHA-256, in hex, of the file (followed by its included files). `includes` are the files that
    `include:` pulled in. `document` is the whole mapping, kept out of `repr` as it may hold keys; `marks` says
    where each key stands.
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

    @property
    def names(self) -> tuple[str, ...]:
        """The names that `/v1/models` lists, each once, in the order of the file, aliases last."""
        listed = (*(model.name for model in self.models), *(alias for alias, _ in self.aliases))
        return tuple(dict.fromkeys(listed))

    @property
    def mocked_names(self) -> frozenset[str]:
        """The names behind which no provider stands: every entry answers by `mock_response`. Aliases included."""
        billed = {model.name for model in self.models if not model.mocked}
        mocked = {model.name for model in self.models} - billed
        return frozenset(mocked | {alias for alias, name in (*self.aliases, *self.hidden_aliases) if name in mocked})

    @property
    def primary(self) -> str:
        """The first model's name: what `verify` asks unless it is told otherwise."""
        return self.models[0].name

    def section(self, name: str) -> Mapping[str, Any]:
        """A top-level mapping such as `general_settings`; empty where it is absent or no mapping."""
        value = self.document.get(name)
        return value if isinstance(value, Mapping) else {}

    def params(self, model: Model) -> Mapping[str, Any]:
        """The `litellm_params` of a model."""
        params: Mapping[str, Any] = self.document["model_list"][model.key[1]]["litellm_params"]
        return params

    def info(self, model: Model) -> Mapping[str, Any]:
        """The `model_info` of a model; empty where it has none."""
        value = self.document["model_list"][model.key[1]].get("model_info")
        return value if isinstance(value, Mapping) else {}

    def error(self, code: str, path: KeyPath, message: str, remedy: str) -> LintFinding:
        """An error at a key of this configuration; the empty path stands for the service's environment."""
        return self._finding(Severity.ERROR, code, path, message, remedy)

    def warning(self, code: str, path: KeyPath, message: str, remedy: str) -> LintFinding:
        """A warning at a key of this configuration; the empty path stands for the service's environment."""
        return self._finding(Severity.WARNING, code, path, message, remedy)

    def _finding(self, severity: Severity, code: str, path: KeyPath, message: str, remedy: str) -> LintFinding:
        return LintFinding(severity, code, self.place(path) if path else Place(), message, remedy)

    def place(self, path: KeyPath) -> Place:
        """Where a key stands, or the closest parent that is in the file."""
        return find_place(self.source, self.marks, path)


def find_place(source: str, marks: Mapping[KeyPath, Mark], path: KeyPath) -> Place:
    """Where the key stands, or the closest parent with a mark; `source` alone where none has."""
    for length in range(len(path), 0, -1):
        mark = marks.get(path[:length])
        if mark is not None:
            return Place(*mark, render_key(path))
    return Place(source, key=render_key(path))
