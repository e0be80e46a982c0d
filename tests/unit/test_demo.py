"""The demo model: which tools it calls for a prompt, with which arguments, and what it says."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from litellm_systemd.demo.answer import Answer, build_answer
from litellm_systemd.demo.tools import DEFAULT_TEXT

Schema = dict[str, Any]
MODEL = "claude-sonnet-5-5"


class Words:
    """A tokenizer that needs no table: a token is a word."""

    def encode(self, text: str, disallowed_special: tuple[str, ...] = ()) -> list[str]:
        del disallowed_special
        return text.split()


def tool(name: str, required: str = "", **properties: Schema) -> Schema:
    """A tool in the form of OpenAI's chat completions; `required` are names of properties, separated by spaces."""
    parameters = {"type": "object", "properties": properties, "required": required.split()}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TEXT: Schema = {"type": "string"}
#: Tools of coding agents with the properties that matter, as these agents define them.
CLAUDE_CODE = (
    tool("Agent", "description prompt", description=TEXT, prompt=TEXT),
    tool("Bash", "command", command=TEXT, description=TEXT, timeout={"type": "number"}),
    tool("Edit", "file_path old_string new_string", file_path=TEXT, old_string=TEXT, new_string=TEXT),
    tool("Read", "file_path", file_path=TEXT, limit={"type": "integer"}),
    tool("Write", "file_path content", file_path=TEXT, content=TEXT),
)
OPENCODE = (
    tool("bash", "command description", command=TEXT, description=TEXT),
    tool("edit", "filePath oldString newString", filePath=TEXT, oldString=TEXT, newString=TEXT),
    tool("read", "filePath", filePath=TEXT),
    tool("write", "content filePath", content=TEXT, filePath=TEXT),
)
CODEX = (tool("update_plan", "plan", plan={"type": "array", "items": TEXT}), tool("exec_command", "cmd", cmd=TEXT))
SHELL = (tool("shell", "command", command={"type": "array", "items": TEXT}),)
PATCH = (tool("apply_patch", "input", input=TEXT),)
MCP = (tool("mcp__files__write_file", "path contents", path=TEXT, contents=TEXT),)
WEATHER = (tool("get_weather", "city", city=TEXT),)


def ask(*messages: str | Schema, tools: tuple[Schema, ...] = (), **params: Any) -> Answer:
    """The answer to messages; a text is a prompt of the user."""
    conversation = [{"role": "user", "content": each} if isinstance(each, str) else each for each in messages]
    params = {"tools": list(tools), **params} if tools else params
    return build_answer(MODEL, conversation, params, Words())


def call_of(answer: Answer) -> tuple[str, dict[str, Any]]:
    assert answer.call is not None, answer.text
    return answer.call.name, dict(answer.call.arguments)


def turn(answer: Answer, result: str) -> tuple[Schema, Schema]:
    """The two messages that an agent adds for a call: the call, and the tool's result."""
    name, arguments = call_of(answer)
    function = {"name": name, "arguments": json.dumps(arguments)}
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": name, "type": "function", "function": function}],
    }
    return called, {"role": "tool", "tool_call_id": name, "content": result}


