"""The status that the main process reports, checked before root uses it. Pure.

The service is not trusted here: it handles requests from anywhere, and root prints what it answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from litellm_systemd.errors import InvalidAnswer

#: Characters of a text.
_MAX_TEXT = 4096
_MAX_WORKERS = 1000
#: Above the largest process id, and any count.
_MAX_NUMBER = 2**53

_Test = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TEXT


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_NUMBER


def _is_time(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and abs(value) < _MAX_NUMBER


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MAX_WORKERS


def _or_none(test: _Test) -> _Test:
    return lambda value: value is None or test(value)


#: The last second that X.509 can express, 9999-12-31T23:59:59Z (RFC 5280, 4.1.2.5), in Unix time.
_LAST_END = 253_402_300_799


def _is_date(value: Any) -> bool:
    """Whether it is a Unix time that can be printed."""
    return _is_time(value) and 0 <= value <= _LAST_END


#: By key: the test, and whether each version of the runtime reports it.
_STATUS: Mapping[str, tuple[_Test, bool]] = {
    "state": (_is_text, False),
    "status": (_is_text, False),
    "pid": (_is_count, False),
    "generation": (_or_none(_is_count), True),
    "config": (_or_none(_is_text), False),
    "config_name": (_or_none(_is_text), False),
    "sha256": (_or_none(_is_text), False),
    "models": (_or_none(_is_count), True),
    "inflight": (_is_count, False),
    "deregistration_delay": (_is_time, False),
    "leaving_until": (_or_none(_is_date), False),
    "restarts": (_is_count, True),
    "last_reload": (lambda value: value is None or isinstance(value, dict), True),
    "memory_limit": (_is_count, False),
    "guesses": (_is_list, False),
    "blocks": (_is_list, False),
    "metrics": (lambda value: value is None or isinstance(value, dict), False),
    "redis": (lambda value: value is None or isinstance(value, dict), False),
}
_REDIS: Mapping[str, tuple[_Test, bool]] = {"counting": (_is_text, True), "cause": (_is_text, True)}
_GUESSES: Mapping[str, tuple[_Test, bool]] = {
    "client": (_is_text, True),
    "refused": (_is_count, True),
    "age": (_is_time, True),
}
_BLOCK: Mapping[str, tuple[_Test, bool]] = {
    **dict.fromkeys(("where", "call", "request"), (_is_text, True)),
    **dict.fromkeys(("count", "killed"), (_is_count, True)),
    **dict.fromkeys(("longest", "age"), (_is_time, True)),
}
_WORKER: Mapping[str, tuple[_Test, bool]] = {
    "worker": (_is_count, True),
    "pid": (_is_count, True),
    "state": (_is_text, True),
    "age": (_is_time, True),
    "answered": (_is_time, True),
    "inflight": (_is_count, True),
    "requests": (_is_count, True),
    **dict.fromkeys(("calls", "failed_calls"), (_is_count, False)),
}
_RELOAD: Mapping[str, tuple[_Test, bool]] = {
    "ok": (_is_flag, True),
    "seconds": (_is_time, True),
    "error": (_is_text, True),
}
_METRICS: Mapping[str, tuple[_Test, bool]] = {"error": (_is_text, False), "callback": (_is_flag, False)}
_TLS: Mapping[str, tuple[_Test, bool]] = {"not_after": (_is_date, True), "sha256": (_is_text, True)}


def check_status(found: Any) -> dict[str, Any]:
    """The status as it is; keys that are not known here are not checked.

    Raises:
        InvalidAnswer: a key is missing or has another type.
    """
    status = _checked(found, _STATUS, "the status of the service")
    workers = status.get("workers")
    if not isinstance(workers, list) or len(workers) > _MAX_WORKERS:
        raise InvalidAnswer("the status of the service has no usable list of workers")
    for each in workers:
        _checked(each, _WORKER, "a worker in the status of the service")
    for each in status.get("guesses", ()):
        _checked(each, _GUESSES, "a client that guesses keys in the status of the service")
    for each in status.get("blocks", ()):
        _checked(each, _BLOCK, "code that blocked a worker in the status of the service")
    if status.get("last_reload") is not None:
        _checked(status["last_reload"], _RELOAD, "the last reload in the status of the service")
    if status.get("metrics") is not None:
        _checked(status["metrics"], _METRICS, "the metrics in the status of the service")
    if status.get("redis") is not None:
        _checked(status["redis"], _REDIS, "Redis in the status of the service")
    if status.get("tls") is not None:
        _checked(status["tls"], _TLS, "the certificate in the status of the service")
    return status


def _checked(found: Any, keys: Mapping[str, tuple[_Test, bool]], what: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise InvalidAnswer(f"{what} is not an object")
    for key, (test, is_required) in keys.items():
        if key not in found and is_required:
            raise InvalidAnswer(f"{what} has no {key}")
        if key in found and not test(found[key]):
            raise InvalidAnswer(f"{what} has an unusable value of {key}")
    return found
