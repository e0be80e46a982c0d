"""The status that the main process reports is checked before root uses it."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest

from litellm_systemd.commands.status import Loaded, build_runtime_facts, describe_next_step
from litellm_systemd.doctor.check_drop_ins import find_unmet
from litellm_systemd.errors import InvalidAnswer
from litellm_systemd.host.service_status import check_status

STATUS: dict[str, Any] = {
    "ok": True,
    "state": "serving",
    "status": "serving on 127.0.0.1:4000 with 1 model, 1 worker",
    "pid": 71,
    "generation": 2,
    "config": "/etc/litellm/configs/demo.yml",
    "config_name": "demo.yml",
    "sha256": "0" * 64,
    "models": 1,
    "restarts": 0,
    "last_reload": {"ok": False, "at": 1.0, "generation": 2, "seconds": 0.5, "error": "no model_list"},
    "memory_limit": 1024,
    "guesses": [{"client": "192.0.2.7", "refused": 20, "age": 1.5}],
    "blocks": [
        {
            "where": "/etc/litellm/mine.py:7 in hook",
            "call": "time.sleep",
            "request": "POST /v1/messages",
            "count": 3,
            "killed": 1,
            "longest": 15.5,
            "age": 1.5,
        }
    ],
    "redis": {"counting": "local", "usable": False, "cause": "Connection refused.", "since": 1.0},
    "workers": [
        {
            "worker": 1,
            "pid": 72,
            "generation": 2,
            "state": "serving",
            "age": 1.5,
            "answered": 0.1,
            "inflight": 0,
            "requests": 3,
            "calls": 2,
            "failed_calls": 1,
        }
    ],
}
WRONG: tuple[Any, ...] = (
    None,
    "",
    "x",
    "x" * 5000,
    -1,
    2**70,
    0.5,
    float("inf"),
    float("nan"),
    True,
    [],
    [None],
    [[]],
    {},
    {"a": 1},
)
PLACES = (
    *((key,) for key in STATUS),
    *(("last_reload", key) for key in STATUS["last_reload"]),
    *(("workers", 0, key) for key in STATUS["workers"][0]),
    *(("guesses", 0, key) for key in STATUS["guesses"][0]),
    *(("blocks", 0, key) for key in STATUS["blocks"][0]),
    *(("redis", key) for key in ("counting", "cause")),
    ("guesses", 0),
    ("blocks", 0),
    ("workers", 0),
)


def facts_of(status: Any) -> list[tuple[str, str]]:
    """What `status` prints."""
    found = check_status(status)
    for worker in found["workers"]:
        worker["pss_mib"] = None
    return list(build_runtime_facts(found, Loaded("demo.yml", "0" * 64, None)))


@pytest.mark.parametrize(
    ("restarts", "text"),
    [
        ("0", ""),
        ("2", "systemd has restarted it 2 times after a failure. For the cause, run: sudo litellmctl doctor"),
    ],
)
def test_service_that_starts_again(restarts: str, text: str) -> None:
    """A service that is starting after a failure is not one to wait for."""
    data = {"load": "loaded", "masked": "", "active": "activating", "sub": "start", "restarts": restarts}
    assert describe_next_step({**data, "socket": "active"}) == text


@pytest.mark.parametrize("unit", ["litellm.service", "litellm.socket"])
def test_masked_unit(unit: str) -> None:
    """A masked unit is not to be started: doctor names what masks it."""
    data = {"load": "loaded", "masked": unit, "active": "inactive", "sub": "dead", "socket": "inactive"}
    text = f"{unit} is masked, so the service cannot start. For the remedy, run: sudo litellmctl doctor"
    assert describe_next_step(data) == text


def test_condition_that_is_not_met() -> None:
    """A service that a condition keeps from starting is not one to start by hand: doctor names the line."""
    unmet = {f"{kind}Timestamp": "today" for kind in ("Condition", "Assert")}
    unmet |= {"ConditionResult": "yes", "AssertResult": "no"}
    data = {"load": "loaded", "masked": "", "active": "inactive", "sub": "dead", "socket": "active"}
    text = describe_next_step({**data, "unmet": find_unmet(unmet)})
    assert text == "The last start did not meet Assert…= of the unit. For its line, run: sudo litellmctl doctor"
    # Before its first start.
    assert find_unmet({"ConditionTimestamp": "", "ConditionResult": "no"}) == ""


def test_good_status() -> None:
    """The status of a service is printed, also without what a starting one does not know."""
    facts = facts_of(copy.deepcopy(STATUS))
    assert {("workers replaced", "0"), ("memory limit", "1024 MiB for each worker")} <= set(facts)
    assert ("redis", "local limits, cooldowns and cache: Connection refused") in facts
    assert "redis" not in dict(facts_of({**STATUS, "redis": None}))
    starting = {**STATUS, "generation": None, "sha256": None, "last_reload": None, "workers": [], "more": [1]}
    assert "generation" not in dict(facts_of(starting))
    leaving = {**STATUS, "leaving_until": 1_900_000_000.0, "inflight": 1}
    assert dict(facts_of(leaving))["leaving"].endswith(", 1 request in flight")


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_wrong_values(place: tuple[Any, ...]) -> None:
    """A value of another type, or a missing one, is an error in words or is printed: never another error."""
    refused = 0
    for value in (*WRONG, KeyError):
        status = copy.deepcopy(STATUS)
        parent = status
        for key in place[:-1]:
            parent = parent[key]
        if value is KeyError:
            del parent[place[-1]]
        else:
            parent[place[-1]] = value
        with contextlib.suppress(InvalidAnswer):
            facts_of(status)
            continue
        refused += 1
    assert refused or place[-1] in ("ok", "at", "generation")


@pytest.mark.parametrize("text", ["[]", "7", "null", '"x"', "{}", '{"workers": {}}'])
def test_other_documents(text: str) -> None:
    """Another JSON document than a status is an error in words."""
    with pytest.raises(InvalidAnswer, match="status"):
        check_status(json.loads(text))


def test_too_many_workers() -> None:
    """A list of workers that no service has is refused."""
    with pytest.raises(InvalidAnswer, match="no usable list of workers"):
        check_status({**STATUS, "workers": STATUS["workers"] * 1001})
