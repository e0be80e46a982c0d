"""Values of the wrong kind: a word for a number, a text for a boolean, a misspelt choice. Pure.

LiteLLM validates the parameters of models and guardrails with pydantic, which converts texts and drops an entry that
it cannot convert. It takes the other sections as they are: a word for a number fails at its first use, and a text in
place of true or false counts as true, or as neither.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date

from litellm_systemd.gateway.config_types import REFERENCE, GatewayConfig, KeyPath, LintFinding, Severity
from litellm_systemd.gateway.snapshot import Setting

#: The texts that pydantic takes for a boolean, except numbers.
_TRUE = frozenset(("true", "t", "yes", "y", "on", "1"))
_FALSE = frozenset(("false", "f", "no", "n", "off", "0"))

#: The sections whose values pydantic validates.
_VALIDATED = ("model_list", "guardrails", "mcp_servers")

#: Other settings whose value LiteLLM compares when it starts.
_COMPARED = (*("routing_strategy", "key_management_system"), "prometheus_deployment_and_latency_caller_identity")

_NUMBERS = frozenset(("integer", "number"))
_CONTAINERS = frozenset(("array", "object"))

_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|m|h|d)(?:ecs?|econds?|ins?|inutes?|rs?|ours?|ays?)?")
#: The period of a budget (litellm_core_utils/duration_parser.py).
_PERIOD = re.compile(r"\d+(?:mo|[smhdw])|\s*(?i:hourly|daily|weekly|monthly)\s*$")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}

_NOUNS = {"string": "a text", "integer": "a number", "number": "a number", "boolean": "true or false"}
_NOUNS |= {"array": "a list", "object": "a mapping"}


def kind_findings(
    config: GatewayConfig, path: KeyPath, mapping: Mapping[str, object], settings: Mapping[str, Setting]
) -> Iterator[LintFinding]:
    """Errors and warnings for the values of `mapping`, which is at `path`, according to LiteLLM's own `settings`.

    References and empty values pass, and so do values that LiteLLM converts, such as "3" for a number. A choice that
    does not exist, and a value that no code can use, are errors; a text for a boolean is a warning.
    """
    for key, value in mapping.items():
        setting = settings.get(str(key))
        if setting is not None and not (isinstance(value, str) and (not value or value.startswith(REFERENCE))):
            yield from _value(config, (*path, str(key)), value, setting)


def _value(config: GatewayConfig, path: KeyPath, value: object, setting: Setting) -> Iterator[LintFinding]:
    kind, kinds = _kind(value), setting.kinds - {"null"}
    if isinstance(value, str) and setting.values:
        yield from _choice(config, path, value, setting.values)
    elif not kinds or kind is None or _fits(kind, kinds):
        return
    elif isinstance(value, str) and kinds - _CONTAINERS:
        yield from _text(config, path, value.strip(), kinds)
    elif kind in _CONTAINERS or kinds <= _CONTAINERS:
        if not value and path[0] not in _VALIDATED:
            return
        # Code that takes a section as it is may work with either: `alerting: slack`.
        fails = len(path) == 1 or path[0] in (*_VALIDATED, "router_settings") or path[-1] == "callbacks"
        make = config.error if fails else config.warning
        yield make("wrong-kind", path, f"is {_NOUNS[kind]}, not {_nouns(kinds)}", f"Write {_nouns(kinds)}.")
    elif kinds == {"string"} and path[0] in _VALIDATED:
        effect = "does not start" if path[0] == "mcp_servers" else "drops the entry"
        message = f"is not a text, and LiteLLM does not convert it: it {effect}"
        yield config.error("wrong-kind", path, message, f"Write the value of {path[-1]} in quotes.")


def _choice(config: GatewayConfig, path: KeyPath, value: str, choices: tuple[str, ...]) -> Iterator[LintFinding]:
    # Some guardrails convert the case before pydantic compares.
    if value in choices or (path[0] == "guardrails" and value.lower() in map(str.lower, choices)):
        return
    found = unknown_value(config, path, value, choices)
    stops = path[0] in _VALIDATED or path[-1] in _COMPARED
    yield found if stops else replace(found, severity=Severity.WARNING)


def _kind(value: object) -> str | None:
    """The JSON kind of a value; None for no value, and for one that has no kind."""
    if isinstance(value, bool):
        return "boolean"
    # YAML makes a date of 2024-06-01, which counts as a number that is not in quotes.
    kinds = ((str, "string"), (int, "integer"), ((float, date), "number"), (list, "array"), (Mapping, "object"))
    return next((kind for types, kind in kinds if isinstance(value, types)), None)


def _fits(kind: str, kinds: frozenset[str]) -> bool:
    """Whether Python code takes one kind for another: true and false are numbers, 0 and 1 are false and true."""
    return kind in kinds or bool(kind in (*_NUMBERS, "boolean") and kinds & {*_NUMBERS, "boolean"})


def _text(config: GatewayConfig, path: KeyPath, text: str, kinds: frozenset[str]) -> Iterator[LintFinding]:
    """Findings for a text where LiteLLM expects a number, a boolean or one of several kinds without a text."""
    word = text.lower()
    if kinds & _NUMBERS and _is_number(text):
        # Seconds and ports are converted at their use. A count is compared, which fails.
        if path[0] not in _VALIDATED and "number" not in kinds and not str(path[-1]).endswith(("port", "db")):
            message = "is a text, which LiteLLM does not convert to a number"
            yield config.warning("wrong-kind", path, message, f"Write {path[-1]}: {text} without quotes.")
        return
    if "boolean" in kinds and path[0] not in _VALIDATED:
        right = "true" if word in _TRUE else "false" if word in _FALSE else "true or false"
        message = f'is the text "{text[:30]}", not true or false'
        yield config.warning("wrong-kind", path, message, f"Write {path[-1]}: {right} without quotes.")
        return
    if "boolean" in kinds and word in _TRUE | _FALSE:
        return
    remedy = f"Write {_nouns(kinds)}."
    if kinds & _NUMBERS and (found := _DURATION.fullmatch(word)):
        seconds = float(found[1]) * _SECONDS[found[2]]
        remedy = f"Write the number of seconds: {path[-1]}: {seconds:g}"
    yield config.error("wrong-kind", path, f"is the text {text[:30]}, not {_nouns(kinds)}", remedy)


def period_findings(config: GatewayConfig, path: KeyPath, value: object) -> Iterator[LintFinding]:
    """An error for the period of a budget that LiteLLM cannot read: it fails to count, and nothing is limited."""
    if isinstance(value, str) and not value.startswith(REFERENCE) and not _PERIOD.match(value):
        message = f"is {value[:30]}, which is no period: LiteLLM does not enforce the budget"
        yield config.error("wrong-kind", path, message, f"Write a number and s, m, h, d, w or mo: {path[-1]}: 30d")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _nouns(kinds: frozenset[str]) -> str:
    return " or ".join(dict.fromkeys(noun for kind, noun in _NOUNS.items() if kind in kinds))


def misspelt_findings(
    config: GatewayConfig, path: KeyPath, mapping: Mapping[str, object], known: Iterable[str]
) -> Iterator[LintFinding]:
    """Warnings for keys that resemble a known one, where LiteLLM also passes on keys that it does not know itself."""
    names = frozenset(known)
    for key in map(str, mapping):
        if key not in names and (close := closest_key(key, names, 0.85)):
            message = f"is not a setting of LiteLLM: did you mean {close}?"
            yield config.warning("misspelt-setting", (*path, key), message, f"Write it as {close}.")


def closest_key(key: str, known: Iterable[str], cutoff: float) -> str | None:
    """The key that was probably meant: the same in another case, with two letters swapped, or at least this similar.

    Swapped letters count for more than the similarity of short words: `hots` is `host`, and `prot` is `port`.
    """
    names = sorted(known)
    same = (each for each in names if each.lower() == key.lower())
    swapped = (each for each in names if _is_swapped(key.lower(), each.lower()))
    return next(iter((*same, *swapped, *difflib.get_close_matches(key, names, n=1, cutoff=cutoff))), None)


def _is_swapped(word: str, other: str) -> bool:
    """Whether two words differ in the order of two neighbouring letters."""
    if len(word) != len(other) or word == other:
        return False
    at = next(index for index in range(len(word)) if word[index] != other[index])
    return word[:at] + word[at : at + 2][::-1] + word[at + 2 :] == other


def unknown_value(config: GatewayConfig, path: KeyPath, value: str, choices: tuple[str, ...]) -> LintFinding:
    """The error for a text that is none of the allowed ones, with the closest of them."""
    message = f"is {value[:60]}, which LiteLLM does not know{closest(value, choices)}"
    return config.error("unknown-value", path, message, f"Write one of: {', '.join(choices)}.")


def closest(name: str, known: Iterable[str]) -> str:
    """The end of a message that says which known name was probably meant, such as ": did you mean redis?"."""
    names = {each.lower(): each for each in sorted(known)}
    starts = [each for each in names if each.startswith(name.lower())]
    close = starts or difflib.get_close_matches(name.lower(), names, n=1)
    return f": did you mean {names[close[0]]}?" if close else ""
