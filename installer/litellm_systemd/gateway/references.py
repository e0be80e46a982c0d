"""References to variables that LiteLLM does not resolve: in the syntax of another program, or as a part of a value.

LiteLLM resolves `os.environ/NAME` if it is the whole value of a key, at any depth (_check_for_os_environ_vars in
proxy/proxy_server.py). It uses any other text as it is: the provider gets "${OPENAI_API_KEY}" as the key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping

from litellm_systemd.gateway.config_types import REFERENCE, GatewayConfig, KeyPath, LintFinding, walk_texts

_NAME = r"(?P<name>[A-Za-z_]\w*)"
_CONSTANT = r"(?P<name>[A-Z][A-Z0-9_]+)"

#: Values that are nothing but a reference: of shells, Kubernetes, templates, Windows, Python and JavaScript.
_WHOLE = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\${{1,2}}\{{(?:env[:.])?{_NAME}(?::[^}}]*)?\}}",
        rf"\${_CONSTANT}",
        rf"\$\({_CONSTANT}\)",
        rf"\$?\{{\{{-? *(?:[.$]?(?:env|Env|environ|secrets|vars|Values)\.)?{_CONSTANT}(?: *\|[^}}]*)? *-?\}}\}}",
        rf"\{{\{{.*\benv\b\W+{_CONSTANT}\W+\}}\}}",
        rf"%{_CONSTANT}%",
        rf"(?:os\.)?environ\[ *[\"']?{_NAME}[\"']? *\]",
        rf"(?:os\.)?(?:environ\.get|getenv)\( *[\"']?{_NAME}[\"']?(?: *,[^)]*)?\)",
        rf"process\.env\.{_NAME}",
        rf"{REFERENCE}[${{(%\"' ]+{_NAME}.*",
        rf"{REFERENCE}{_NAME}:[-=?].*",
        rf"([\"'`]){REFERENCE}{_NAME}\1",
    )
)

#: A word, a separator and a variable: `env:KEY`, `$env:KEY`, `os.environ:KEY`, `os.enviorn/KEY`.
_MISSPELT = re.compile(rf"\$?(?P<word>[A-Za-z_.]{{3,14}})(?P<separator>[/:.\\]) ?{_CONSTANT}")
_SHORT = ("env", "environ", "os.env")

#: A reference within a value, of LiteLLM or of a shell.
_PART = re.compile(rf"(?:\$\{{(?:env[:.])?|{REFERENCE}|os\.environ\[[\"']){_NAME}")

#: Keys whose values are texts or patterns, in which these characters have other meanings.
_PROSE = frozenset(
    (
        *("blocked_words", "content", "custom_code", "description", "instructions", "keyword", "keywords"),
        *("mock_response", "pattern", "patterns", "prompt", "prompts", "regex", "system_prompt", "tags", "template"),
        *("text",),
    )
)

#: Keys that often refer to a variable: `env:PROD` is a label elsewhere.
_USUAL_KEY = re.compile(r"(key|token|secret|password|credentials?|base|url|host|port|endpoint)$", re.IGNORECASE)

#: A password may begin with a dollar sign, so the rest must look like the name of a variable.
_PASSWORD_KEY = re.compile(r"passw(or)?d$", re.IGNORECASE)
_PASSWORD_NAME = re.compile(r"_|PASS|PWD|KEY|TOKEN|SECRET")


def reference_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Values that refer to a variable in a form that LiteLLM does not resolve."""
    del environ
    for path, value in walk_texts(config.document):
        if "$" not in value and "env" not in value.lower() and value[:1] not in ("{", "%"):
            continue
        if is_anchor(path):
            continue
        if not _PROSE.intersection(path) and not _is_resolved(config, path, value):
            yield from _finding(config, path, value.strip())


def is_anchor(path: KeyPath) -> bool:
    """Whether a value is in a section that LiteLLM does not read, which by convention holds anchors."""
    return str(path[0]).startswith(("x-", "."))


def is_header(path: KeyPath) -> bool:
    """Whether a value is a header of a pass-through endpoint: LiteLLM resolves a reference at the end of it."""
    return path[:2] == ("general_settings", "pass_through_endpoints") and "headers" in path[2:-1]


def _is_resolved(config: GatewayConfig, path: KeyPath, value: str) -> bool:
    """Whether LiteLLM resolves the value: as a whole, or where it looks for references itself."""
    if REFERENCE in value:
        is_whole = value.startswith(REFERENCE) and isinstance(path[-1], str) and _whole(value, "") is None
        return is_whole or is_header(path) or "alert_to_webhook_url" in path
    if path[0] != "mcp_servers" or len(path) < 2:
        return False
    # An MCP server has variables of its own for its headers, and takes headers of the client (mcp_server_manager.py).
    given = config.section("mcp_servers").get(str(path[1]))
    server = given if isinstance(given, Mapping) else {}
    is_script = path[2:3] == ("args",) and str(server.get("command")).endswith("sh")
    return value.startswith("${X-") or "env_vars" in server or is_script


def _finding(config: GatewayConfig, path: KeyPath, value: str) -> Iterator[LintFinding]:
    key = next((step for step in reversed(path) if isinstance(step, str)), "")
    in_list = "Write the value itself: LiteLLM resolves no variable in a list."
    name = _whole(value, key)
    if name is not None:
        if _may_be_password(key, value, name):
            return
        message = f"refers to {name} in a form that LiteLLM does not resolve: it uses the text as it is"
        remedy = f"Write {key}: {REFERENCE}{name} and set {name} in .env."
        yield config.error("shell-reference", path, message, in_list if isinstance(path[-1], int) else remedy)
        return
    found = _PART.search(value)
    if found is None or len(value.split()) > 2:  # more words than "Bearer ${KEY}" are prose
        return
    where = "in a list" if value.startswith(REFERENCE) and isinstance(path[-1], int) else "within a value"
    message = f"refers to {found['name']} {where}, which LiteLLM does not resolve: it uses the text as it is"
    variable = re.sub(r"\W", "_", key).upper()
    remedy = f"Set {variable} in .env to the whole value, and write {key}: {REFERENCE}{variable}"
    if is_header(path):
        remedy = f"Write {key}: {value[: found.start()]}{REFERENCE}{found['name']}"
    elif isinstance(path[-1], int):
        remedy = in_list
    yield config.error("partial-reference", path, message, remedy)


def _whole(value: str, key: str) -> str | None:
    """The variable that the value of a key refers to in another program's syntax; None if it is no such reference."""
    if found := next((found for pattern in _WHOLE if (found := pattern.fullmatch(value))), None):
        return found["name"]
    found = _MISSPELT.fullmatch(value)
    if found is None or value.startswith(REFERENCE):
        return None
    word = found["word"].lower()
    is_short = word in _SHORT and bool("_" in found["name"] or _USUAL_KEY.search(key))
    return found["name"] if is_short or difflib.get_close_matches(word, ["os.environ"], cutoff=0.8) else None


def _may_be_password(key: str, value: str, name: str) -> bool:
    return bool(_PASSWORD_KEY.search(key)) and value == f"${name}" and not _PASSWORD_NAME.search(name)