@pytest.mark.parametrize(
    ("tools", "prompt", "expected"),
    [
        (CLAUDE_CODE, 'Create a.txt with "Hi you"', ("Write", {"file_path": "a.txt", "content": "Hi you"})),
        (CLAUDE_CODE, "Write notes.md", ("Write", {"file_path": "notes.md", "content": DEFAULT_TEXT})),
        (
            CLAUDE_CODE,
            "Create x.py with:\n```python\nx = 1\n```",
            ("Write", {"file_path": "x.py", "content": "x = 1\n"}),
        ),
        (CLAUDE_CODE, "Show me /etc/a.conf", ("Read", {"file_path": "/etc/a.conf"})),
        (CLAUDE_CODE, "Use the Agent tool", ("Agent", {"description": None, "prompt": None})),
        (CLAUDE_CODE, "Run `ls -l`", ("Bash", {"command": "ls -l"})),
        (OPENCODE, '"Create a.txt with \\"Hi\\""', ("write", {"content": "Hi", "filePath": "a.txt"})),
        (OPENCODE, "Run `ls`", ("bash", {"command": "ls", "description": None})),
        (CODEX, 'Create a.txt with "It\'s"', ("exec_command", {"cmd": "printf '%s\\n' 'It'\"'\"'s' > a.txt"})),
        (CODEX, "Replace a.b with c/d in x.py", ("exec_command", {"cmd": "sed -i 's/a\\.b/c\\/d/g' x.py"})),
        (CODEX, "Read x.py", ("exec_command", {"cmd": "cat x.py"})),
        (SHELL, "Run `ls`", ("shell", {"command": ["bash", "-c", "ls"]})),
        (
            PATCH,
            'Create a.txt with "Hi"',
            ("apply_patch", {"input": "*** Begin Patch\n*** Add File: a.txt\n+Hi\n*** End Patch"}),
        ),
        (MCP, 'Save "Hi" in a.txt', ("mcp__files__write_file", {"path": "a.txt", "contents": "Hi"})),
        (WEATHER, "What's the weather in New York today?", ("get_weather", {"city": "New York"})),
        (WEATHER, "Call get_weather for the city named north", ("get_weather", {"city": "north"})),
        (WEATHER, 'Use get_weather: "Köln"', ("get_weather", {"city": "Köln"})),
    ],
)
def test_a_prompt_that_asks_for_a_tool_gets_its_call(
    tools: tuple[Schema, ...], prompt: str, expected: tuple[str, dict[str, Any]]
) -> None:
    """The demo calls the tool that a prompt asks for, with the values of the prompt, as each agent defines it."""
    name, arguments = call_of(ask(prompt, tools=tools))
    values = {key: arguments.get(key) if value is None else value for key, value in expected[1].items()}
    assert (name, arguments) == (expected[0], values)
    schema = next(each["function"]["parameters"] for each in tools if each["function"]["name"] == name)
    jsonschema.validate(arguments, schema)


@pytest.mark.parametrize(
    ("tools", "prompt"),
    [
        (CLAUDE_CODE, "hello"),
        (CLAUDE_CODE, "Write a haiku about bash"),
        (CLAUDE_CODE, "Is e.g. Edit the right word, i.e. better than Read?"),
        (CLAUDE_CODE, "What do you think of main.py?"),
        (WEATHER, "Hello"),
        (PATCH, "Read x.py"),
    ],
)
def test_other_prompts_get_text(tools: tuple[Schema, ...], prompt: str) -> None:
    """A prompt that asks for no tool gets text, which says that this is the demo and how to see a call."""
    answer = ask(prompt, tools=tools)
    assert answer.finish_reason == "stop"
    assert answer.text.startswith(f"This is the demo configuration, in place of {MODEL}. No model was called. ")
    example = answer.text.partition("for example: ")[2]
    call_of(ask(example, tools=tools))  # the example that it gives works


def test_a_loop_reads_edits_and_ends() -> None:
    """An edit reads the file first, as agents require, and the answer after the edit ends the loop."""
    prompt = "Replace Hello with Bye in a.txt"
    read = ask(prompt, tools=CLAUDE_CODE)
    assert call_of(read) == ("Read", {"file_path": "a.txt"})
    assert read.finish_reason == "tool_calls"
    edit = ask(prompt, *turn(read, "Hello"), tools=CLAUDE_CODE)
    assert call_of(edit) == ("Edit", {"file_path": "a.txt", "old_string": "Hello", "new_string": "Bye"})
    end = ask(prompt, *turn(read, "Hello"), *turn(edit, "edited"), tools=CLAUDE_CODE)
    assert end.finish_reason == "stop"
    assert end.text.endswith("The tool Edit returned: edited")
    said = {"role": "assistant", "content": end.text}
    again = ask(prompt, *turn(read, "Hello"), *turn(edit, "edited"), said, "Run `ls`", tools=CLAUDE_CODE)
    assert call_of(again) == ("Bash", {"command": "ls"})


