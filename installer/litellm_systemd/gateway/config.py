"""Find, read and check a LiteLLM configuration: what it serves, and errors that LiteLLM does not report.

`-c NAME` or `CONFIG_FILE=NAME` selects it. YAML is read as LiteLLM does, with the position of each key, and mistakes
that YAML accepts are reported. Nothing here imports LiteLLM, which takes seconds. Installer and service both use this
module.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import pwd
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from litellm_systemd.bedrock.models import localize as localize
from litellm_systemd.bedrock.models import profiles_outside_geography as profiles_outside_geography
from litellm_systemd.bounded_yaml import FastLoader, TooLarge, check_size
from litellm_systemd.contract import CONFIG_FILE, SERVICE_USER
from litellm_systemd.errors import InputError, MissingError, PermissionDenied, UsageError
from litellm_systemd.gateway.config_types import (
    REFERENCE,
    Fallback,
    KeyPath,
    Mark,
    Place,
    PythonFile,
    Replaced,
    config_error,
    find_credential,
    find_place,
    is_mocked,
    render_key,
    resolve_called,
    walk_texts,
)
from litellm_systemd.gateway.config_types import ConfigError as ConfigError
from litellm_systemd.gateway.config_types import GatewayConfig as GatewayConfig
from litellm_systemd.gateway.config_types import LintFinding as LintFinding
from litellm_systemd.gateway.config_types import Model as Model
from litellm_systemd.gateway.config_types import Severity as Severity
from litellm_systemd.gateway.lint import lint as lint
from litellm_systemd.gateway.python_files import find_python_files, python_folders
from litellm_systemd.gateway.references import is_header
from litellm_systemd.gateway.snapshot import load_snapshot
from litellm_systemd.user_files import read_regular

Marks = dict[KeyPath, Mark]


@dataclass(frozen=True, slots=True)
class FileText:
    """The text of a file that is not on the disk, or not yet as it will be; `shown` names it in messages."""

    text: str
    shown: str


#: Returns the text that replaces the file at an absolute path; None if the file on the disk counts.
Lookup = Callable[[Path], FileText | None]


@dataclass(frozen=True, slots=True)
class Document:
    """A mapping, the positions of its keys, the files it was merged from, and the SHA-256 of their texts in hex.

    `python_files` and `folders` are those of `GatewayConfig`. The digest covers the Python files, too.
    """

    source: str
    data: dict[str, Any]
    marks: Marks
    includes: tuple[Path, ...]
    digest: str
    replaced: tuple[Replaced, ...] = ()
    python_files: tuple[PythonFile, ...] = ()
    folders: tuple[Path, ...] = ()


def parse_document(text: str, source: str) -> Document:
    """A document from text alone. ConfigError for bad YAML, no mapping, a key given twice, or an `include:`."""
    data, marks = _parse(text, source)
    if "include" in data:
        place = find_place(source, marks, ("include",))
        raise config_error("bad-include", place, "can only be followed in a file", "Save the text to a file first.")
    return Document(source, data, marks, (), hashlib.sha256(text.encode()).hexdigest())


def real_path(path: Path) -> Path:
    """The file itself, links resolved: LiteLLM looks for included files next to the path that it is given."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links, which opening the file reports
        return path.absolute()


def read_document(path: Path, lookup: Lookup = lambda _path: None) -> Document:
    """A document from a file, with `include:` followed as LiteLLM does (proxy/common_utils/config_includes.py).

    Lists of an included file are appended, any other value of it replaces the one before. A relative entry is looked
    for next to the file that names it, then next to the file that `path` leads to; a file is read once. Raises as
    `parse_document`, and MissingError or PermissionDenied for a file that can't be opened.
    """
    root = path.absolute() if lookup(path.absolute()) else real_path(path)
    text, source = _read(root, lookup, str(path), "")
    data, marks = _parse(text, source)
    digest = hashlib.sha256(text.encode())
    pending = [(entry, root, place) for entry, place in _includes(data, marks, source)]
    loaded: list[Path] = []
    replaced: list[Replaced] = []
    while pending:
        entry, declared_in, place = pending.pop(0)
        file = _include_path(entry, declared_in, root, lookup)
        if file in (root, *loaded):
            continue
        loaded.append(file)
        try:
            text, shown = _read(file, lookup, str(file), f", which {place.position} includes,")
        except MissingError:
            message = f"{place.position} includes {entry}, which doesn't exist"
            raise MissingError(message, _include_hint(entry, file, declared_in, (root, *loaded)), str(file)) from None
        digest.update(text.encode())
        more, more_marks = _parse(text, shown, empty=True)
        pending += [(entry, file, place) for entry, place in _includes(more, more_marks, shown)]
        replaced += _merge(data, marks, more, more_marks)
    folders = python_folders(root)
    python_files = find_python_files(data, folders, partial(_read_python, folders[0], lookup))
    for each in python_files:
        digest.update(each.text.encode())
    return Document(source, data, marks, tuple(loaded), digest.hexdigest(), tuple(replaced), python_files, folders)


