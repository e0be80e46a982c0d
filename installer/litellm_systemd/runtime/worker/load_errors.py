"""Why LiteLLM rejects a configuration: the setting or model, and LiteLLM's own error, in one line.

LiteLLM raises whatever it meets, often without the setting that it was working on, and sometimes only the last of a
chain of exceptions. The traceback has the rest: the loops in which LiteLLM was, and their variables.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from litellm_systemd.gateway.config_types import KeyPath, render_key

#: Exceptions whose text is a sentence. Before that of any other, the type says what it means.
_SENTENCES = frozenset({"Exception", "ValueError", "RuntimeError", "ImportError", "ValidationError"})
#: Lists of the configuration, by what names an entry of them.
_NAMED = {"model_name": "model", "guardrail_name": "guardrail", "search_tool_name": "search tool"}
_SECTIONS = ("router_settings", "litellm_settings", "general_settings")
#: Characters of a cause. LiteLLM lists all settings that it knows when it meets an unknown one.
_LONGEST = 500
#: Problems of one model that are worth reading.
_MOST = 3


def render_cause(error: BaseException, document: Mapping[str, Any], code: frozenset[str] = frozenset()) -> str:
    """Why LiteLLM could not start. It may contain secrets.

    `code`: the paths of the user's Python files.
    """
    chain = _chain(error)
    texts = [_describe(each) for each in chain]
    # What an exception says about its cause is not repeated.
    said = [text for index, text in enumerate(texts) if not any(text in other for other in texts[:index])]
    subject = _find_subject(chain, document)
    text = ": ".join(said)
    if subject is not None and subject not in text:
        text = f"{subject}: {text}"
    place = _find_place(chain[-1], code)
    return textwrap.shorten(text, _LONGEST, placeholder=" …") + (f" ({place})" if place else "")


def _chain(error: BaseException) -> list[BaseException]:
    """The exception, and those that led to it, the first cause last. That a task was cancelled is no cause."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        if chain and isinstance(following, asyncio.CancelledError):
            break
        chain.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return chain


def _describe(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return (
            f"LiteLLM exited with code {error.code}" if isinstance(error.code, int) else f"SystemExit: {error.code}"
        )
    if (problems := _validation_problems(error)) is not None:
        return problems
    text = " ".join(str(error).split()).removesuffix(" The fix is printed once the server exits.")
    name = type(error).__name__
    if not text:
        return name
    return text if name in _SENTENCES else f"{name}: {text}"


def _validation_problems(error: Any) -> str | None:
    """The problems that pydantic found, without the values, which may be secret; None for another error."""
    if type(error).__name__ != "ValidationError" or not hasattr(error, "errors"):
        return None
    with contextlib.suppress(Exception):
        found = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False)]
        more = [f"{len(found) - _MOST} more"] if len(found) > _MOST else []
        return "; ".join([*found[:_MOST], *more])
    return None


def _find_place(error: BaseException, code: frozenset[str]) -> str | None:
    """The line of the user's own file at which it failed, if it was there."""
    lines = [f"{frame.f_code.co_filename}:{line}" for frame, line in _frames(error)]
    own = [line for line in lines if line.rpartition(":")[0] in code]
    return own[-1] if own else None


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _find_subject(chain: list[BaseException], document: Mapping[str, Any]) -> str | None:
    """What LiteLLM was working on: a model, or a key of the configuration; None if that is unknown."""
    for find in (_entry_of, _setting_of):
        for error in reversed(chain):
            for frame, line in reversed([*_frames(error)]):
                if str(frame.f_globals.get("__name__")).startswith("litellm"):
                    with contextlib.suppress(Exception):
                        if subject := find(frame, line, document):
                            return subject
    return None


def _entry_of(frame: FrameType, line: int, document: Mapping[str, Any]) -> str | None:
    """The model, or the key of a section, at which a loop was."""
    values = frame.f_locals
    if frame.f_code.co_name == "get_instance_fn":
        path = _find_key(document, values.get("value"), ())
        return None if path is None else render_key(path)
    for loop in _around(frame, line, ast.For):
        names = _names(loop.target)
        for name in names:
            value = values.get(name)
            if isinstance(value, Mapping):
                entry = next((f"{word} {value[key]}" for key, word in _NAMED.items() if key in value), None)
                if entry is not None:
                    return entry
        section = ast.unparse(loop.iter).partition(".items()")[0].removesuffix("_config")
        if section in document and values.get(names[0]) in document[section]:
            return render_key((section, str(values[names[0]])))
    return None


def _setting_of(frame: FrameType, line: int, document: Mapping[str, Any]) -> str | None:
    """The setting that the failed statement mentions, such as RetryPolicy(**retry_policy)."""
    statement: Any = next(iter(_around(frame, line, ast.stmt)))
    # Of a statement with a body only its head.
    parts = [getattr(statement, name) for name in ("test", "iter") if hasattr(statement, name)]
    for name in _names(*(parts or [statement])):
        for section in _SECTIONS:
            if name in (document.get(section) or {}):
                return f"{section}.{name}"
        if name in document and name not in _SECTIONS:
            return name
    return None


def _around(frame: FrameType, line: int, kind: type[Any]) -> list[Any]:
    """The statements of a kind around a line of LiteLLM's source, the innermost first."""
    lines, first = inspect.getsourcelines(frame.f_code)
    line -= max(first, 1) - 1
    tree = ast.parse(textwrap.dedent("".join(lines)))
    found = (each for each in ast.walk(tree) if isinstance(each, kind))
    around = [each for each in found if each.lineno <= line <= (each.end_lineno or 0)]
    return sorted(around, key=lambda each: (-each.lineno, each.end_lineno))


def _names(*nodes: ast.AST) -> list[str]:
    """The names, attributes and strings in a syntax tree."""
    found: list[str] = []
    for each in (each for node in nodes for each in ast.walk(node)):
        for name in ("id", "attr", "arg", "value"):
            value = getattr(each, name, None)
            found += [value] if isinstance(value, str) else []
    return found


def _find_key(value: object, wanted: object, path: KeyPath) -> KeyPath | None:
    """The first key with a value."""
    if value == wanted and path:
        return path
    steps: Iterator[tuple[str | int, object]] = iter(())
    if isinstance(value, Mapping):
        steps = ((str(key), each) for key, each in value.items())
    elif isinstance(value, list):
        steps = enumerate(value)
    return next((found for step, each in steps if (found := _find_key(each, wanted, (*path, step)))), None)