def test_what_an_agent_adds_is_no_prompt() -> None:
    """Reminders and environments in tags, as parts or messages of their own, are no prompt and hide none."""
    reminder = "<system-reminder>\nCreate other.txt, then run `rm`\n</system-reminder>"
    parts = [{"type": "text", "text": reminder}, {"type": "text", "text": "Run `ls`"}]
    first = ask({"role": "user", "content": parts}, tools=CLAUDE_CODE)
    assert call_of(first) == ("Bash", {"command": "ls"})
    later = {"role": "user", "content": f"<environment_context x='1'>{reminder}</environment_context>"}
    end = ask({"role": "user", "content": parts}, *turn(first, "a.txt"), later, tools=CLAUDE_CODE)
    assert end.text.endswith("The tool Bash returned: a.txt")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", None),
        ("auto", None),
        ("required", "get_weather"),
        ({"type": "function", "function": {"name": "other"}}, "other"),
    ],
)
def test_tool_choice(choice: object, expected: str | None) -> None:
    """`tool_choice` decides where the prompt doesn't: a forced tool is called, and none if none may be."""
    tools = (*WEATHER, tool("other", "x", x={"type": "integer"}))
    answer = ask("Hello", tools=tools, tool_choice=choice)
    assert (answer.call.name if answer.call else None) == expected
    if choice == "none":
        assert ask("Use the tool get_weather", tools=tools, tool_choice=choice).call is None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 3},
        {"type": "number"},
        {"type": "boolean"},
        {"enum": ["metric", "imperial"]},
        {"const": "x"},
        {"type": ["null", "string"]},
        {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "integer"}}]},
        {"type": "object", "properties": {"a": TEXT, "b": {"type": "boolean"}}, "required": ["a", "b"]},
        {"$ref": "#/$defs/Unit"},
        True,
        {},
    ],
)
def test_arguments_match_the_schema(schema: object) -> None:
    """The arguments are valid against the JSON schema of the tool, whatever the types of its properties."""
    defs = {"Unit": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}
    parameters = {"type": "object", "properties": {"value": schema}, "required": ["value"], "$defs": defs}
    found = ask(
        "Hello",
        tools=({"type": "function", "function": {"name": "f", "parameters": parameters}},),
        tool_choice="required",
    )
    jsonschema.validate(call_of(found)[1], parameters)


def test_a_tool_without_parameters() -> None:
    """A tool without parameters is called without arguments."""
    tools = ({"type": "function", "function": {"name": "get_time"}},)
    assert call_of(ask("What time is it?", tools=tools)) == ("get_time", {})


def test_a_file_without_tools() -> None:
    """Without tools, a prompt for a file gets its text in a block below its name, as aider reads it."""
    assert ask('Create a.txt with "Hi"').text.endswith(" No model was called. \n\na.txt\n```\nHi\n```")


def test_counting() -> None:
    """A prompt to count is followed, for a stream as long as the user wants, up to a limit."""
    assert ask("Count from 1 to 20, please.").text.endswith(
        " No model was called. " + " ".join(map(str, range(1, 21)))
    )
    assert ask("count from 1 to 999999").text.endswith(" 2001")


def test_the_limit_of_tokens() -> None:
    """An answer is cut at the client's limit of tokens, and says so as a model does."""
    for cut in (ask("Hello", max_tokens=3), ask("Hello", max_completion_tokens=3)):
        assert (cut.text, cut.tokens, cut.finish_reason) == ("This is the", 3, "length")
    whole = ask("Hello", max_tokens=1000)
    assert (whole.tokens, whole.finish_reason) == (len(whole.text.split()), "stop")
    assert len(whole.pieces) == whole.tokens


@pytest.mark.parametrize(
    "prompt", ["<a>" * 200_000, "```" * 200_000, "x." * 200_000, "'a " * 200_000, "a/" * 200_000, " " * 400_000 + "x"]
)
def test_a_prompt_that_is_hard_to_read(prompt: str) -> None:
    """A large prompt of any form is answered at once: a worker reads it in its event loop."""
    assert ask(prompt, tools=CLAUDE_CODE).finish_reason == "stop"