def _include_hint(entry: str, file: Path, declared_in: Path, loaded: tuple[Path, ...]) -> str:
    """What to do about an entry whose file doesn't exist: an empty file would lose what a similar name has."""
    close = list[str]()
    with contextlib.suppress(OSError):
        names = [each.name for each in file.parent.iterdir() if each not in loaded]
        close = difflib.get_close_matches(file.name, names, 1, 0.8)
    guess = f"Did you mean {Path(entry).with_name(close[0])}? Otherwise create" if close else "Create"
    return f"{guess} {entry} next to {declared_in.name}, it may be empty; or remove the entry."


def _read_python(folder: Path, lookup: Lookup, path: Path) -> tuple[str, str] | None:
    """The text of a Python file and how messages name it; None if there is no such file."""
    # A file next to the link to the active configuration is never installed, so it is on the disk.
    found = lookup(path) if path.is_relative_to(folder) else None
    if found is not None:
        return found.text, found.shown
    return (read_text(path, str(path)), str(path)) if os.path.isfile(path) else None  # noqa: PTH113 - may raise


def render_document(data: Mapping[str, Any]) -> str:
    """A document as the text of one file that includes none."""
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True)


def path_exists(path: Path) -> bool:
    """Whether there is such a file. Path.exists() would raise for a name that no file can have."""
    return os.path.exists(path)  # noqa: PTH110


def _includes(data: dict[str, Any], marks: Marks, source: str) -> list[tuple[str, Place]]:
    entries = data.pop("include", [])
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        place = find_place(source, marks, ("include",))
        raise config_error("bad-include", place, "is not a list of file names", "Write one a line: - models.yml")
    return [(entry, find_place(source, marks, ("include", index))) for index, entry in enumerate(entries)]


def _include_path(entry: str, declared_in: Path, root: Path, lookup: Lookup) -> Path:
    folders = [declared_in.parent, root.parent]
    if root.parts[-3:] == Path(CONFIG_FILE).parts[-3:]:
        # An editor replaced the link to the active configuration with a copy. The files are where the link led to.
        folders.append(root.parent / "configs")
    candidates = [_normal(folder / entry) for folder in folders]
    return next((path for path in candidates if _exists(path, lookup)), candidates[0])


def _exists(path: Path, lookup: Lookup) -> bool:
    return lookup(path) is not None or path_exists(path)


def _normal(path: Path) -> Path:
    # As os.path.abspath, which LiteLLM uses: `..` is resolved by name, links are not followed.
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and len(parts) > 1:
            parts.pop()
        elif part != "..":
            parts.append(part)
    return Path(*parts)


def _merge(data: dict[str, Any], marks: Marks, more: Mapping[str, Any], more_marks: Marks) -> Iterator[Replaced]:
    """Merge `more` into `data`; yields the sections that it replaces with another value."""
    for key, value in more.items():
        before = data.get(key)
        offset = 0
        if isinstance(before, list) and isinstance(value, list):
            offset = len(before)
            data[key] = [*before, *value]
        else:
            if before is not None and before != value:
                yield Replaced(str(key), find_place("", marks, (key,)), _lost(before, value))
            for path in [path for path in marks if path[0] == key]:
                del marks[path]
            data[key] = value
        for path, mark in more_marks.items():
            if path[0] == key:
                marks.setdefault(_shift(path, offset), mark)


def _lost(before: object, value: object) -> tuple[str, ...]:
    old = before if isinstance(before, Mapping) else {}
    new = value if isinstance(value, Mapping) else {}
    return tuple(str(key) for key in old if key not in new)


