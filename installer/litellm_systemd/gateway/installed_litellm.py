"""What the installed LiteLLM knows beyond the names of gateway.known, read out of its source without importing it.

The lists of gateway.known are those of one version. A setting or provider that isn't in them may be one of a newer
LiteLLM: before lint says a word about it, the place where LiteLLM would define it is searched for that very name.
It costs a millisecond, or some 100 for general_settings and litellm_settings, and only where a name is unknown
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
    """What a name is in LiteLLM: the files that define such names, and what a definition looks like."""

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
    """Whether the installed LiteLLM defines this name; False where LiteLLM isn't installed beside this package."""
    folder = find_package()
    if folder is None or not re.fullmatch(r"[\w-]+", name):
        return False
    patterns, definition = part.value
    defines = re.compile(definition.format(name=re.escape(name)).encode(), re.MULTILINE)
    # The name alone is found much faster than the definition.
    bare = name.encode()
    return any(bare in text and defines.search(text) is not None for text in _texts(folder, patterns))


@cache
def find_package() -> Path | None:
    """The folder of the installed LiteLLM; None where there is none."""
    # Finding the spec of a top-level package doesn't run the package.
    spec = importlib.util.find_spec("litellm")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _texts(folder: Path, patterns: tuple[str, ...]) -> Iterator[bytes]:
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            try:
                yield path.read_bytes()
            except OSError:
                continue
