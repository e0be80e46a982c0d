"""Check a YAML text before it is composed: its nesting, and how large it is with each alias as a copy. Pure.

A few lines of aliases to aliases ("billion laughs") stand for more values than any memory holds. PyYAML shares them,
but code that walks, compares or writes the result visits each. Deep nesting ends libyaml's composer with a
segmentation fault. The events of the parser take neither recursion nor memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

#: libyaml's loader is ten times faster; some builds of PyYAML come without it.
FastLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: How deep values may be nested, and how many there may be if each alias counts as a copy: code that walks a
#: configuration, LiteLLM's too, calls itself for each level and visits each alias.
MAX_DEPTH = 100
MAX_NODES = 1_000_000


class TooLarge(yaml.MarkedYAMLError):
    """The text is nested too deeply, or too large with its aliases. `key` is the key at the top that it is below."""

    def __init__(self, problem: str, mark: Any, key: str) -> None:
        super().__init__(problem=problem, problem_mark=mark)
        self.key = key


def load_yaml(text: str) -> Any:
    """The value of a text, as by `yaml.safe_load`.

    Raises:
        yaml.YAMLError: it is not YAML.
        TooLarge: it is nested too deeply, or has too many values.
    """
    check_size(text)
    return yaml.load(text, FastLoader)  # noqa: S506 - it is a SafeLoader


@dataclass(slots=True)
class _Collection:
    """A list or mapping that has not ended yet: its values and levels so far, and whether the next value is a key."""

    mark: Any
    anchor: str | None
    is_mapping: bool
    size: int = 1
    levels: int = 1
    is_key: bool = True


def check_size(text: str) -> None:
    """Check the nesting and the number of values.

    Raises:
        yaml.YAMLError: it is not YAML.
        TooLarge: it is nested too deeply, or has too many values.
    """
    open_ones: list[_Collection] = []
    anchors: dict[str, tuple[int, int]] = {}
    key = ""
    for event in _events(text):
        if isinstance(event, yaml.NodeEvent):
            size, levels = (1, 0)
            if isinstance(event, yaml.AliasEvent):
                size, levels = anchors.get(event.anchor or "", (1, 0))
            if len(open_ones) + levels > MAX_DEPTH:
                raise TooLarge(f"is nested more than {MAX_DEPTH} levels deep", event.start_mark, key)
            if isinstance(event, yaml.CollectionStartEvent):
                is_mapping = isinstance(event, yaml.MappingStartEvent)
                open_ones.append(_Collection(event.start_mark, event.anchor, is_mapping))
                continue
            if isinstance(event, yaml.AliasEvent):
                containing = next((each for each in open_ones if each.anchor == event.anchor), None)
                if containing is not None:
                    raise TooLarge("contains itself", containing.mark, key)
            elif event.anchor is not None:
                anchors[event.anchor] = size, levels
            is_top = len(open_ones) == 1 and open_ones[0].is_mapping and open_ones[0].is_key
            if is_top and isinstance(event, yaml.ScalarEvent):
                key = event.value
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = open_ones.pop()
            size, levels = ended.size, ended.levels
            if ended.anchor is not None:
                anchors[ended.anchor] = size, levels
            if size > MAX_NODES:
                raise TooLarge(f"has more than {MAX_NODES:,} values, aliases included", ended.mark, key)
        else:
            continue
        if open_ones:
            _add(open_ones[-1], size, levels)


def _add(parent: _Collection, size: int, levels: int) -> None:
    """Add a value, or a key, to its collection."""
    parent.levels = max(parent.levels, levels + 1)
    if not parent.is_mapping:
        parent.size += size
        return
    # A plain key is no value.
    parent.size += size - 1 if parent.is_key else size
    parent.is_key = not parent.is_key


def _events(text: str) -> Iterator[Any]:
    return iter(yaml.parse(text, FastLoader))