def _shift(path: KeyPath, offset: int) -> KeyPath:
    if len(path) > 1 and isinstance(path[1], int):
        return (path[0], path[1] + offset, *path[2:])
    return path


def _read(path: Path, lookup: Lookup, shown: str, by: str) -> tuple[str, str]:
    """The text of a file, and how messages name it."""
    found = lookup(path)
    return (found.text, found.shown) if found is not None else (read_text(path, shown, by), shown)


def read_text(path: Path, shown: str, by: str = "", read: Callable[[Path], bytes] = read_regular) -> str:
    """The text of a configuration file. `shown` names it in messages, `by` names the file that includes it.

    `read` returns the content; for a file that the user names it is `read_trusted`.

    Raises MissingError, PermissionDenied, or InputError for one that isn't UTF-8, too large, or no regular file.
    """
    try:
        return read(path).decode()
    except FileNotFoundError:
        hint = "Give the path of a LiteLLM configuration."
        raise MissingError(f"{shown}{by} doesn't exist", hint) from None
    except PermissionError:
        # The service reads it too, and has no sudo.
        with_sudo = "Run the command with sudo, or make the file readable."
        hint = f"Run: {render_grant(path)}" if _is_service() else with_sudo
        raise PermissionDenied(f"{shown}{by} can't be read", hint) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{shown}:{line}{by} is not UTF-8", "Save the file as UTF-8.") from None
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"{shown}{by} can't be read: {reason}", "Give the path of a LiteLLM configuration."
        ) from None


def render_grant(path: Path) -> str:
    """The command that lets the user of the service read a file."""
    return f"sudo chgrp {SERVICE_USER} {path} && sudo chmod g+r {path}"


def _is_service() -> bool:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name == SERVICE_USER
    except KeyError:
        return False


def _parse(text: str, source: str, *, empty: bool = False) -> tuple[dict[str, Any], Marks]:
    """The mapping and the lines of its keys. `empty`: whether a file without content counts as `{}`."""
    marks: Marks = {}
    try:
        check_size(text)
        loader = FastLoader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _mark(node, (), source, marks, set())
            data = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except TooLarge as error:
        mark = error.problem_mark
        place = Place(source, mark.line + 1, mark.column + 1, error.key) if mark else Place(source)
        remedy = "Use fewer levels and fewer aliases (*NAME)."
        raise config_error("not-yaml", place, str(error.problem), remedy) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, source) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "nested too deeply"
        remedy = "Correct the file, or start from a shipped one."
        if "\0" in text:
            reason = "it contains NUL bytes, as after a power failure"
            remedy = "Restore the file from a backup, or remove it; then: sudo litellmctl doctor --fix"
        raise config_error("not-yaml", Place(source), f"this isn't YAML: {reason}", remedy) from None
    if data is None and empty:
        return {}, marks
    if not isinstance(data, dict):
        found = "it is empty" if data is None else "it is not a mapping"
        remedy = "A LiteLLM configuration starts with model_list: and its models."
        raise config_error("no-models", Place(source), found, remedy)
    return data, marks


#: What people leave in a file that is then no YAML, and the remedy.
_MISTAKES = (
    (r"^(?:<{7}|={7}|>{7})", "Resolve the merge conflict: keep one side, and remove the lines with the marks."),
    (r"\{\{|\{%", "Render the template: {{ }} and {% %} are not YAML."),
    (r"[\u00a0\u2000-\u200b\ufeff]", "Replace the special spaces, as of a web page, with ordinary ones."),
)


def _syntax_error(error: yaml.MarkedYAMLError, text: str, source: str) -> ConfigError:
    # For an unclosed quote the parser reports the end of the file; the error is where it opens.
    is_open = error.context == "while scanning a quoted scalar"
    mark = (error.context_mark if is_open else None) or error.problem_mark or error.context_mark
    place = Place(source, mark.line + 1, mark.column + 1) if mark else Place(source)
    # The problem alone: the mark's snippet would print the line, and with it perhaps a key.
    said = ", ".join(part for part in (error.context, error.problem) if part)
    remedy = "Check the indentation, colons and quotes, there and on the line before."
    if mark and text.startswith("\t", mark.index):
        remedy = "Indent with spaces: YAML does not accept tabs."
    near = "\n".join(text.split("\n")[max(mark.line - 1, 0) : mark.line + 1]) if mark else ""
    remedy = next((better for pattern, better in _MISTAKES if re.search(pattern, near, re.MULTILINE)), remedy)
    return config_error("not-yaml", place, f"this isn't YAML: {said}", remedy)


