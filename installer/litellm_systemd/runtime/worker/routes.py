"""Makes FastAPI prepare LiteLLM's thousand routes in half the time, and before the workers are forked.

Each function saves time and memory (docs/profile.md). None is required: with a FastAPI whose internals differ, it
has no effect.
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
def lazy_declaration() -> Iterator[None]:
    """Declare routes with `cached_signatures` and `lazy_type_adapters`."""
    with cached_signatures(), lazy_type_adapters():
        yield


def prepare(application: Any) -> None:
    """Make FastAPI prepare its routes now instead of during the first request of each worker.

    FastAPI computes the parameters of a route when it first compares the route with a request (effective_candidates
    in fastapi/routing.py). That takes a quarter of a second up to the routes of the health checks, and half a second
    for /v1/messages or an unknown path. Here each route is compared with a path that matches none. No route is
    called.
    """
    scope = {"type": "http", "method": "GET", "path": "/-", "root_path": "", "headers": [], "query_string": b""}
    with contextlib.suppress(Exception):
        for route in application.router.routes:
            route.matches(dict(scope))


@contextlib.contextmanager
def cached_signatures() -> Iterator[None]:
    """Make FastAPI compute the signature of a function once, not for each of the routes that depend on it.

    A signature cannot change (inspect.Signature) unless it contains an unresolved name; such signatures are not
    cached. The cache is dropped at the end. See get_typed_signature in fastapi/dependencies/utils.py.
    """
    utils: Any = importlib.import_module(_UTILS)
    original: Any = getattr(utils, "get_typed_signature", None)
    cache: dict[int, tuple[Any, inspect.Signature]] = {}  # holds the function too, so that its id stays unique

    def get_typed_signature(call: Any) -> inspect.Signature:
        if id(call) in cache:
            return cache[id(call)][1]
        signature: inspect.Signature = original(call)
        if not any(isinstance(each.annotation, (str, ForwardRef)) for each in signature.parameters.values()):
            cache[id(call)] = call, signature
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
def lazy_type_adapters() -> Iterator[None]:
    """Make FastAPI build the validator of a parameter or a response at the first use, not at the declaration.

    The validators of about 3,300 fields take a fifth of the start time and 20 MB, and a gateway uses a few dozen. A
    field that is declared in this context builds its validator at the first use, with FastAPI's own code
    (ModelField.__post_init__ in fastapi/_compat/v2.py, which does nothing else). A field that is declared later, such
    as one of a user's callback, builds it at once.
    """
    field = _find_field_class()
    if field is None:
        yield
        return
    original: Any = field.__post_init__

    def build_adapter(self: Any) -> Any:
        original(self)
        return vars(self)[_ADAPTER]

    lazy_adapter: Any = functools.cached_property(build_adapter)
    lazy_adapter.__set_name__(field, _ADAPTER)
    setattr(field, _ADAPTER, lazy_adapter)
    field.__post_init__ = lambda _: None
    try:
        yield
    finally:
        field.__post_init__ = original


def _find_field_class() -> Any:
    """FastAPI's ModelField, or None if its constructor does more than build the validator."""
    with contextlib.suppress(Exception):
        module: Any = importlib.import_module(_FIELDS)
        declared = {each.name for each in dataclasses.fields(module.ModelField)}
        sample = module.ModelField(field_info=module.FieldInfo(annotation=str), name="sample")
        if vars(sample).keys() == declared | {_ADAPTER}:
            return module.ModelField
    return None
