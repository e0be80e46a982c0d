"""Names that LiteLLM looks up in a mapping, an object or the environment, from the syntax trees of its modules.

Most settings have a declaration that can be asked (`litellm_snapshot`). Others exist only as the constant in
`general_settings.get("x")`, `getattr(litellm, "x")` or `os.getenv("X")`: no import shows these. A syntax tree does,
and unlike bytecode it is the same in every version of Python.

LiteLLM has 37 MB of source. Only top-level statements that mention a name of interest are parsed.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

#: A top-level statement starts in the first column, unless it closes a bracket or continues a statement.
_STATEMENT = re.compile(r"^(?=[^\s)\]}#])", re.MULTILINE)

#: The same in a class or a condition.
_INNER = re.compile(r"^ {4}(?=[^\s)\]}#])", re.MULTILINE)

_IDENTIFIER = re.compile(r"[A-Za-z_][\w-]*")

_READS = frozenset(
    {"get", "pop", "setdefault", "getenv", "get_secret", "get_secret_str", "get_secret_bool", "getattr"}
)


class Lookups(ast.NodeVisitor):
    """The constants that are looked up, by what they are looked up in.

    `keys` has them by the last name of the mapping or object: `general_settings.get("a")`,
    `self.general_settings["a"]` and `"a" in (general_settings or {})` are all of `general_settings`. `calls` has
    the constants that a function gets together with such a name, as in `read_limit(general_settings, "a")`;
    `compared` those that a name is compared with, as in `key == "a"`; `fields` the fields of classes named
    `…Config`; `variables` the environment variables.
    """

    def __init__(self, constants: Mapping[str, frozenset[str]]) -> None:
        self.keys: dict[str, set[str]] = defaultdict(set)
        self.calls: dict[str, set[str]] = defaultdict(set)
        self.compared: dict[str, set[str]] = defaultdict(set)
        self.fields: set[str] = set()
        self.variables: set[str] = set()
        self._constants = constants

    def visit_Call(self, node: ast.Call) -> None:
        """`x.get("a")`, `getattr(x, "a")`, `getenv("A")`, `function(x, "a")`, `option(envvar="A")`."""
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if isinstance(node.func, ast.Attribute) and name in ("get", "pop", "setdefault") and node.args:
            self._add(node.func.value, node.args[0])
        elif name in ("getattr", "hasattr") and len(node.args) > 1:
            self._add(node.args[0], node.args[1])
        elif "env" in name or "secret" in name:
            self.variables.update(each for arg in node.args[:1] for each in self._values(arg))
        for owner in {_last_name(each) for each in (node.func, *node.args)} - {""}:
            self.calls[owner].update(each for arg in node.args for each in self._values(arg))
        for keyword in node.keywords:
            if keyword.arg == "envvar":
                self.variables.update(self._values(keyword.value))
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """`x["a"]`."""
        self._add(node.value, node.slice)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """`"a" in x`."""
        if isinstance(node.ops[0], ast.In | ast.NotIn):
            self._add(node.comparators[0], node.left)
        elif isinstance(node.ops[0], ast.Eq):
            self.compared[_last_name(node.left)].update(self._values(node.comparators[0]))
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """The fields of a provider's `…Config` class."""
        if node.name.endswith("Config"):
            fields = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
            self.fields.update(each.id for each in fields if isinstance(each, ast.Name))
        self.generic_visit(node)

    def _add(self, owner: ast.expr, key: ast.expr) -> None:
        if name := _last_name(owner):
            found = self._values(key)
            self.keys[name].update(found)
            if name == "environ":
                self.variables.update(found)

    def _values(self, node: ast.expr) -> Iterable[str]:
        if isinstance(node, ast.Constant):
            is_name = isinstance(node.value, str) and _IDENTIFIER.fullmatch(node.value)
            return (str(node.value),) if is_name else ()
        name = _last_name(node)
        return self._constants.get(name, ()) if name.isupper() else ()


