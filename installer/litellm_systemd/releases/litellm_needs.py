"""The packages that LiteLLM's callbacks, guardrails, caches and providers import and that LiteLLM does not depend on.

LiteLLM imports them when the feature is first used, so neither its metadata nor an import shows them. The syntax
tree of the feature's modules does: an import there counts unless it is guarded by a `try` that goes on without it.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from litellm_systemd.gateway.snapshot import Need

#: Distributions whose name does not follow from that of their module.
_PACKAGES = {
    "PIL": "pillow",
    "azure.storage.filedatalake": "azure-storage-file-datalake",
    "databricks": "databricks-sdk",
    "google.auth": "google-auth",
    "google.oauth2": "google-auth",
    "google.protobuf": "protobuf",
    "opentelemetry": "opentelemetry-api",
    "opentelemetry.semconv": "opentelemetry-semantic-conventions",
    "riva": "nvidia-riva-client",
    "traceloop": "traceloop-sdk",
    "vertexai": "google-cloud-aiplatform",
}

#: Packages of LiteLLM that a release has, and names that are no packages of their own.
_OWN = frozenset({"litellm", "litellm_enterprise", "litellm_proxy_extras", "enterprise", "litellm_systemd"})

#: The parts of LiteLLM with features. Imports are followed inside of the part of the feature, and to the base class
#: of a cloud provider, which has its credentials; not to what all of LiteLLM shares.
_PART = re.compile(
    r"litellm\.(integrations|caching|proxy\.guardrails\.guardrail_hooks|proxy\.hooks)\b|litellm_enterprise\b"
)
_BASE = re.compile(r"litellm\.vertex_chat_completion$|litellm\.(llms|integrations)(\.\w+)+_base$")


class Imports:
    """Finds the imports of LiteLLM's modules; `dependencies` are the modules that are installed with it."""

    def __init__(self) -> None:
        self._dependencies = _dependencies()
        self._distributions = _extras()
        self._seen: dict[str, frozenset[str]] = {}

    def need(self, modules: Collection[str], code: Iterable[ast.AST] = (), *, follow: bool = True) -> Need:
        """What modules and code of LiteLLM need in addition to its dependencies."""
        found = {name for each in code for name in _imported(each) if not name.startswith(".")}
        pending, done = [*modules, *found], set[str]()
        parts = {part for name in pending if follow and (part := _part(name))}
        while pending:
            name = pending.pop()
            if name not in done and (name in modules or (follow and (_part(name) in parts or _BASE.match(name)))):
                done.add(name)
                inner = self._imports_of(name)
                found |= inner
                pending += inner
        missing = sorted({each for name in found if (each := self._missing(name))})
        return Need(tuple(missing), tuple(dict.fromkeys(self._package(name) for name in missing)))

    def _imports_of(self, module: str) -> frozenset[str]:
        if module not in self._seen:
            top, _, name = module.rpartition(".")
            # `from litellm import x` may give an object: its class is in another module.
            owner = type(vars(sys.modules[top]).get(name)).__module__ if top == "litellm" else module
            path = _source(owner)
            tree = ast.parse(path.read_text(encoding="utf-8")) if path else ast.Module([], [])
            package = owner if path and path.name == "__init__.py" else owner.rpartition(".")[0]
            self._seen[module] = frozenset(importlib.util.resolve_name(each, package) for each in _imported(tree))
        return self._seen[module]

    def _missing(self, name: str) -> str | None:
        """The module to name if no dependency has it: `langfuse`, `azure.ai.contentsafety`."""
        parts = name.split(".")
        prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
        if (
            parts[0] in _OWN | sys.stdlib_module_names
            or name in {*_NAMESPACES, "google.cloud"}
            or self._dependencies & {*prefixes}
        ):
            return None
        known = {*_PACKAGES} - _NAMESPACES
        named = (each for each in prefixes if canonicalize_name(each) in self._distributions or each in known)
        return next(named, ".".join(parts[: 1 + (parts[0] in _NAMESPACES) + (parts[:2] == ["google", "cloud"])]))

    def _package(self, module: str) -> str:
        if module in _PACKAGES:
            return _PACKAGES[module]
        name = canonicalize_name(module)
        if name in self._distributions:
            return name
        return _PACKAGES.get(module.partition(".")[0], name)


#: Packages that several distributions share.
_NAMESPACES = frozenset({"azure", "google", "opentelemetry"})


def _part(module: str) -> str:
    """The part of LiteLLM that a module belongs to; "" if it belongs to none."""
    found = _PART.match(module)
    return found.group() if found else ""


def _source(module: str) -> Path | None:
    """The file of a module of LiteLLM; it is not imported, since that would import what it needs."""
    top, *parts = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*parts)
    files = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _imported(tree: ast.AST) -> Iterator[str]:
    """The modules that code imports; `from a import b` counts as a and a.b, since b may be a module."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.dump(tree.test):
        return
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom):
        start = "." * tree.level + (f"{tree.module}." if tree.module else "")
        yield from (start.removesuffix(".") for _ in (tree.module or "")[:1])
        yield from (start + alias.name for alias in tree.names)
    elif isinstance(tree, ast.Try) and any(_goes_on(handler) for handler in tree.handlers):
        for each in (*tree.handlers, *tree.orelse, *tree.finalbody):
            yield from _imported(each)
    else:
        for each in ast.iter_child_nodes(tree):
            yield from _imported(each)


def _goes_on(handler: ast.ExceptHandler) -> bool:
    return not any(isinstance(each, ast.Raise) for each in ast.walk(handler))


def _dependencies() -> frozenset[str]:
    """The modules of all distributions that LiteLLM's proxy and this package require, with dots."""
    pending, done = ["litellm[proxy]", "litellm-systemd"], set[str]()
    found: set[str] = set()
    while pending:
        wanted = Requirement(pending.pop())
        if str(wanted) in done:
            continue
        done.add(str(wanted))
        try:
            distribution = metadata.distribution(wanted.name)
        except metadata.PackageNotFoundError:
            continue
        found.update(_modules(distribution))
        for text in distribution.requires or ():
            inner = Requirement(text)
            if _applies(inner, wanted.extras):
                pending.append(f"{inner.name}[{','.join(sorted(inner.extras))}]" if inner.extras else inner.name)
    return frozenset(found)


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def _modules(distribution: metadata.Distribution) -> Iterator[str]:
    for path in distribution.files or ():
        parts = [*path.parts[:-1], *([] if path.stem == "__init__" else [path.name.partition(".")[0]])]
        is_module = path.suffix in (".py", ".so") and 0 < len(parts) < 5
        if is_module and all(part.isidentifier() for part in parts):
            yield ".".join(parts)


@cache
def _extras() -> frozenset[str]:
    """The distributions that LiteLLM names in any of its extras."""
    return frozenset(canonicalize_name(Requirement(text).name) for text in metadata.requires("litellm") or ())
