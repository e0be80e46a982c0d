"""Generate the Python client that LiteLLM imports to use a database.

LiteLLM uses Prisma, whose client is code that is generated from a schema. Generating it takes a second and Node.js,
which nothing needs later.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from litellm_systemd.command import minimal_environment, run

#: The generator of the client in LiteLLM's schema.
_GENERATOR = re.compile(r'(?<=provider = )"prisma-client-py"')
_TARGETS = re.compile(r"(?<=binaryTargets = )\[.*?\]")

_COMPILE = "import compileall, prisma, sys; sys.exit(not compileall.compile_dir(prisma.__path__[0], quiet=1))"


@dataclass(frozen=True, slots=True)
class Tools:
    """What generates the client: the path of Node.js, and the folder of the package `prisma` and those it needs."""

    node: Path
    packages: Path


def generate_client(
    python: str, schema: Path, tools: Tools, scratch: Path, variables: Mapping[str, str] = {}
) -> None:
    """Generate the client into the package `prisma` of a Python. Uses no network.

    Args:
        python: the path of the Python.
        schema: LiteLLM's schema.
        tools: what generates it.
        scratch: an empty folder.
        variables: more variables of the environment of that Python.

    Raises:
        CommandError: it failed.
    """
    # A program that stands for all engines: the command looks whether they are there, and needs none of them.
    engine = scratch / "engine"
    engine.write_text("#!/bin/sh\n", encoding="utf-8")
    engine.chmod(0o755)
    generator = shlex.join((python, "-m", "prisma")).replace('"', '\\"')
    text = _GENERATOR.sub(lambda _: f'"{generator}"', schema.read_text(encoding="utf-8"))
    own = scratch / "schema.prisma"
    own.write_text(_TARGETS.sub('["native"]', text), encoding="utf-8")
    environment = {
        **minimal_environment(),
        **variables,
        "HOME": str(scratch),
        "PRISMA_CLI_QUERY_ENGINE_TYPE": "binary",
        "PRISMA_QUERY_ENGINE_BINARY": str(engine),
        "PRISMA_QUERY_ENGINE_LIBRARY": str(engine),
        "PRISMA_SCHEMA_ENGINE_BINARY": str(engine),
        # No question to Prisma about newer versions.
        "CHECKPOINT_DISABLE": "1",
        "PRISMA_HIDE_UPDATE_MESSAGE": "1",
    }
    command = str(tools.packages / "prisma/build/index.js")
    run((str(tools.node), command, "generate", "--schema", str(own)), environment=environment, timeout=300)
    # The service cannot write there, and would compile 11 MB of types at each start.
    run((python, "-c", _COMPILE), environment=environment, timeout=300)
