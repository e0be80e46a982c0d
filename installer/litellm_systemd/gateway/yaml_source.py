"""Read YAML as LiteLLM does, record the position of each key, and report mistakes that YAML accepts."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from litellm_systemd.contract import CONFIG_FILE
from litellm_systemd.errors import InputError, MissingError, PermissionDenied
from litellm_systemd.gateway.config_types import (
    ConfigError,
    KeyPath,
    Mark,
    Place,
    Replaced,
    config_error,
    find_place,
    render_key,
)

try:  # libyaml's loader is ten times faster; some builds of PyYAML come without it.
    from yaml import CSafeLoader as _Loader
except ImportError:  # pragma: no cover
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

Marks = dict[KeyPath, Mark]

#: The largest file that is read, in bytes: room for ten thousand models.
_MAX_BYTES = 4 * 1024 * 1024
#: How deep values may be nested, and how many there may be if each alias counts as a copy: code that walks a
#: configuration, LiteLLM's too, calls itself for each level and visits each alias.
_MAX_DEPTH = 100
_MAX_NODES = 1_000_000


@dataclass(frozen=True, slots=True)
class FileText:
    """The text of a file that is not on the disk, or not yet as it will be; `shown` names it in messages."""

    text: str
    shown: str


#: Returns the text that replaces the file at an absolute path; None if the file on the disk counts.
Lookup = Callable[[Path], FileText | None]


@dataclass(frozen=True, slots=True)
class Document:
    """A mapping, the positions of its keys, the files it was merged from, and the SHA-256 of their texts in hex."""

    source: str
    data: dict[str, Any]
    marks: Marks
    includes: tuple[Path, ...]
    digest: str
    replaced: tuple[Replaced, ...] = ()


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
            hint = f"Create {entry} next to {declared_in.name}, it may be empty; or remove the entry."
            raise MissingError(f"{place.position} includes {entry}, which doesn't exist", hint) from None
        digest.update(text.encode())
        more, more_marks = _parse(text, shown, empty=True)
        pending += [(entry, file, place) for entry, place in _includes(more, more_marks, shown)]
        replaced += _merge(data, marks, more, more_marks)
    return Document(source, data, marks, tuple(loaded), digest.hexdigest(), tuple(replaced))


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


def read_text(path: Path, shown: str, by: str = "") -> str:
    """The text of a configuration file. `shown` names it in messages, `by` names the file that includes it.

    Raises MissingError, PermissionDenied, or InputError for one that isn't UTF-8, too large, or no regular file.
    """
    try:
        return _read_regular(path).decode()
    except FileNotFoundError:
        hint = "Give the path of a LiteLLM configuration."
        raise MissingError(f"{shown}{by} doesn't exist", hint) from None
    except PermissionError:
        hint = "Run the command with sudo, or make the file readable."
        raise PermissionDenied(f"{shown}{by} can't be read", hint) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{shown}:{line}{by} is not UTF-8", "Save the file as UTF-8.") from None
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"{shown}{by} can't be read: {reason}", "Give the path of a LiteLLM configuration."
        ) from None


def _read_regular(path: Path) -> bytes:
    # A pipe would block until it has a writer, and a device may never end.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISDIR(mode):
            raise ValueError("is a directory")
        if not stat.S_ISREG(mode):
            raise ValueError("is not a regular file")
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"is larger than {_MAX_BYTES // 1024**2} MiB")
    return content


def _parse(text: str, source: str, *, empty: bool = False) -> tuple[dict[str, Any], Marks]:
    """The mapping and the lines of its keys. `empty`: whether a file without content counts as `{}`."""
    marks: Marks = {}
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _mark(node, (), source, marks, {})
            data = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, source) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "nested too deeply"
        remedy = "Correct the file, or start from a shipped one."
        raise config_error("not-yaml", Place(source), f"this isn't YAML: {reason}", remedy) from None
    if data is None and empty:
        return {}, marks
    if not isinstance(data, dict):
        found = "it is empty" if data is None else "it is not a mapping"
        remedy = "A LiteLLM configuration starts with model_list: and its models."
        raise config_error("no-models", Place(source), found, remedy)
    return data, marks


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
    return config_error("not-yaml", place, f"this isn't YAML: {said}", remedy)


def _mark(node: yaml.Node, path: KeyPath, source: str, marks: Marks, sizes: dict[int, int]) -> int:
    """Record the places of the keys at and below a node; returns the number of values, an alias's included.

    `sizes` holds that number by the id of each node; 0 for those that the node is in.
    """
    size = sizes.get(id(node))
    if size == 0:
        raise _refused(node, path, source, "contains itself")
    if size is not None:  # an alias: its anchor was marked
        return size
    if len(path) > _MAX_DEPTH:
        raise _refused(node, path, source, f"is nested more than {_MAX_DEPTH} levels deep")
    sizes[id(node)], size = 0, 1
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            marks[(*path, index)] = (source, item.start_mark.line + 1, item.start_mark.column + 1)
            size += _mark(item, (*path, index), source, marks, sizes)
    elif isinstance(node, yaml.MappingNode):
        size += _mark_mapping(node, path, source, marks, sizes)
    if size > _MAX_NODES:
        raise _refused(node, path, source, f"has more than {_MAX_NODES:,} values, aliases included")
    sizes[id(node)] = size
    return size


def _refused(node: yaml.Node, path: KeyPath, source: str, what: str) -> ConfigError:
    place = Place(source, node.start_mark.line + 1, node.start_mark.column + 1, render_key(path[:1]))
    return config_error("not-yaml", place, what, "Use fewer levels and fewer aliases (*NAME).")


def _mark_mapping(node: yaml.MappingNode, path: KeyPath, source: str, marks: Marks, sizes: dict[int, int]) -> int:
    first: dict[str, int] = {}
    size = 0
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
            size += _mark(value, (*path, name), source, marks, sizes)
    return size
