"""What LiteLLM makes of the values of environment variables: a number, a switch; and where a bad value stops it.

The options of its command line are asked. Other variables are read by code such as `int(os.getenv("X", 5))`, which
only the syntax trees of its modules show.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from litellm_systemd.releases.litellm_source import parse_statements

#: The kind, as `gateway.snapshot` has it, and whether a bad value stops LiteLLM's start.
Kind = tuple[str, bool]

_READS = re.compile(r"getenv|environ|get_secret|get_env_")
#: A name in capitals that stands for the name of a variable.
_CONSTANT = re.compile(r"^([A-Z_]+)(?:: ?[\w\[\]. ]+)? = [\"']([A-Z][A-Z0-9_]+)[\"']$", re.MULTILINE)
_CONVERSIONS = {"int": "integer", "float": "number", "str_to_bool": "true", "_str_to_bool": "true", "bool": "text"}
#: LiteLLM's own readers of one variable, by the start of the name. They ignore a value that they cannot convert.
_READERS = {"get_env_int": "integer", "get_env_float": "number", "get_secret_bool": "true"}
_UNCHANGED = ("strip", "lower")
_CLICK = {"BoolParamType": "boolean", "IntParamType": "integer", "IntRange": "integer", "FloatParamType": "number"}


def find_variable_kinds() -> dict[str, Kind]:
    """The variables whose values LiteLLM converts in one way wherever it reads them.

    Raises:
        Exception: whatever the import of LiteLLM raises, or AttributeError and ImportError if it has moved something.
    """
    found: dict[str, set[Kind | None]] = defaultdict(set)
    folder = Path(str(importlib.import_module("litellm").__file__)).parent
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))}
    constants = dict(pair for text in texts.values() for pair in _CONSTANT.findall(text))
    for path, text in texts.items():
        if _READS.search(text):
            module = ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__")
            for name, kind in read_kinds(text, constants, is_imported=module in sys.modules):
                found[name].add(kind)
    return {**{name: kind for name, kinds in sorted(found.items()) if (kind := _one_of(kinds))}, **_options()}


def _options() -> dict[str, Kind]:
    """The variables of the options of LiteLLM's command line, whose values click checks."""
    command = importlib.import_module("litellm.proxy.proxy_cli").run_server
    kinds = {each.envvar: _CLICK.get(type(each.type).__name__) for each in command.params if each.envvar}
    return {str(name): (kind, True) for name, kind in sorted(kinds.items()) if kind is not None}


def _one_of(kinds: set[Kind | None]) -> Kind | None:
    """The kind of a variable that is read in several ways; None if a value may be meant for another one."""
    stopping = sorted(each for each in kinds if each is not None and each[1])
    names = {None if each is None else each[0] for each in kinds}
    return stopping[0] if stopping else next(iter(kinds)) if len(names) == 1 else None


def read_kinds(text: str, constants: Mapping[str, str], *, is_imported: bool) -> Iterator[tuple[str, Kind | None]]:
    """The variables that a module reads, with what it converts their values to; None if to nothing."""
    for tree in parse_statements(text, _READS):
        for node, above in _calls(tree, ()):
            if name := _variable(node, constants):
                yield name, _kind(node, above, is_imported=is_imported)


def _calls(node: ast.AST, above: tuple[ast.AST, ...]) -> Iterator[tuple[ast.Call, tuple[ast.AST, ...]]]:
    """The calls below a node, each with the nodes above it, outermost first."""
    if isinstance(node, ast.Call):
        yield node, above
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, (*above, node))


def _variable(call: ast.Call, constants: Mapping[str, str]) -> str | None:
    """The variable that a call reads: `os.getenv("X")`, `os.environ.get("X")`, `get_secret_bool("X")`."""
    function = _name(call.func)
    is_mapping = function == "get" and isinstance(call.func, ast.Attribute) and _name(call.func.value) == "environ"
    if not is_mapping and function != "getenv" and not function.startswith(("get_secret", "get_env_")):
        return None
    first = call.args[0] if call.args else None
    if isinstance(first, ast.Constant):
        return str(first.value)
    return None if first is None else constants.get(_name(first))


def _kind(call: ast.Call, above: tuple[ast.AST, ...], *, is_imported: bool) -> Kind | None:
    own = next((kind for reader, kind in _READERS.items() if _name(call.func).startswith(reader)), None)
    if own is not None:
        return own, False
    in_function = any(
        isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.Try) for each in above
    )
    stops = is_imported and not in_function
    node: ast.AST = call
    for parent in reversed(above):
        match parent:
            case ast.Attribute(attr=name) if name in _UNCHANGED:
                pass
            case ast.Call(func=ast.Attribute()) if parent.func is node:
                pass
            case ast.keyword():
                pass
            case ast.Call() if kind := _CONVERSIONS.get(_name(parent.func)):
                return kind, stops and kind in ("integer", "number")
            case ast.Compare(ops=[ast.Eq()], comparators=[ast.Constant(value=str(word))]) if word in ("true", "True"):
                return word, False
            case _:
                return None
        node = parent
    return None


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
