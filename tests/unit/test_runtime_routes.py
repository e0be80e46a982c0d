"""Routes with lazily built validators behave like others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Query
from fastapi._compat import v2
from fastapi.dependencies import utils
from fastapi.testclient import TestClient
from pydantic import BaseModel

from litellm_systemd.runtime.worker import litellm_adapter


class Model(BaseModel):
    name: str
    sizes: list[int] = []


def number(number: Annotated[int, Query(gt=0)]) -> int:
    return number


def make_application() -> FastAPI:
    application = FastAPI()

    @application.post("/double/{text}", response_model=Model)
    def double(text: str, model: Model, times: Annotated[int, Depends(number)]) -> dict[str, Any]:
        return {"name": text + model.name, "sizes": model.sizes * times, "secret": 1}

    return application


@contextlib.contextmanager
def counted_adapters(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What validators FastAPI builds meanwhile."""
    built: list[Any] = []
    original: Any = vars(v2)["TypeAdapter"]

    def build(what: Any, **options: Any) -> Any:
        built.append(what)
        return original(what, **options)

    with monkeypatch.context() as patch:
        patch.setattr(v2, "TypeAdapter", build)
        yield built


def test_same_answers() -> None:
    """A lazily declared route has the same responses, errors and documentation as another route."""
    with litellm_adapter.lazy_declaration():
        lazy = make_application()
        litellm_adapter.prepare(lazy)
    usual = make_application()
    assert lazy.openapi() == usual.openapi()
    right = "number=2", {"name": "b", "sizes": ["1"]}
    for query, body in (right, ("number=0", {"name": "b"}), ("", {"sizes": "x"})):
        answers = [TestClient(each).post(f"/double/a?{query}", json=body) for each in (lazy, usual)]
        assert answers[0].status_code == answers[1].status_code
        assert answers[0].json() == answers[1].json()
    assert TestClient(lazy).post(f"/double/a?{right[0]}", json=right[1]).json() == {"name": "ab", "sizes": [1, 1]}


def test_lazy_validators(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lazily declared route builds each validator once, at its first use. A later route builds them at once."""
    with counted_adapters(monkeypatch) as built:
        with litellm_adapter.lazy_declaration():
            built.clear()
            client = TestClient(make_application())
            assert built == []
        for _ in range(2):
            assert client.post("/double/a?number=2", json={"name": "b"}).status_code == 200
            assert len(built) == 4  # text, model, number, response
        make_application()
        assert len(built) == 8


def test_cached_signatures() -> None:
    """The signature of a function that many routes depend on is computed once."""
    computed: list[Any] = []
    original = utils.get_typed_signature

    def count(call: Any) -> Any:
        computed.append(call)
        return original(call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "get_typed_signature", count)
        with litellm_adapter.cached_signatures():
            make_application()
            make_application()
        assert computed.count(number) == 1
        make_application()
        assert computed.count(number) == 2


@dataclass
class Other:
    """A field class whose constructor prepares more than the validator."""

    field_info: Any
    name: str
    more: Any = field(init=False)

    def __post_init__(self) -> None:
        self._type_adapter = self.more = 1
        self.another = 2


@pytest.mark.parametrize("field_class", [Other, None])
def test_unknown_fastapi(monkeypatch: pytest.MonkeyPatch, field_class: Any) -> None:
    """A FastAPI with other internals is not changed."""
    monkeypatch.setattr(v2, "ModelField", field_class)
    before = dict(vars(field_class)) if field_class else None
    with litellm_adapter.lazy_type_adapters():
        assert (dict(vars(field_class)) if field_class else None) == before
    monkeypatch.delattr(utils, "get_typed_signature")
    with litellm_adapter.cached_signatures():
        assert not hasattr(utils, "get_typed_signature")


@pytest.mark.parametrize(
    ("variables", "on"),
    [
        ({}, set()),
        ({"NO_DOCS": "", "NO_OPENAPI": " "}, set()),
        ({"NO_DOCS": "True"}, set()),
        ({"API_DOCS": "true"}, {"docs", "redoc", "document"}),
        ({"API_DOCS": "true", "NO_REDOC": "true"}, {"docs", "document"}),
        ({"DOCS_URL": "/docs"}, {"docs", "document"}),
        ({"REDOC_URL": "/reference"}, {"redoc", "document"}),
        ({"NO_DOCS": "false"}, {"docs", "document"}),
        ({"OPENAPI_URL": "/api.json"}, {"document"}),
        ({"DOCS_URL": "/docs", "NO_OPENAPI": "true"}, {"docs"}),
    ],
)
def test_variables_of_the_documentation(variables: dict[str, str], on: set[str]) -> None:
    """LiteLLM's documentation is off, unless API_DOCS or a variable of LiteLLM itself turns it on."""
    environ = {**variables, **litellm_adapter.closed_defaults(variables)}
    # As LiteLLM decides (get_docs_url and the next functions of proxy/utils.py, whose import takes seconds).
    pages = {"docs": "DOCS", "redoc": "REDOC", "document": "OPENAPI"}
    shown = {
        name
        for name, part in pages.items()
        if environ.get(f"{part}_URL") or environ.get(f"NO_{part}", "").lower() != "true"
    }
    assert shown == on
