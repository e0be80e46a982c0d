"""Choose the tool calls of the demo model: which tools a prompt asks for, and with which arguments. Pure.

Tools and messages have the form of OpenAI's chat completions; LiteLLM translates the other APIs to it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

#: What a file contains if the prompt doesn't say.
DEFAULT_TEXT = "Written by the demo configuration of litellm-systemd."

#: The tools of coding agents by what they do. Names are compared in lower case, without prefix and separators.
_KINDS = {
    "write": re.compile(r"(write|create|save)(to)?(new)?(file)?"),
    "edit": re.compile(r"(edit|multiedit|editfile|strreplace|searchreplace|replaceinfile|replace)"),
    "read": re.compile(r"(read|readfile|view|viewfile|openfile)"),
    "shell": re.compile(
        r"(local|run|execute|exec)?(in)?(bash|shell|command|terminal|terminalcmd|shellcommand)(tool)?"
    ),
    "patch": re.compile(r"applypatch"),
}

_QUOTED = re.compile(r"\"([^\"\n]+)\"|“([^”\n]+)”|`([^`\n]+)`|(?<!\w)'([^'\n]+)'(?!\w)")
_FENCED = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)
_FILE = re.compile(r"(?<![\w/.:-])(?!(?:e\.g|i\.e)\b)(?:~?/)?(?:[\w.-]+/)*[\w-]+\.[A-Za-z]\w{0,7}\b(?!/)")
_PART = r"(\"[^\"\n]+\"|“[^”\n]+”|`[^`\n]+`|'[^'\n]+'|\S+)"
_REPLACE = re.compile(rf"\b(?:replace|change|rename)\s+{_PART}\s+(?:with|to|by|into)\s+{_PART}", re.IGNORECASE)
_WRITE_VERB = re.compile(r"\b(write|create|save|add|make|generate)\b", re.IGNORECASE)
_READ_VERB = re.compile(r"\b(read|show|open|print|view|summari[sz]e|explain)\b", re.IGNORECASE)
_RUN = re.compile(r"\b(?:run|execute)\s+(?:the\s+command\s+)?`([^`\n]+)`", re.IGNORECASE)
#: The start of what agents add to a prompt, as parts or messages of their own: environment, reminders, instructions.
_ADDED = re.compile(r"<([A-Za-z][\w-]*)[^>]*>")
#: Characters of a prompt that are read: some of the expressions above take quadratic time.
_MOST_READ = 4000


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """The state of a conversation after the last prompt of the user.

    `prompt`: that prompt, without what an agent added to it. `rounds`: the answers with tool calls since. `results`:
    what these tools returned, with their names.
    """

    prompt: str
    rounds: int
    results: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a prompt asks for: values for the arguments of a tool, by role; None where it says nothing."""

    prompt: str
    file: str | None = None
    text: str | None = None
    old: str | None = None
    new: str | None = None
    command: str | None = None


def read_turn(messages: Sequence[Mapping[str, Any]]) -> Turn:
    rounds = 0
    results: list[tuple[str, str]] = []
    names: dict[str, str] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            names[str(call.get("id"))] = str(call["function"]["name"])
    for message in reversed(messages):
        role = message.get("role")
        if role == "user" and (prompt := _read_user(message.get("content"))):
            return Turn(prompt, rounds, tuple(reversed(results)))
        if role == "assistant" and message.get("tool_calls"):
            rounds += 1
        elif role == "tool":
            name = names.get(str(message.get("tool_call_id")), "tool")
            results.append((name, "\n".join(_texts(message.get("content")))))
    return Turn("", rounds, tuple(reversed(results)))


def _read_user(content: object) -> str:
    parts = (part.strip() for part in _texts(content))
    prompt = "\n".join(part for part in parts if part and not _is_added(part))[:_MOST_READ]
    # `opencode run` sends its arguments in quotes.
    return prompt[1:-1].replace('\\"', '"') if len(prompt) > 2 and prompt[0] == prompt[-1] == '"' else prompt


def _is_added(part: str) -> bool:
    start = _ADDED.match(part)
    return start is not None and part.endswith(f"</{start.group(1)}>")