def _mark(node: yaml.Node, path: KeyPath, source: str, marks: Marks, seen: set[int]) -> None:
    """Record the places of the keys at and below a node, of an anchor only where it is defined."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            marks[(*path, index)] = (source, item.start_mark.line + 1, item.start_mark.column + 1)
            _mark(item, (*path, index), source, marks, seen)
    elif isinstance(node, yaml.MappingNode):
        _mark_mapping(node, path, source, marks, seen)


def _mark_mapping(node: yaml.MappingNode, path: KeyPath, source: str, marks: Marks, seen: set[int]) -> None:
    first: dict[str, int] = {}
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            name, mark = str(key.value), key.start_mark
            place = (source, mark.line + 1, mark.column + 1)
            if name in first and name != "<<":
                message = f"is given twice, first on line {first[name]}"
                remedy = "Keep one of the two: YAML silently drops the first."
                raise config_error("duplicate-key", Place(*place, render_key((*path, name))), message, remedy)
            first[name] = mark.line + 1
            marks[(*path, name)] = place
            _mark(value, (*path, name), source, marks, seen)


_SUFFIXES = (".yml", ".yaml")


class ConfigOrigin(Enum):
    """The origin of a configuration: the package, the folder of installed configurations, or a path."""

    SHIPPED = "shipped"
    INSTALLED = "installed"
    PATH = "path"


@dataclass(frozen=True, slots=True)
class ConfigChoice:
    """The selected configuration. `name` is its file name, `path` the file; None for a shipped configuration.

    `passed_over` is a file with the same name in the current folder that was not selected, to be reported to the
    user.
    """

    name: str
    origin: ConfigOrigin
    path: Path | None
    passed_over: Path | None = None


def resolve_name(
    name: str, *, shipped: frozenset[str], installed: frozenset[str], installed_dir: Path, folder: Path
) -> ConfigChoice:
    """The configuration that `name` selects. `shipped` and `installed` are file names, such as `demo.yml`.

    1. A name with a slash is a path relative to `folder`; `read_config` reports if it does not exist.
    2. Else an installed configuration, with or without `.yml` in the name: a user's edit in `installed_dir` survives.
    3. Else a shipped one.
    4. Else a file in `folder`.

    Files in `folder` come last for safety: `sudo litellmctl install -c demo.yml` must not use a demo.yml that another
    user left in the current folder, because a configuration can name Python code to load. `./demo.yml` selects that
    file, and `passed_over` reports it. Only `folder` is read from disk. UsageError if there is no such configuration.
    """
    if not name.strip():
        raise UsageError("the name of the configuration is empty", f"Available: {_listing(shipped | installed)}.")
    if "/" in name:
        path = folder / name
        return ConfigChoice(path.name, ConfigOrigin.PATH, path)
    own = next((folder / file for file in _spellings(name) if os.path.isfile(folder / file)), None)  # noqa: PTH113 - is_file() may raise
    for file in _spellings(name):
        if file in installed:
            return ConfigChoice(file, ConfigOrigin.INSTALLED, installed_dir / file, _other(own, installed_dir / file))
        if file in shipped:
            return ConfigChoice(file, ConfigOrigin.SHIPPED, None, own)
    if own is not None:
        return ConfigChoice(own.name, ConfigOrigin.PATH, own)
    raise _unknown(name, shipped | installed)


def _spellings(name: str) -> tuple[str, ...]:
    return (name,) if name.endswith(_SUFFIXES) else (*(name + suffix for suffix in _SUFFIXES), name)


def _other(own: Path | None, path: Path) -> Path | None:
    return None if own is None or own.absolute() == path.absolute() else own


def _unknown(name: str, known: frozenset[str]) -> UsageError:
    close = difflib.get_close_matches(name, sorted(known), n=1) or difflib.get_close_matches(
        name, sorted(file.rsplit(".", 1)[0] for file in known), n=1
    )
    guess = f"Did you mean {close[0]}? " if close else ""
    hint = f"{guess}Available: {_listing(known)}. For your own file use its path, such as ./{name}."
    return UsageError(f"there is no configuration named {name}", hint)


def _listing(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"


#: Each maps a model to the models that are called if it fails (litellm/router.py).
FALLBACK_KINDS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")

_EXAMPLE = "An entry looks like this: {model_name: NAME, litellm_params: {model: bedrock/ID}}"


def read_config(path: Path, lookup: Lookup = lambda _path: None) -> GatewayConfig:
    """The configuration in a file, merged with the files that it includes.

    `lookup` returns texts that replace files, as for `read_document`.

    Raises ConfigError (bad YAML, no models, a model without a name or without something to call), MissingError (no
    such file) and PermissionDenied (not readable).
    """
    return _build(read_document(path, lookup))


def parse_config(text: str, source: str) -> GatewayConfig:
    """The configuration in `text`; `source` names it in messages. ConfigError as for `read_config`."""
    return _build(parse_document(text, source))


def check(config: GatewayConfig, environ: Mapping[str, str]) -> None:
    """Raise ConfigError for the first error that `lint` finds; warnings pass. `environ` is the service's own."""
    findings = lint(config, environ)
    # The service's main process checks too, and is forked: it has no use for the megabytes of the snapshot.
    load_snapshot.cache_clear()
    require_no_errors(findings)


