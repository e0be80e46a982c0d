"""Merge settings into a JSON, YAML or TOML file of a user, and keep the rest of its text as it is. Pure.

The rules are the same for each format: mappings merge key by key; of a list of mappings, the item with the same name,
or without names the same first value, is merged, or a new item is added; a list of other values gets the values that
it lacks; any other value is replaced. JSON may have comments and trailing commas, as Zed and opencode write it.

JSON and YAML are edited by the positions of their nodes, since JSON without its comments is YAML; TOML is edited by
tomlkit.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import Enum
from typing import Any

import tomlkit
import tomlkit.exceptions
import yaml

from litellm_systemd.bounded_yaml import TooLarge, load_yaml
from litellm_systemd.errors import InputError

#: A string of JSON, or a comment as editors allow it.
_STRING_OR_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_STRING_OR_TRAILING_COMMA = re.compile(r'"(?:[^"\\\n]|\\.)*"|,(?=\s*[}\]])')


class Format(Enum):
    JSON = "json"
    YAML = "yaml"
    TOML = "toml"


def render(wanted: Any, form: Format) -> str:
    """A new file with these settings."""
    if form is Format.JSON:
        return json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"
    return tomlkit.dumps(wanted) if form is Format.TOML else _block(wanted)


def parse(text: str, form: Format, source: str) -> Any:
    """The settings in a text as plain values, None if it has none; `source` names the text in messages.

    Raises:
        InputError: the text is not of that format.
    """
    try:
        if form is Format.TOML:
            return tomlkit.parse(text).unwrap()
        if form is Format.YAML:
            return load_yaml(text)
        plain = _without_comments(text)
        return json.loads(_STRING_OR_TRAILING_COMMA.sub(_keep_string, plain)) if plain.strip() else None
    except (json.JSONDecodeError, tomlkit.exceptions.ParseError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else error.line
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise _unreadable(f"{source}:{line}", form, reason) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = source if mark is None else f"{source}:{mark.line + 1}"
        if isinstance(error, TooLarge):
            raise InputError(
                f"{where}: {error.problem}", "Nothing was changed. Use fewer levels and aliases."
            ) from None
        raise _unreadable(where, form, str(getattr(error, "problem", None) or "it can't be read")) from None
    except RecursionError:
        raise _unreadable(source, form, "it is nested too deeply") from None


def _unreadable(where: str, form: Format, reason: str) -> InputError:
    return InputError(
        f"{where}: not {form.name}: {reason}", "Nothing was changed. Correct the file and run the command again."
    )


def merge(text: str, form: Format, wanted: Any, source: str, initial: Mapping[str, Any] | None = None) -> str:
    """The text with the wanted settings, unchanged if it has them already.

    Args:
        text: the file as it is; empty if there is none.
        form: its format.
        wanted: a mapping, or for YAML also a list of mappings.
        source: names the file in messages.
        initial: settings that are added only where the file has none.

    Raises:
        InputError: the text is not of that format, has another type at one of the keys, or can't be edited without
            a loss.
    """
    if initial:
        wanted = combine(initial, wanted) if not text.strip() else wanted
        text = _merge(text, form, initial, source, keep=True) if text.strip() else text
    return _merge(text, form, wanted, source, keep=False)


def _merge(text: str, form: Format, wanted: Any, source: str, *, keep: bool) -> str:
    before = parse(text, form, source)
    after = wanted if before is None else combine(before, wanted, source, keep=keep)
    if after == before:
        return text
    merged: str | None = None
    if before is None:
        merged = (f"{text.rstrip()}\n" if text.strip() else "") + render(wanted, form)
    elif form is Format.TOML:
        document = tomlkit.parse(text)
        _combine_toml(document, wanted, keep=keep)
        merged = tomlkit.dumps(document)
    else:
        # JSON that YAML's parser rejects, such as a key on another line than its colon
        with contextlib.suppress(yaml.YAMLError):
            merged = _Editor(text, form, keep=keep).edit(wanted)
    if merged is None or not _is_same(merged, form, source, after):
        raise InputError(
            f"{source}: its layout can't be edited without a loss",
            "Nothing was changed. Add the settings by hand: run the command without --write.",
        )
    return merged


def _is_same(text: str, form: Format, source: str, expected: object) -> bool:
    try:
        return bool(parse(text, form, source) == expected)
    except InputError:
        return False


def combine(before: Any, wanted: Any, source: str = "", path: str = "", *, keep: bool = False) -> Any:
    """Plain values merged by the rules of this module. `keep`: a value that is there stays.

    Raises:
        InputError: a mapping, a list or a single value is wanted where `before` has another of them.
    """
    if isinstance(wanted, Mapping):
        _require(before, Mapping, "a mapping", source, path)
        found = dict(before)
        for key, value in wanted.items():
            inner = f"{path}.{key}" if path else str(key)
            is_new = found.get(key) is None
            found[key] = value if is_new else combine(found[key], value, source, inner, keep=keep)
        return found
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        _require(before, list, "a list", source, path)
        items = list(before)
        for item in wanted:
            index = find_item(items, item)
            if index is None:
                items.append(item)
            else:
                items[index] = combine(items[index], item, source, f"{path}[{index}]", keep=keep)
        return items
    _require(before, (str, int, float, type(None), date), "a single value", source, path)
    return before if keep else wanted


def _require(value: object, kind: type | tuple[type, ...], name: str, source: str, path: str) -> None:
    if not isinstance(value, kind):
        where = f"{source}: {path}" if path else source
        raise InputError(
            f"{where} is not {name}", "Nothing was changed. Correct it, or add the settings by hand, without --write."
        )


def find_item(items: Sequence[Any], wanted: Any) -> int | None:
    """The index of the item that a wanted item merges with; None if it is a new one."""
    if isinstance(wanted, Mapping):
        key = "name" if "name" in wanted else next(iter(wanted))
        value = wanted[key]
        matches = (index for index, item in enumerate(items) if isinstance(item, Mapping) and item.get(key) == value)
    else:
        matches = (index for index, item in enumerate(items) if item == wanted)
    return next(matches, None)


def _combine_toml(found: Any, wanted: Mapping[str, Any], *, keep: bool) -> None:
    """`combine` in place. The settings for TOML have no lists."""
    for key, value in wanted.items():
        if isinstance(value, Mapping) and key in found:
            _combine_toml(found[key], value, keep=keep)
        elif key not in found or (found[key] != value and not keep):
            found[key] = value


def _without_comments(text: str) -> str:
    """JSON with spaces in place of comments and tabs, every other character at its position."""
    blanked = _STRING_OR_COMMENT.sub(
        lambda match: match[0] if match[0].startswith('"') else re.sub(r"[^\n]", " ", match[0]), text
    )
    return blanked.replace("\t", " ").replace("\r", " ").replace("\ufeff", " ")


def _keep_string(match: re.Match[str]) -> str:
    return match[0] if match[0].startswith('"') else " "


def _block(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False, width=1000)
    return text


@dataclass(slots=True)
class _Editor:
    """Collects insertions and replacements in a text by the positions of its YAML nodes."""

    text: str
    form: Format
    keep: bool
    edits: list[tuple[int, int, int, str]] = field(default_factory=list)

    def edit(self, wanted: Any) -> str:
        root = yaml.compose(_without_comments(self.text) if self.form is Format.JSON else self.text, yaml.SafeLoader)
        if root is not None:
            self._visit(root, wanted)
        text = self.text
        # From the end, so that positions stay valid. Of insertions at one position the first one comes first.
        for start, end, _order, new in sorted(self.edits, reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def _put(self, start: int, end: int, new: str) -> None:
        self.edits.append((start, end, len(self.edits), new))

    def _visit(self, node: yaml.Node, wanted: Any) -> None:
        if isinstance(node, yaml.MappingNode):
            self._visit_mapping(node, wanted)
        elif isinstance(node, yaml.SequenceNode):
            self._visit_list(node, wanted)
        elif not self.keep and _plain(node) != wanted:
            self._replace(node, wanted)

    def _replace(self, node: yaml.Node, wanted: Any) -> None:
        start, end = node.start_mark.index, node.end_mark.index
        space = " " if start == end and self.text[start - 1 : start] == ":" else ""
        self._put(start, end, space + _flow(wanted, _indent_at(self.text, start)))

    def _visit_mapping(self, node: yaml.MappingNode, wanted: Mapping[str, Any]) -> None:
        children = {key.value: value for key, value in node.value}
        missing = {key: value for key, value in wanted.items() if key not in children}
        for key, value in wanted.items():
            if key not in missing and _plain(children[key]) is None:
                self._replace(children[key], value)
            elif key not in missing:
                self._visit(children[key], value)
        entries = [f"{json.dumps(key)}: " for key in missing]
        self._add(node, list(missing.values()), entries, missing, node.value[0][0] if node.value else None)

    def _visit_list(self, node: yaml.SequenceNode, wanted: Sequence[Any]) -> None:
        found, missing = [_plain(each) for each in node.value], []
        # Wanted items merge with each other too.
        for item in combine([], wanted, keep=self.keep):
            index = find_item(found, item)
            if index is None:
                missing.append(item)
            else:
                self._visit(node.value[index], item)
        self._add(node, missing, [""] * len(missing), missing, node.value[0] if node.value else None)

    def _add(
        self,
        node: yaml.CollectionNode,
        values: Sequence[Any],
        heads: Sequence[str],
        block: Mapping[str, Any] | Sequence[Any],
        first: yaml.Node | None,
    ) -> None:
        """Insert members after the last one.

        Args:
            node: the mapping or the list.
            values: the new values.
            heads: what stands before each value in flow style.
            block: the new members, for block style.
            first: the first node in it now.
        """
        if not values:
            return
        if not node.flow_style:
            position, line_break = self._after_block(node)
            indent = " " * node.start_mark.column
            lines = "".join(f"{indent}{line}\n" if line else "\n" for line in _block(block).splitlines())
            self._put(position, position, line_break + lines)
            return
        start, end = node.start_mark.index, node.end_mark.index
        outer = _indent_at(self.text, start)
        if first is None:
            inner = f"{outer}  "
        elif "\n" in self.text[start : first.start_mark.index]:
            inner = _indent_at(self.text, first.start_mark.index)
        else:
            inner = ""
        separator = f"\n{inner}" if inner else " "
        members = f",{separator}".join(
            f"{head}{_flow(value, inner or outer, is_inline=not inner)}"
            for head, value in zip(heads, values, strict=True)
        )
        if first is None:
            comments = self.text[start + 1 : end - 1].rstrip()
            self._put(start + 1, end - 1, f"{comments}{separator}{members}\n{outer}")
            return
        last = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
        position = last.end_mark.index
        self._put(position, position, f",{separator}{members}")

    def _after_block(self, node: yaml.Node) -> tuple[int, str]:
        """The start of the line after a node in block style, and a line break if the text ends without one."""
        while isinstance(node, yaml.CollectionNode) and not node.flow_style:
            last = node.value[-1]
            node = last[1] if isinstance(last, tuple) else last
        position = node.end_mark.index
        if position and self.text[position - 1] == "\n":  # a block scalar, or an empty value
            return position, ""
        end = self.text.find("\n", position)
        return (len(self.text), "\n") if end < 0 else (end + 1, "")


def _plain(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _flow(value: Any, indent: str, *, is_inline: bool = False) -> str:
    """A value in JSON, which is YAML's flow style, for a line with that indentation."""
    text = json.dumps(value, ensure_ascii=False, indent=None if is_inline else 2)
    return text.replace("\n", f"\n{indent}")


def _indent_at(text: str, position: int) -> str:
    """The white space at the start of the line of a position."""
    line = text[text.rfind("\n", 0, position) + 1 : position]
    return line[: len(line) - len(line.lstrip())]