def _texts(content: object) -> list[str]:
    """The text of a message's content: text, or a list of parts of which some are text."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return [part for part in parts if isinstance(part, str)]
    return [content] if isinstance(content, str) else []


def choose_call(turn: Turn, tools: Sequence[Mapping[str, Any]], choice: object = None) -> Call | None:
    """The next call, or None to answer with text. `choice` is the request's `tool_choice`.

    The calls follow from the prompt alone, one a round, so that the loop of an agent ends.
    """
    functions = [tool["function"] for tool in tools if isinstance(tool.get("function"), Mapping)]
    if not functions or choice == "none":
        return None
    plan = _plan(turn.prompt, functions)
    if turn.rounds < len(plan):
        return plan[turn.rounds]
    forced = choice["function"].get("name") if isinstance(choice, Mapping) and "function" in choice else None
    if turn.rounds or not (forced or choice in ("required", "any")):
        return None
    function = next((each for each in functions if each["name"] == forced), functions[0])
    return _call(function, _read_prompt(turn.prompt))


def find_file(prompt: str) -> tuple[str, str] | None:
    """The file that a prompt asks to write, with its text; None if it asks for none."""
    wanted = _read_prompt(prompt)
    is_asked = wanted.file is not None and wanted.text is not None and _WRITE_VERB.search(prompt) is not None
    return (wanted.file or "", wanted.text or "") if is_asked else None


def example_prompt(tools: Sequence[Mapping[str, Any]]) -> str:
    """A prompt that leads to a call of one of the tools; empty if there is none."""
    functions = [tool["function"] for tool in tools if isinstance(tool.get("function"), Mapping)]
    if any(_is_kind(each, kind) for each in functions for kind in ("write", "patch", "shell")):
        return 'Create hello.txt with "Hello"'
    return f"Use the {functions[0]['name']} tool" if functions else ""


def _plan(prompt: str, functions: Sequence[Mapping[str, Any]]) -> list[Call]:
    wanted = _read_prompt(prompt)
    if named := [each for each in functions if _is_named(str(each["name"]), prompt)]:
        return [_call(each, wanted) for each in named]
    kinds = {kind: each for kind in _KINDS for each in reversed(functions) if _is_kind(each, kind)}
    if kinds:
        return _plan_of_agent(wanted, kinds)
    return [_call(each, wanted) for each in functions if _is_subject(str(each["name"]), prompt)][:1]


def _plan_of_agent(wanted: _Wanted, kinds: Mapping[str, Mapping[str, Any]]) -> list[Call]:
    """The calls of a coding agent's tools for what a prompt asks: run a command, or edit, write or read a file."""
    by_command = partial(_shell, kinds, wanted)
    if wanted.command is not None:
        return by_command(wanted.command)
    if wanted.file is None:
        return []
    file = shlex.quote(wanted.file)
    if wanted.old is not None and wanted.new is not None:
        if "edit" in kinds:
            # Claude Code and opencode refuse to edit a file that was not read.
            return [_call(kinds[kind], wanted) for kind in ("read", "edit") if kind in kinds]
        script = f"s/{_escape(wanted.old)}/{_escape(wanted.new)}/g"
        return by_command(f"sed -i {shlex.quote(script)} {file}")
    if _WRITE_VERB.search(wanted.prompt):
        if kind := next((each for each in ("write", "patch") if each in kinds), None):
            return [_call(kinds[kind], wanted)]
        return by_command(f"printf '%s\\n' {shlex.quote(wanted.text or DEFAULT_TEXT)} > {file}")
    if _READ_VERB.search(wanted.prompt):
        return [_call(kinds["read"], wanted)] if "read" in kinds else by_command(f"cat {file}")
    return []


def _shell(kinds: Mapping[str, Mapping[str, Any]], wanted: _Wanted, command: str) -> list[Call]:
    if "shell" not in kinds:
        return []
    return [_call(kinds["shell"], _Wanted(wanted.prompt, wanted.file, wanted.text, command=command))]


def _escape(text: str) -> str:
    """Escape what `sed` would interpret in a basic regular expression or its replacement."""
    return re.sub(r"[\\/&.*\[\]^$]", r"\\\g<0>", text)


def _words(name: str) -> list[str]:
    return [
        word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name.rpartition("__")[2] or name)
    ]


def _is_kind(function: Mapping[str, Any], kind: str) -> bool:
    return _KINDS[kind].fullmatch("".join(_words(str(function["name"])))) is not None


def _is_named(name: str, prompt: str) -> bool:
    """Whether a prompt names a tool. A name that is a plain word counts next to "use", "call" or "tool" alone."""
    is_plain = re.fullmatch(r"[A-Za-z]?[a-z]+", name) is not None
    word = rf"(?<!\w)[`\"']?{re.escape(name)}[`\"']?(?!\w)"
    pattern = rf"\b(?:use|using|call|calling)\s+(?:the\s+)?{word}|{word}\s+tool\b" if is_plain else word
    return re.search(pattern, prompt, re.IGNORECASE if is_plain else 0) is not None


def _is_subject(name: str, prompt: str) -> bool:
    """Whether the words of a name that aren't plain verbs are all in the prompt: `get_weather` and "weather"."""
    verbs = {
        "find",
        "list",
        "look",
        "search",
        "fetch",
        "query",
        "make",
        "create",
        "lookup",
        "tool",
        "current",
        "data",
    }
    words = {word for word in _words(name) if len(word) > 3 and word not in verbs}
    return bool(words) and words <= set(re.findall(r"[a-z]+", prompt.lower()))