def require_no_errors(findings: Iterable[LintFinding]) -> None:
    """Raise ConfigError for the first error; warnings pass."""
    for finding in findings:
        if finding.severity is Severity.ERROR:
            raise ConfigError(finding)


def _build(document: Document) -> GatewayConfig:
    return GatewayConfig(
        source=document.source,
        models=_models(document),
        aliases=tuple(_aliases(document.data, hidden=False)),
        hidden_aliases=tuple(_aliases(document.data, hidden=True)),
        fallbacks=tuple(_fallbacks(document)),
        references=tuple(_references(document.data)),
        digest=document.digest,
        includes=document.includes,
        document=document.data,
        marks=document.marks,
        replaced=document.replaced,
        python_files=document.python_files,
        folders=document.folders,
    )


def _wrong(document: Document, code: str, path: KeyPath, what: str, remedy: str) -> ConfigError:
    return config_error(code, find_place(document.source, document.marks, path), what, remedy)


#: Keys of a configuration whose services need no entry in model_list (ProxyConfig in proxy/proxy_server.py).
_OTHER_SERVICES = (
    *("agent_list", "agents", "assistant_settings", "default_vertex_config", "files_settings", "finetune_settings"),
    *("mcp_servers", "mcp_tools", "search_tools", "vector_store_registry"),
)


def _serves_without_models(data: Mapping[str, Any]) -> bool:
    settings = data.get("general_settings")
    passes_through = isinstance(settings, Mapping) and bool(settings.get("pass_through_endpoints"))
    return passes_through or any(data.get(name) for name in _OTHER_SERVICES)


def _models(document: Document) -> tuple[Model, ...]:
    if "model_list" not in document.data:
        unknown = [str(key) for key in document.data if key not in load_snapshot().sections[""]]
        close = difflib.get_close_matches("model_list", unknown, n=1)
        if close:
            what = "is not a setting: did you mean model_list?"
            raise _wrong(document, "misspelt-setting", (close[0],), what, "Write it as model_list.")
        if _serves_without_models(document.data):
            return ()
        place = Place(document.source)
        raise config_error("no-models", place, "there is no model_list: it would serve nothing", _EXAMPLE)
    entries = document.data["model_list"]
    if not entries and _serves_without_models(document.data):
        return ()
    if not isinstance(entries, list):
        remedy = f"Start each model with a dash. {_EXAMPLE}"
        raise _wrong(document, "bad-model", ("model_list",), "is not a list", remedy)
    if not entries:
        raise _wrong(document, "no-models", ("model_list",), "is empty: it would serve nothing", _EXAMPLE)
    models: list[Model] = []
    findings: list[LintFinding] = []
    for index, entry in enumerate(entries):
        try:
            models.append(_model(document, entry, ("model_list", index)))
        except ConfigError as error:
            findings += error.findings
    if findings:
        raise ConfigError(*findings)
    return tuple(models)


