"""Have FastAPI prepare LiteLLM's thousand routes at half the price, and before the workers are forked.

Each of these saves time and memory, and none is a condition: with a FastAPI that is built another way, it does
nothing. What they gain is in docs/profile.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
from collections.abc import Iterator
from typing import Any, ForwardRef

_UTILS = "fastapi.dependencies.utils"
_FIELDS = "fastapi._compat.v2"
_ADAPTER = "_type_adapter"


@contextlib.contextmanager
def declared_cheaply() -> Iterator[None]:
    """Declare the routes to come with `signatures_once` and `adapters_when_asked`."""
    with signatures_once(), adapters_when_asked():
        yield


def build(application: Any) -> None:
    """Have FastAPI prepare its routes here instead of in each worker's first request.

    It works out a route's parameters when a request first comes past (effective_candidates in fastapi/routing.py):
    a quarter of a second up to the probes' routes, and half a second for /v1/messages or a path that isn't there.
    Only the paths are compared, with one that none of them has; nothing is called.
    """
    scope = {"type": "http", "method": "GET", "path": "/-", "root_path": "", "headers": [], "query_string": b""}
    with contextlib.suppress(Exception):
        for route in application.router.routes:
            route.matches(dict(scope))


@contextlib.contextmanager
def signatures_once() -> Iterator[None]:
    """Have FastAPI work out a function's signature once, not for each of the hundreds of routes that depend on it.

    A signature can't change (inspect.Signature), unless a name in it is still unknown: such a one isn't kept. All are
    forgotten in the end (get_typed_signature in fastapi/dependencies/utils.py).
    """
    utils: Any = importlib.import_module(_UTILS)
    original: Any = getattr(utils, "get_typed_signature", None)
    known: dict[int, tuple[Any, inspect.Signature]] = {}  # with the function, which keeps its number its own

    def get_typed_signature(call: Any) -> inspect.Signature:
        if id(call) in known:
            return known[id(call)][1]
        signature: inspect.Signature = original(call)
        if not any(isinstance(each.annotation, (str, ForwardRef)) for each in signature.parameters.values()):
            known[id(call)] = call, signature
        return signature

    if original is None:
        yield
        return
    utils.get_typed_signature = get_typed_signature
    try:
        yield
    finally:
        utils.get_typed_signature = original


@contextlib.contextmanager
def adapters_when_asked() -> Iterator[None]:
    """Have FastAPI build the validator of a parameter or an answer when it is first used, not when it is declared.

    The validators of some 3,300 fields are a fifth of a start and 20 MB, and a gateway uses a few dozen. A field
    that is declared in here builds its own at the first use, with FastAPI's own code (ModelField.__post_init__
    in fastapi/_compat/v2.py, which does nothing else); one that is declared later, such as a user's own, at once.
    """
    field = _field_that_only_adapts()
    if field is None:
        yield
        return
    original: Any = field.__post_init__

    def build_adapter(self: Any) -> Any:
        original(self)
        return vars(self)[_ADAPTER]

    later: Any = functools.cached_property(build_adapter)
    later.__set_name__(field, _ADAPTER)
    setattr(field, _ADAPTER, later)
    field.__post_init__ = lambda _: None
    try:
        yield
    finally:
        field.__post_init__ = original


def _field_that_only_adapts() -> Any:
    """FastAPI's ModelField, if making one does what `adapters_when_asked` relies on, and nothing else."""
    with contextlib.suppress(Exception):
        module: Any = importlib.import_module(_FIELDS)
        declared = {each.name for each in dataclasses.fields(module.ModelField)}
        sample = module.ModelField(field_info=module.FieldInfo(annotation=str), name="sample")
        if vars(sample).keys() == declared | {_ADAPTER}:
            return module.ModelField
    return None