def _read_prompt(prompt: str) -> _Wanted:
    run, replace, fenced = _RUN.search(prompt), _REPLACE.search(prompt), _FENCED.search(prompt)
    file = (_FILE.search(prompt, replace.end()) if replace else None) or _FILE.search(prompt)
    name = file.group() if file else None
    # What follows a block is often an agent's instructions.
    before = prompt[: fenced.start()] if fenced else prompt
    quoted = [text for text in _all_quoted(before) if text != name]
    text = quoted[0] if quoted else fenced.group(1) if fenced else None
    old, new = (_unquote(part) for part in replace.groups()) if replace else (None, None)
    return _Wanted(prompt, name, text, old, new, run.group(1) if run else None)


def _all_quoted(prompt: str) -> list[str]:
    return ["".join(filter(None, each)) for each in _QUOTED.findall(prompt)]


def _unquote(part: str) -> str:
    found = _QUOTED.fullmatch(part)
    return "".join(filter(None, found.groups())) if found else part


def _call(function: Mapping[str, Any], wanted: _Wanted) -> Call:
    schema = function.get("parameters") or {}
    arguments = _object(schema, wanted, schema.get("$defs") or {})
    if _is_kind(function, "patch"):
        lines = "".join(f"+{line}\n" for line in (wanted.text or DEFAULT_TEXT).splitlines())
        patch = f"*** Begin Patch\n*** Add File: {wanted.file or 'demo.txt'}\n{lines}*** End Patch"
        arguments = {next(iter(arguments), "input"): patch}
    return Call(str(function["name"]), arguments)


def _object(schema: Mapping[str, Any], wanted: _Wanted, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the required properties of a JSON schema; for the first property if it requires none."""
    properties: Mapping[str, Any] = schema.get("properties") or {}
    names = schema.get("required") or list(properties)[:1]
    return {name: _value(name, properties.get(name) or {}, wanted, shared) for name in names}


def _value(name: str, schema: Any, wanted: _Wanted, shared: Mapping[str, Any]) -> Any:
    if not isinstance(schema, Mapping):
        return _string(name, wanted)  # `true` is a schema too
    if "$ref" in schema:
        return _value(name, shared.get(str(schema["$ref"]).rpartition("/")[2]) or {}, wanted, {})
    if "const" in schema:
        return schema["const"]
    if options := schema.get("enum"):
        return next((each for each in options if str(each).lower() in wanted.prompt.lower()), options[0])
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return _value(name, next((each for each in options if each.get("type") != "null"), {}), wanted, shared)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), None)
    if kind in ("integer", "number"):
        number = re.search(r"(?<![\w.])\d+(?![\w.])", wanted.prompt)
        return int(number.group()) if number else schema.get("default", schema.get("minimum", 1))
    if kind == "boolean":
        return bool(schema.get("default", False))
    if kind == "array":
        if _role(name) == "command":
            return ["bash", "-c", wanted.command or "true"]
        return [_value(name, schema.get("items") or {}, wanted, shared)]
    if kind == "object":
        return _object(schema, wanted, shared)
    return _string(name, wanted)


def _role(name: str) -> str:
    """What a property of a tool holds, by its name."""
    plain = re.sub(r"[\W_]", "", name).lower()
    for role, pattern in (
        ("old", r"^(old|search|find)"),
        ("new", r"^(new|replace)(text|str|string|content)?"),
        ("file", r"path|^file|filename"),
        ("command", r"^(cmd|command|script)"),
        ("text", r"content|text|body"),
        ("description", r"^(description|explanation|reason)"),
    ):
        if re.search(pattern, plain):
            return role
    return ""


def _string(name: str, wanted: _Wanted) -> str:
    values = {
        "old": wanted.old or wanted.text,
        "new": wanted.new or wanted.text,
        "file": wanted.file or "demo.txt",
        "command": wanted.command or "true",
        "text": wanted.text or DEFAULT_TEXT,
        "description": "A call of the demo configuration",
    }
    return values.get(_role(name)) or _subject(name, wanted)


def _subject(name: str, wanted: _Wanted) -> str:
    """A value for a property that has no role: after its name, quoted, a name in the prompt, or the whole prompt."""
    after = re.search(rf"\b{re.escape(name)}\s+(?:named\s+|called\s+|is\s+)?{_PART}", wanted.prompt, re.IGNORECASE)
    if after:
        return _unquote(after.group(1)).strip(".,;:?!")
    names = re.findall(r"(?<=\w )[A-Z]\w+(?: [A-Z]\w+)*", wanted.prompt)
    return wanted.text or (names[-1] if names else wanted.prompt)
