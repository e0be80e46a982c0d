"""The default behavior of a model: it calls the first tool of the request and returns the tool's result."""

from __future__ import annotations

import json
from typing import Any


def behave(body: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `Script` for a request body. Empty: the default text."""
    content = body["messages"][-1]["content"]
    for block in content if isinstance(content, list) else []:
        if "toolResult" in block or block.get("type") == "tool_result":
            return {"text": f"It says {json.dumps(block)}"}
    offered = body.get("toolConfig", {}).get("tools") or body.get("tools") or []
    tools = [tool.get("toolSpec", tool) for tool in offered if "cachePoint" not in tool]
    if not tools:
        return {}
    schema = tools[0].get("input_schema") or tools[0].get("inputSchema", {}).get("json", {})
    return {"text": "", "tool": (tools[0]["name"], dict.fromkeys(schema.get("properties", {}), "one"))}
