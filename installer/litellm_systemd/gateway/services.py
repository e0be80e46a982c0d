"""Entries of a configuration for services other than models: MCP servers, endpoints, search tools, stores. Pure.

LiteLLM looks up the keys that it knows in each entry and ignores the others. A missing path, an unknown transport or
a store without an id stops the start (`load_servers_from_config`, `_register_pass_through_endpoint`,
`load_vector_stores_from_config`); an endpoint without a target, and a tool of an unknown provider, fail silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from litellm_systemd.gateway.config_types import GatewayConfig, KeyPath, LintFinding
from litellm_systemd.gateway.kinds import kind_findings, misspelt_findings
from litellm_systemd.gateway.models import with_own_variables
from litellm_systemd.gateway.snapshot import load_snapshot

#: The variable that allows MCP servers which are programs (stdio_gate.py), and the one with the character that
#: separates the name of a server from that of its tool.
_STDIO, _SEPARATOR = "LITELLM_ENABLE_MCP_STDIO", "MCP_TOOL_PREFIX_SEPARATOR"

#: One of these says where an MCP server is.
_MCP_ADDRESSES = ("url", "spec_path", "command")

#: What an entry of a list cannot do without, by the path of the list; below `litellm_params` for the last two.
_REQUIRED: Mapping[KeyPath, tuple[str, ...]] = {
    ("general_settings", "pass_through_endpoints"): ("path", "target"),
    ("search_tools",): ("search_provider",),
    ("vector_store_registry",): ("vector_store_id", "custom_llm_provider"),
}


def service_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Entries that stop the start or serve nothing, and their misspelt keys."""
    own = with_own_variables(config, environ)
    for name, server in config.section("mcp_servers").items():
        yield from _mcp_server(config, ("mcp_servers", str(name)), server, own)
    for path in _REQUIRED:
        entries = (
            config.section(str(path[0])).get(str(path[1])) if len(path) > 1 else config.document.get(str(path[0]))
        )
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            yield from _entry(config, path, (*path, index), entry)


def _mcp_server(
    config: GatewayConfig, path: KeyPath, server: object, environ: Mapping[str, str]
) -> Iterator[LintFinding]:
    separator = environ.get(_SEPARATOR) or "-"
    if separator in str(path[-1]):
        message = f"has a name with {separator}, and LiteLLM does not start"
        yield config.error("bad-service", path, message, f"Write it as {str(path[-1]).replace(separator, '_')}.")
    if not isinstance(server, Mapping):
        yield config.error("bad-service", path, "is not a mapping", "Write one KEY: VALUE per line below it.")
        return
    known = load_snapshot().sections.get("mcp_server", {})
    yield from kind_findings(config, path, server, known)
    yield from misspelt_findings(config, path, server, known)
    if not any(server.get(key) for key in _MCP_ADDRESSES):
        yield config.error("bad-service", path, "has no url and no command", "Add url: https://HOST/mcp")
    if server.get("transport") == "stdio" and environ.get(_STDIO, "").strip().lower() != "true":
        message = f"is a program, and LiteLLM starts none: {_STDIO} is not set"
        yield config.warning("bad-service", (*path, "transport"), message, f"Write {_STDIO}=true in .env.")


def _entry(config: GatewayConfig, section: KeyPath, path: KeyPath, entry: object) -> Iterator[LintFinding]:
    if len(section) == 1 and isinstance(entry, Mapping):
        path, entry = (*path, "litellm_params"), entry.get("litellm_params")
    required = _REQUIRED[section]
    if not isinstance(entry, Mapping):
        example = ", ".join(f"{name}: …" for name in required)
        yield config.error("bad-service", path, "is not a mapping", f"Write it like this: {{{example}}}")
        return
    sections = load_snapshot().sections
    known = sections.get("search_tool" if section == ("search_tools",) else "pass_through_endpoint", {})
    missing = [name for name in required if not entry.get(name)]
    names = known if len(section) > 1 else required
    yield from misspelt_findings(config, path, entry, names)
    if missing:
        yield config.error("bad-service", path, f"has no {missing[0]}", f"Add {missing[0]}.")
    if section != ("vector_store_registry",):
        yield from kind_findings(config, path, {key: entry[key] for key in entry if not _is_open(key)}, known)


def _is_open(key: object) -> bool:
    """Whether LiteLLM reads the key of an endpoint in more forms than it declares."""
    return key in ("auth", "guardrails")
