"""What a Python file of the user's own writes to the journal and should not: keys, and LiteLLM's debug log.

Every output of a worker is in the journal. LiteLLM's debug log has whole requests, and the headers of calls.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from litellm_systemd.env.secrets import is_secret_name

#: Functions and methods that write, and those whose result has what they are called with.
_WRITES = frozenset(
    (
        *("print", "pprint", "pp", "write", "log"),
        *("debug", "info", "warning", "warn", "error", "critical", "exception"),
    )
)
_KEEPS = frozenset(("str", "repr", "dict", "dumps", "format", "pformat", "join"))
#: Methods of os.environ whose result has the values.
_VALUES = frozenset(("items", "values", "copy"))


def find_keys(tree: ast.Module) -> Iterator[int]:
    """The lines of calls that write all variables of the environment, or one with a key."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in _WRITES:
            if any(_has_key(each) for each in (*node.args, *(keyword.value for keyword in node.keywords))):
                yield node.lineno
        elif isinstance(node, ast.For) and _has_key(node.iter):
            calls = (each for each in ast.walk(node) if isinstance(each, ast.Call))
            yield from (each.lineno for each in calls if _name(each.func) in _WRITES)


def find_debugging(tree: ast.Module) -> Iterator[int]:
    """The lines of statements that turn on the debug log of LiteLLM."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            is_debug = any(_name(each) == "DEBUG" for each in node.args)
            owner = _name(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            is_level = _name(node.func) == "setLevel" and owner.startswith("verbose_") and is_debug
            if is_level or _name(node.func) == "_turn_on_debug":
                yield node.lineno
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                is_switch = _name(target) == "set_verbose" and node.value.value is True
                if is_switch or (_variable(target) == "LITELLM_LOG" and node.value.value == "DEBUG"):
                    yield node.lineno


def _name(node: ast.AST) -> str:
    """The last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _variable(node: ast.AST) -> str:
    """The variable that an expression such as os.environ["NAME"] is about; empty for another expression."""
    names: list[ast.expr] = []
    if isinstance(node, ast.Subscript) and _name(node.value) == "environ":
        names = [node.slice]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _name(node.func.value) == "environ":
        names = node.args[:1] if node.func.attr == "get" else []
    elif isinstance(node, ast.Call) and _name(node.func) == "getenv":
        names = node.args[:1]
    return str(names[0].value) if names and isinstance(names[0], ast.Constant) else ""


def _has_key(node: ast.AST) -> bool:
    """Whether the value of an expression has all variables, or one with a key."""
    if variable := _variable(node):
        return is_secret_name(variable)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and _name(node.func.value) == "environ":
            return node.func.attr in _VALUES
        return _name(node.func) in _KEEPS and any(map(_has_key, node.args))
    if isinstance(node, (ast.Compare, ast.Subscript, ast.Lambda)):
        return False
    return _name(node) == "environ" or any(map(_has_key, ast.iter_child_nodes(node)))