def _model(document: Document, entry: object, path: KeyPath) -> Model:
    if not isinstance(entry, Mapping):
        raise _wrong(document, "bad-model", path, "is not a mapping", _EXAMPLE)
    name = entry.get("model_name")
    _require_spelling(document, entry, path, ("model_name", "litellm_params"))
    if not isinstance(name, str) or not name:
        raise _wrong(document, "bad-model", path, "has no model_name, or one that isn't text", _EXAMPLE)
    params = entry.get("litellm_params")
    if not isinstance(params, Mapping):
        raise _wrong(document, "bad-model", path, f"({name}) has no litellm_params", _EXAMPLE)
    _require_spelling(document, params, (*path, "litellm_params"), ("model",))
    model = params.get("model")
    if not isinstance(model, str) or not model:
        what = f"({name}) has no model, or one that isn't text"
        raise _wrong(document, "bad-model", (*path, "litellm_params"), what, _EXAMPLE)
    region = {**find_credential(document.data, params)[1], **params}.get("aws_region_name")
    return Model(
        name=name,
        provider_model=model,
        mocked=is_mocked(params),
        region=region if isinstance(region, str) and region else None,
        key=path,
        resolved=resolve_called(document.data, params, model),
    )


def _require_spelling(document: Document, found: Mapping[str, Any], path: KeyPath, names: tuple[str, ...]) -> None:
    """Raise ConfigError if a name is missing and another key is a misspelling of it."""
    for name in names:
        if name in found:
            continue
        close = difflib.get_close_matches(name, [str(key) for key in found], n=1, cutoff=0.8)
        if close:
            what = f"is not a key of a model: did you mean {name}?"
            raise _wrong(document, "bad-model", (*path, close[0]), what, f"Write it as {name}.")


def _aliases(data: Mapping[str, Any], *, hidden: bool) -> Iterator[tuple[str, str]]:
    # A name, or {model: NAME, hidden: true} (RouterModelGroupAliasItem in litellm/types/router.py).
    settings = data.get("router_settings")
    aliases = settings.get("model_group_alias") if isinstance(settings, Mapping) else None
    for name, value in (aliases if isinstance(aliases, Mapping) else {}).items():
        item = value if isinstance(value, Mapping) else {"model": value}
        if bool(item.get("hidden")) is hidden and isinstance(item.get("model"), str):
            yield str(name), item["model"]


def _fallbacks(document: Document) -> Iterator[Fallback]:
    for section in ("router_settings", "litellm_settings"):
        settings = document.data.get(section)
        if isinstance(settings, Mapping):
            for kind in FALLBACK_KINDS:
                yield from _fallbacks_of(document, settings.get(kind), (section, kind))
            yield from _default_fallbacks(document, settings.get("default_fallbacks"), (section, "default_fallbacks"))


def _default_fallbacks(document: Document, value: object, path: KeyPath) -> Iterator[Fallback]:
    if isinstance(value, list):
        yield Fallback("default_fallbacks", "*", tuple(str(name) for name in value), path)
    elif value is not None:
        remedy = "Write it as a list: default_fallbacks: [claude-haiku]"
        raise _wrong(document, "bad-fallback", path, "is not a list of model names", remedy)


def _fallbacks_of(document: Document, value: object, path: KeyPath) -> Iterator[Fallback]:
    remedy = "Write one model a line: - claude-sonnet: [claude-haiku]"
    if not value:
        return
    if not isinstance(value, list):
        raise _wrong(document, "bad-fallback", path, "is not a list", remedy)
    for index, entry in enumerate(value):
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise _wrong(document, "bad-fallback", (*path, index), "is not one model with its list", remedy)
        for model, targets in entry.items():
            key = (*path, index, str(model))
            if not isinstance(targets, list):
                raise _wrong(document, "bad-fallback", key, "is not a list of model names", remedy)
            # A target may be a mapping {model: NAME, …} with parameters of its own (litellm/router_utils).
            names = (target.get("model") if isinstance(target, Mapping) else target for target in targets)
            yield Fallback(str(path[-1]), str(model), tuple(str(name) for name in names), key)


def _references(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    for path, value in walk_texts(data):
        if value.startswith(REFERENCE) or (REFERENCE in value and is_header(path)):
            yield path, value.partition(REFERENCE)[2]
