"""The client programs, and how each one is run without a terminal. The agents' settings are those of `litellmctl
client`.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

BASE = "http://127.0.0.1:4000"
#: The packages of `make_clients` in scripts/test.sh, as the box sees them.
PACKAGES = "/opt/clients"
#: The home of the user of the clients. The programs sdk_* are below SCRIPTS.
USER, HOME, SCRIPTS = "dev", "/home/dev", "/home/sdk"
Argv = tuple[str, ...]
_CHAT, _MESSAGES = "/v1/chat/completions", "/v1/messages"
_OPENAI = f"{_CHAT}, /v1/responses"


@dataclass(frozen=True, slots=True)
class Program:
    """A client program.

    Attributes:
        name: as `litellmctl client` knows the agents.
        command: the argv before the prompt.
        resume: the argv before a prompt that continues the last conversation.
        write: the tool calls that write a file, from a path and a text. None: the program has no tools.
        shell: the tool call that runs a shell command.
        package: its package in package.json or a requirements file, where its version is.
        api: the API of the gateway that it calls.
        repeats: it repeats a request whose stream broke off. Otherwise it reports that.
        key: an SDK's variable with the gateway's key.
        variables: other variables.
        reads_prompt: it reads the prompt from standard input.
    """

    name: str
    command: Argv
    resume: Argv
    package: str
    api: str
    write: Callable[[str, str], str] | None = None
    shell: Callable[[str], str] | None = None
    repeats: bool = False
    key: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    reads_prompt: bool = False

    @property
    def work(self) -> str:
        """Its working folder."""
        return f"{HOME}/projects/{self.name}"

    @property
    def is_sdk(self) -> bool:
        """Whether it is one of the programs sdk_*, with a mode before the prompt."""
        return bool(self.key)


def _call(tool: str, **given: str | int) -> str:
    """Text that makes the model of tests/fakes call a tool."""
    return f"CALL {tool} {json.dumps(given)}"


def _shell_write(tool: str, argument: str) -> Callable[[str, str], str]:
    return lambda path, text: _call(tool, **{argument: f"printf %s '{text}' > {path}"})


def _sdk(name: str, package: str, api: str, interpreter: str, script: str, key: str) -> Program:
    command = (interpreter, f"{SCRIPTS}/{script}")
    addresses = {"OPENAI_BASE_URL": f"{BASE}/v1", "ANTHROPIC_BASE_URL": BASE}
    return Program(
        name,
        command,
        command,
        package,
        api,
        _shell_write("shell", "command"),
        lambda command: _call("shell", command=command),
        key=key,
        variables=addresses,
    )


#: Milliseconds. Without it a tool ends after two minutes, in which not all programs start on a slow machine.
_TOOL_LIMIT = 600_000
_CLAUDE = ("claude", "--print", "--dangerously-skip-permissions")
_CODEX = ("codex", "exec", "--dangerously-bypass-approvals-and-sandbox", "--skip-git-repo-check")
_OPENCODE = (f"{PACKAGES}/node_modules/opencode-linux-x64-baseline/bin/opencode", "run", "--auto")
_AIDER = (
    f"{PACKAGES}/aider/bin/python", "-m", "aider", "--no-check-update", "--analytics-disable",
    "--no-show-release-notes", "--yes-always", "--no-git", "--no-pretty", "--no-fancy-input", "--no-detect-urls",
    "--no-suggest-shell-commands",
)  # fmt: skip
#: Without these, opencode fetches a list of models and packages.
_OPENCODE_OFFLINE = (
    "OPENCODE_DISABLE_AUTOUPDATE",
    "OPENCODE_DISABLE_MODELS_FETCH",
    "OPENCODE_DISABLE_LSP_DOWNLOAD",
    "OPENCODE_DISABLE_DEFAULT_PLUGINS",
    "OPENCODE_DISABLE_FFF",
    "OPENCODE_EXPERIMENTAL_DISABLE_FILEWATCHER",
)

PROGRAMS = (
    Program(
        "claude-code",
        _CLAUDE,
        (*_CLAUDE, "--continue"),
        "@anthropic-ai/claude-code",
        _MESSAGES,
        lambda path, text: _call("Write", file_path=path, content=text),
        lambda command: _call("Bash", command=command, description="Run it", timeout=_TOOL_LIMIT),
        repeats=True,
    ),
    Program(
        "codex",
        _CODEX,
        (*_CODEX, "resume", "--last"),
        "@openai/codex",
        "/v1/responses",
        _shell_write("exec_command", "cmd"),
        # 30 seconds are the most. Then the tool returns, and the command runs on.
        lambda command: _call("exec_command", cmd=command, yield_time_ms=30_000),
        repeats=True,
    ),
    Program(
        "opencode",
        _OPENCODE,
        (*_OPENCODE, "--continue"),
        "opencode-linux-x64-baseline",
        _CHAT,
        # It refuses to write a file that was not read.
        lambda path, text: f"{_call('read', filePath=path)} {_call('write', filePath=path, content=text)}",
        lambda command: _call("bash", command=command, timeout=_TOOL_LIMIT),
        repeats=True,
        variables=dict.fromkeys(_OPENCODE_OFFLINE, "1"),
        # As an argument it would be quoted for a shell.
        reads_prompt=True,
    ),
    # It has no tools: it edits the files that the text of an answer names, and runs `--test-cmd`.
    Program(
        "aider",
        (*_AIDER, "--message"),
        (*_AIDER, "--restore-chat-history", "--message"),
        "aider-chat",
        _CHAT,
        repeats=True,
        variables={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    ),
    _sdk("openai-python", "openai", _OPENAI, f"{PACKAGES}/sdk/bin/python", "sdk_openai.py", "OPENAI_API_KEY"),
    _sdk("openai-node", "openai", _OPENAI, "node", "sdk_openai.mjs", "OPENAI_API_KEY"),
    _sdk(
        "anthropic-python",
        "anthropic",
        _MESSAGES,
        f"{PACKAGES}/sdk/bin/python",
        "sdk_anthropic.py",
        "ANTHROPIC_API_KEY",
    ),
    _sdk("anthropic-node", "@anthropic-ai/sdk", _MESSAGES, "node", "sdk_anthropic.mjs", "ANTHROPIC_API_KEY"),
)

#: Why a program can't be installed here.
MISSING = {
    **({"aider": "aider has no release for Python 3.13"} if sys.version_info >= (3, 13) else {}),
    **({"opencode": "package.json has opencode for x86_64"} if platform.machine() != "x86_64" else {}),
}
INSTALLED = tuple(program for program in PROGRAMS if program.name not in MISSING)
