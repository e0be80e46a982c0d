"""Control the fakes of another process with requests: see `tests.fakes.__main__`. Input and output are JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tests.fakes.account import USER, Key
from tests.fakes.catalogue import MODELS
from tests.fakes.http import utc_now
from tests.fakes.runtime import Script

if TYPE_CHECKING:
    from tests.fakes.cloud import Cloud

Given = dict[str, Any]


def _seen(cloud: Cloud, _given: Given) -> Any:
    return [asdict(one) for one in cloud.seen]


def _bodies(cloud: Cloud, _given: Given) -> Any:
    return cloud.runtime.bodies


def _headers(cloud: Cloud, _given: Given) -> Any:
    return [dict(one) for one in cloud.runtime.headers]


def _metadata(cloud: Cloud, given: Given) -> Any:
    """Set fields by name. Times are in seconds."""
    for name, value in given.items():
        timed = name in ("lifetime", "reported_later", "rotate_every") and value is not None
        getattr(cloud.metadata, name)
        setattr(cloud.metadata, name, timedelta(seconds=value) if timed else value)
    return {"issued": [key.access_key for key in cloud.metadata.issued]}


def _rotate(cloud: Cloud, _given: Given) -> Any:
    return {"access_key": cloud.metadata.rotate().access_key}


def _role(cloud: Cloud, given: Given) -> Any:
    role = cloud.account.add_role(given["name"], tuple(given.get("trusted", ())), given.get("external_id"))
    return {"arn": role.arn}


def _session(cloud: Cloud, given: Given) -> Any:
    return asdict(cloud.account.add_session(USER.arn, timedelta(seconds=given["lifetime"])))


def _key(cloud: Cloud, given: Given) -> Any:
    """Register a key, or remove it if only its id is given. `lifetime` is in seconds."""
    cloud.account.keys.pop(given["access_key"], None)
    if len(given) > 1:
        lifetime = given.pop("lifetime", None)
        ends = None if lifetime is None else cloud.account.clock() + timedelta(seconds=lifetime)
        cloud.account.keys[given["access_key"]] = Key(**given, expires=ends)
    return {}


def _clock(cloud: Cloud, given: Given) -> Any:
    ahead = timedelta(minutes=given["minutes"])
    cloud.account.clock = lambda: utc_now() + ahead
    return {}


def _models(cloud: Cloud, given: Given) -> Any:
    cloud.catalogue.models = {model.id: model for model in MODELS if model.id not in given["without"]}
    return {}


def _denied(cloud: Cloud, given: Given) -> Any:
    cloud.account.denied = set(given["actions"])
    return {}


def _end(cloud: Cloud, given: Given) -> Any:
    cloud.catalogue.end_in(given["model"], given["days"])
    return {}


def _quota(cloud: Cloud, given: Given) -> Any:
    cloud.quotas.values[given["name"]] = given["value"]
    return {}


def _secrets(cloud: Cloud, given: Given) -> Any:
    """Set `values`, `parameters` or `busy`."""
    for name, value in given.items():
        getattr(cloud.secrets, name)
        setattr(cloud.secrets, name, value)
    return {}


def _hooks(cloud: Cloud, given: Given) -> Any:
    """Set the hooks that wait; return the completions."""
    cloud.autoscaling.waiting = set(given.get("waiting", cloud.autoscaling.waiting))
    return cloud.autoscaling.completed


def _script(cloud: Cloud, given: Given) -> Any:
    cloud.runtime.scripts = {model: Script(**script) for model, script in given.items()}
    return {}


CONTROLS: dict[str, Callable[[Cloud, Given], Any]] = {
    "seen": _seen,
    "bodies": _bodies,
    "headers": _headers,
    "metadata": _metadata,
    "rotate": _rotate,
    "role": _role,
    "session": _session,
    "key": _key,
    "clock": _clock,
    "models": _models,
    "denied": _denied,
    "end": _end,
    "quota": _quota,
    "script": _script,
    "secrets": _secrets,
    "hooks": _hooks,
}
