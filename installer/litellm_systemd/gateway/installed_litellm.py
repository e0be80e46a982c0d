"""Names that the installed LiteLLM defines but gateway.known does not list, found in its source without importing it.

The lists of gateway.known are those of one version. A setting or provider that they do not contain may belong to a
newer LiteLLM. Before lint reports it, the files in which LiteLLM would define it are searched for that name. This
takes a millisecond, or about 100 for general_settings and litellm_settings, and only for unknown names
(docs/adr/0008).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path


class Part(Enum):
    """The role of a name in LiteLLM: the files that define such names, and the form of a definition."""

    #: `config.get("NAME")` of `ProxyConfig`
    TOP_LEVEL = (("proxy/proxy_server.py",), r"config\.get\(\s*[\"']{name}[\"']|[\"']{name}[\"'] in config\b")
    #: a field of `ConfigGeneralSettings`, or `general_settings.get("NAME")` anywhere in the proxy
    GENERAL = (
        ("proxy/_types.py", "proxy/**/*.py"),
        r"general_settings(?:\.get\(\s*|\[\s*)[\"']{name}[\"']|^    {name}: |[\"']{name}[\"'] in general_settings\b",
    )
    #: a value of the module, a key that `load_config` has a branch for, or `litellm_settings.get("NAME")`
    LITELLM = (
        ("__init__.py", "proxy/**/*.py"),
        r"^{name}\s*[:=]|key == [\"']{name}[\"']|litellm_settings(?:\.get\(\s*|\[\s*)[\"']{name}[\"']",
    )
    #: an argument of `Router`
    ROUTER = (("router*.py",), r"^(?: {{4}}| {{8}}){name}: ")
    #: a member of `LlmProviders`, or a key of the JSON file
    PROVIDER = (
        ("types/utils.py", "llms/openai_like/providers.json"),
        r"^    [A-Z0-9_]+ = [\"']{name}[\"']|^  [\"']{name}[\"']:",
    )
    #: a parameter of a model
    AWS_PARAMETER = (
        ("llms/bedrock/base_aws_llm.py", "types/router.py", "llms/bedrock/**/*.py", "llms/sagemaker/**/*.py"),
        r"\b{name}\b",
    )


@cache
def is_known_to_litellm(part: Part, name: str) -> bool:
    """Whether the installed LiteLLM defines this name; False if LiteLLM is not installed with this package."""
    folder = find_package()
    if folder is None or not re.fullmatch(r"[\w-]+", name):
        return False
    patterns, definition = part.value
    defines = re.compile(definition.format(name=re.escape(name)).encode(), re.MULTILINE)
    # Searching for the name is much faster than for the definition.
    bare = name.encode()
    return any(bare in text and defines.search(text) is not None for text in _texts(folder, patterns))


@cache
def find_package() -> Path | None:
    """The folder of the installed LiteLLM; None if it is not installed."""
    # Finding the spec of a top-level package does not import the package.
    spec = importlib.util.find_spec("litellm")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _texts(folder: Path, patterns: tuple[str, ...]) -> Iterator[bytes]:
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            try:
                yield path.read_bytes()
            except OSError:
                continue