def _last_name(node: ast.expr) -> str:
    """The last name of `a.b.c`, also in `(a.b.c or {})`, `cast(T, a.b.c)` and `a.b.get("c")`; "" if there is none."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.lstrip("_")
        case ast.BoolOp(values=[first, *_]) | ast.Await(value=first):
            return _last_name(first)
        case ast.Call(func=ast.Name(id="cast" | "dict"), args=[*_, last]):
            return _last_name(last)
        case ast.Call(func=ast.Attribute(attr="validate_python"), args=[first, *_]):
            return _last_name(first)
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(name)), *_]):
            return name
        case ast.Call(func=function):
            return _last_name(function)
    return ""


class Source:
    """The source of packages.

    Args:
        packages: their folders.

    Raises:
        OSError: a file cannot be read.
    """

    def __init__(self, *packages: Path) -> None:
        paths = sorted(path for package in packages for path in package.rglob("*.py"))
        self._texts = {path: path.read_text(encoding="utf-8") for path in paths}
        self._constants = _constants(self._texts.values())

    def find_validators(self, name: str) -> Iterator[tuple[Path, str]]:
        """The pydantic models that validate a mapping of this name: the file, and the class."""
        call = re.compile(rf"\b(\w+)\.model_validate\({name}\)")
        return ((path, each) for path, text in self._texts.items() for each in call.findall(text))

    def find_lookups(self, pattern: str, below: Path | None = None) -> Lookups:
        """All that is looked up in the top-level statements that match a pattern; in a file, or below a folder."""
        found = Lookups(self._constants)
        for tree in self._find(pattern, below):
            found.visit(tree)
        return found

    def find_functions(self, pattern: str, below: Path) -> Iterator[tuple[tuple[str, ...], Lookups]]:
        """The arguments of each function in such statements, and what it looks up."""
        for tree in self._find(pattern, below):
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    found = Lookups(self._constants)
                    found.visit(node)
                    yield tuple(each.arg for each in node.args.args), found

    def _find(self, pattern: str, below: Path | None) -> Iterator[ast.Module]:
        wanted = re.compile(pattern, re.MULTILINE)
        for path, text in self._texts.items():
            if (below is None or path.is_relative_to(below)) and wanted.search(text):
                yield from parse_statements(text, wanted)


def _constants(texts: Iterable[str]) -> dict[str, frozenset[str]]:
    """The strings that names in capitals stand for, anywhere in the source."""
    pattern = re.compile(
        r"^_?([A-Z][A-Z0-9_]+)(?:: ?[\w\[\]. |]+)? = \(?\s*[\"']([A-Za-z_][\w-]*)[\"']", re.MULTILINE
    )
    found: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        for name, value in pattern.findall(text):
            found[name].add(value)
    return {name: frozenset(values) for name, values in found.items()}


def parse_statements(text: str, wanted: re.Pattern[str]) -> Iterator[ast.Module]:
    """The trees of the top-level statements that mention a wanted word; of the whole text if they cannot be split.

    Of a class or a condition, the statements in it that do, unless its own line mentions a word.
    """
    try:
        yield from [tree for part in _split(text, _STATEMENT) if wanted.search(part) for tree in _parse(part, wanted)]
    except SyntaxError:
        yield ast.parse(text)


def _parse(statement: str, wanted: re.Pattern[str]) -> list[ast.Module]:
    first, _, rest = statement.partition("\n")
    if not first.startswith(("class ", "if ")) or wanted.search(first):
        return [ast.parse(statement)]
    try:
        return [ast.parse(textwrap.dedent(part)) for part in _split(rest, _INNER) if wanted.search(part)]
    except SyntaxError:
        return [ast.parse(statement)]


def _split(text: str, start: re.Pattern[str]) -> list[str]:
    starts = [match.start() for match in start.finditer(text)]
    return [text[begin:end] for begin, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def branches(tree: ast.AST, variable: str) -> dict[str, list[ast.stmt]]:
    """The statements of `if variable == "a":` by `a`, also of `variable == X.A` and `"a" in variable`."""
    found: dict[str, list[ast.stmt]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If):
            for name in _compared(node.test, variable):
                found.setdefault(name, []).extend(node.body)
    return found


def _compared(test: ast.expr, variable: str) -> Iterator[str]:
    for node in ast.walk(test):
        if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Eq | ast.In):
            continue
        sides = (node.left, node.comparators[0])
        for one, other in (sides, sides[::-1]):
            if _last_name(one) == variable:
                yield from _texts(other)


def _texts(node: ast.expr) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value
        elif isinstance(each, ast.Attribute) and each.attr.isupper():
            yield each.attr
