"""Routes that are declared cheaply do what others do."""

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

from litellm_systemd.runtime.worker import routes


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
    """A route that is declared cheaply answers, refuses and documents itself as any other."""
    with routes.declared_cheaply():
        cheap = make_application()
        routes.build(cheap)
    usual = make_application()
    assert cheap.openapi() == usual.openapi()
    right = "number=2", {"name": "b", "sizes": ["1"]}
    for query, body in (right, ("number=0", {"name": "b"}), ("", {"sizes": "x"})):
        answers = [TestClient(each).post(f"/double/a?{query}", json=body) for each in (cheap, usual)]
        assert answers[0].status_code == answers[1].status_code
        assert answers[0].json() == answers[1].json()
    assert TestClient(cheap).post(f"/double/a?{right[0]}", json=right[1]).json() == {"name": "ab", "sizes": [1, 1]}


def test_built_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cheap route costs no validator until it is used, and then each of them once; a later one is whole at once."""
    with counted_adapters(monkeypatch) as built:
        with routes.declared_cheaply():
            built.clear()
            client = TestClient(make_application())
            assert built == []
        for _ in range(2):
            assert client.post("/double/a?number=2", json={"name": "b"}).status_code == 200
            assert len(built) == 4  # text, model, number, answer
        make_application()
        assert len(built) == 8


def test_signature_once() -> None:
    """A function that many routes depend on is looked at once while they are declared."""
    looked_at: list[Any] = []
    original = utils.get_typed_signature

    def look(call: Any) -> Any:
        looked_at.append(call)
        return original(call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "get_typed_signature", look)
        with routes.signatures_once():
            make_application()
            make_application()
        assert looked_at.count(number) == 1
        make_application()
        assert looked_at.count(number) == 2


@dataclass
class Other:
    """A field of a FastAPI that prepares more than the validator."""

    field_info: Any
    name: str
    more: Any = field(init=False)

    def __post_init__(self) -> None:
        self._type_adapter = self.more = 1
        self.another = 2


@pytest.mark.parametrize("stranger", [Other, None])
def test_unknown_fastapi(monkeypatch: pytest.MonkeyPatch, stranger: Any) -> None:
    """A FastAPI whose fields are made another way is left as it is."""
    monkeypatch.setattr(v2, "ModelField", stranger)
    before = dict(vars(stranger)) if stranger else None
    with routes.adapters_when_asked():
        assert (dict(vars(stranger)) if stranger else None) == before
    monkeypatch.delattr(utils, "get_typed_signature")
    with routes.signatures_once():
        assert not hasattr(utils, "get_typed_signature")
