"""The settings that the installed LiteLLM knows, parsed from its source, because an import takes seconds.

`python -m tests.unit.litellm_names` writes them into gateway/known.py, after the LiteLLM of the lock has changed.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@cache
def _tree(path: str) -> ast.Module:
    return ast.parse((_package("litellm") / path).read_text())


def _class(path: str, name: str) -> ast.ClassDef:
    return next(node for node in ast.walk(_tree(path)) if isinstance(node, ast.ClassDef) and node.name == name)


@cache
def _sources() -> str:
    folders = [_package("litellm") / part for part in ("proxy", "integrations", "llms/anthropic")]
    folders += [_package("litellm_enterprise")]
    return "\n".join(path.read_text() for folder in folders for path in sorted(folder.rglob("*.py")))


@cache
def _constants() -> dict[str, set[str]]:
    """The strings that constants with capital names have, anywhere in the source."""
    found: dict[str, set[str]] = {}
    for name, value in re.findall(r"^([A-Z_]{3,})(?:: [\w\[\]]+)? = [\"']([a-z]\w*)[\"']", _sources(), re.MULTILINE):
        found.setdefault(name, set()).add(value)
    return found


def _looked_up(mapping: str) -> Iterator[str]:
    """`x` of `mapping.get("x")`, `mapping["x"]` and `"x" in mapping`, also if a constant replaces the string."""
    text = "\n".join(line for line in re.split(r"\n(?=\S| {4}\S)", _sources()) if mapping in line)
    yield from re.findall(rf"\b_?{mapping}(?:\.get\(\s*|\[\s*)[\"']([a-z]\w*)[\"']", text)
    yield from re.findall(rf"[\"']([a-z]\w*)[\"']\s+(?:not\s+)?in\s+_?{mapping}\b(?![.\[])", text)
    for constant in re.findall(rf"\b_?{mapping}\.get\(\s*([A-Z_]{{3,}})", text):
        yield from _constants().get(constant, ())


def top_level() -> frozenset[str]:
    """The keys that `ProxyConfig` reads from the whole configuration."""
    found = {
        node.args[0].value
        for node in ast.walk(_class("proxy/proxy_server.py", "ProxyConfig"))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "get"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("config", "new_config")
        and isinstance(node.args[0], ast.Constant)
    }
    # Two are read from the model price scheduler's own mapping, which has the same name there.
    return frozenset(str(name) for name in found) - {"interval_hours", "force_reload"}


def general_settings() -> frozenset[str]:
    """The fields of the class that documents them, and the other keys that the proxy looks up."""
    fields = {
        node.target.id
        for node in _class("proxy/_types.py", "ConfigGeneralSettings").body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return frozenset(fields | set(_looked_up("general_settings")))


def litellm_settings() -> frozenset[str]:
    """Attributes of the module `litellm` that hold a value, keys with a branch of their own, and those looked up."""
    load = next(
        node
        for node in ast.walk(_class("proxy/proxy_server.py", "ProxyConfig"))
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "load_config"
    )
    branches = {
        constant.value
        for node in ast.walk(load)
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and node.left.id == "key"
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    }
    names = branches | set(_looked_up("litellm_settings")) | set(_module_values(_tree("__init__.py").body))
    # The module's tables of model names are values too, but no configuration sets them.
    return frozenset(name for name in names if not name.endswith("_models"))


def _module_values(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module in ("litellm._logging", "litellm.constants"):
            yield from (alias.name for alias in node.names if alias.name.islower() and alias.name[0] != "_")
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.If | ast.Try):
            yield from _module_values(node.body)
        for target in targets:
            if isinstance(target, ast.Name) and re.fullmatch(r"[a-z][a-z0-9_]*", target.id):
                yield target.id


def router_settings() -> frozenset[str]:
    """The arguments of `Router` that a configuration may set."""
    router = _class("router.py", "Router")
    init = next(node for node in router.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    managed = next(
        node.value
        for node in _tree("constants.py").body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == "ROUTER_SETTINGS_MANAGED_OUTSIDE_CONFIG"
    )
    outside = {node.value for node in ast.walk(managed or init) if isinstance(node, ast.Constant)}
    return frozenset(arg.arg for arg in (*init.args.args, *init.args.kwonlyargs)) - {"self"} - outside


def providers() -> frozenset[str]:
    """The members of `LlmProviders`, and the providers that a JSON file defines."""
    members = {
        node.value.value
        for node in _class("types/utils.py", "LlmProviders").body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    return frozenset(members | set(json.loads((_package("litellm") / "llms/openai_like/providers.json").read_text())))


def model_map() -> dict[str, dict[str, object]]:
    """LiteLLM's bundled table of models and prices."""
    path = _package("litellm") / "model_prices_and_context_window_backup.json"
    loaded: dict[str, dict[str, object]] = json.loads(path.read_text())
    return loaded


def example_configurations() -> list[Path]:
    """The YAML files that LiteLLM ships as examples of a configuration, or of a part of one."""
    folder = _package("litellm") / "proxy"
    examples = folder / "guardrails" / "guardrail_hooks"
    return sorted(
        [
            *folder.glob("*.yaml"),
            *(folder / "example_config_yaml").glob("*.yaml"),
            *examples.rglob("example_config.yaml"),
        ]
    )


def rewrite(text: str) -> str:
    """The text of gateway/known.py with the lists of the installed LiteLLM, of its version."""
    lists = {
        "TOP_LEVEL": top_level() | {"include"},
        "GENERAL": general_settings(),
        "LITELLM": litellm_settings(),
        "ROUTER": router_settings(),
        "PROVIDERS": providers(),
    }
    for name, names in lists.items():
        lines = textwrap.fill(" ".join(f'"{each}",' for each in sorted(names)), 108, break_on_hyphens=False)
        block = f"{name} = frozenset((\n{textwrap.indent(lines, '    ')}\n))\n"
        text, number = re.subn(rf"^{name} = frozenset\(\(\n.*?^\)\)\n", block, text, flags=re.DOTALL | re.MULTILINE)
        assert number == 1, name
    return re.sub(r"LiteLLM \d+\.\d+", f"LiteLLM {'.'.join(version('litellm').split('.')[:2])}", text, count=1)


if __name__ == "__main__":
    path = Path(__file__).parents[2] / "installer/litellm_systemd/gateway/known.py"
    path.write_text(rewrite(path.read_text()))
