"""Generate the Python client that LiteLLM imports to use a database.

LiteLLM uses Prisma, whose client is code that is generated from a schema. Generating it takes a second and Node.js,
which nothing needs later.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from litellm_systemd.command import inherited_environment, minimal_environment, run
from litellm_systemd.errors import CommandError, InputError

#: The packages of npm that the command `prisma generate` needs: version, and the SHA-512 that npm publishes.
_PACKAGES = {
    "prisma": ("5.17.0", "m4UWkN5lBE6yevqeOxEvmepnL5cNPEjzMw2IqDB59AcEV6w7D8vGljDLd1gPFH+W6gUxw9x7/RmN5dCS/WTPxA=="),
    "@prisma/debug": (
        "5.17.0",
        "l7+AteR3P8FXiYyo496zkuoiJ5r9jLQEdUuxIxNCN1ud8rdbH3GTxm+f+dCyaSv9l9WY+29L9czaVRXz9mULfg==",
    ),
    "@prisma/engines": (
        "5.17.0",
        "+r+Nf+JP210Jur+/X8SIPLtz+uW9YA4QO5IXA+KcSOBe/shT47bCcRMTYCbOESw3FFYFTwe7vU6KTWHKPiwvtg==",
    ),
    "@prisma/engines-version": (
        "5.17.0-31.393aa359c9ad4a4bb28630fb5613f9c281cde053",
        "tUuxZZysZDcrk5oaNOdrBnnkoTtmNQPkzINFDjz7eG6vcs9AVDmA/F6K5Plsb2aQc/l5M2EnFqn3htng9FA4hg==",
    ),
    "@prisma/fetch-engine": (
        "5.17.0",
        "ESxiOaHuC488ilLPnrv/tM2KrPhQB5TRris/IeIV4ZvUuKeaicCl4Xj/JCQeG9IlxqOgf1cCg5h5vAzlewN91Q==",
    ),
    "@prisma/get-platform": (
        "5.17.0",
        "UlDgbRozCP1rfJ5Tlkf3Cnftb6srGrEQ4Nm3og+1Se2gWmCZ0hmPIi+tQikGDUVLlvOWx3Gyi9LzgRP+HTXV9w==",
    ),
}
_NODE, _NPM = "bin/node", "lib/node_modules/npm/bin/npm-cli.js"
_NPM_HINT = (
    "Is npm's registry reachable? NPM_CONFIG_REGISTRY names another one. An install from a bundle needs none:"
    " litellmctl bundle --with database"
)

#: The generator of the client in LiteLLM's schema.
_GENERATOR = re.compile(r'(?<=provider = )"prisma-client-py"')
_TARGETS = re.compile(r"(?<=binaryTargets = )\[.*?\]")

#: Without the types of all arguments, which the runtime does not import (runtime/worker/litellm_database.py).
_COMPILE = """
import compileall, importlib.util, re, sys
folder = importlib.util.find_spec("prisma").submodule_search_locations[0]
sys.exit(not compileall.compile_dir(folder, quiet=1, rx=re.compile("/prisma/types[.]py$")))
"""


@dataclass(frozen=True, slots=True)
class Tools:
    """What generates the client: the folder of Node.js, and the folder of the packages of npm."""

    node: Path
    packages: Path


def package_files(folder: Path) -> dict[str, Path]:
    """The path of the archive of each package of npm that generates the client, in a folder."""
    names = {name: name.replace("@", "").replace("/", "-") for name in _PACKAGES}
    return {name: folder / f"{names[name]}-{version}.tgz" for name, (version, _) in _PACKAGES.items()}


def has_packages(folder: Path) -> bool:
    return all(path.exists() for path in package_files(folder).values())


def fetch_packages(node: Path, folder: Path) -> None:
    """Download the packages from npm's registry, as npm is configured, into a folder.

    Raises:
        CommandError: npm failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = (f"{name}@{version}" for name, (version, _) in _PACKAGES.items())
    npm = (str(node / _NODE), str(node / _NPM), "pack", "--loglevel", "error", "--pack-destination", str(folder))
    with tempfile.TemporaryDirectory() as scratch:
        # A .npmrc in the current folder may be that of another user.
        argv = (*npm, "--prefix", scratch, "--cache", scratch, *wanted)
        try:
            run(argv, environment=inherited_environment(), timeout=600, hint=_NPM_HINT)
        except CommandError as error:
            lines = (line.removeprefix("npm error ") for line in error.stderr.splitlines())
            cause = next((line for line in lines if "Error: " in line or line[:3].isdecimal()), error.message)
            error.message = f"the packages of npm that generate Prisma's client cannot be downloaded: {cause}"
            raise


def unpack_packages(folder: Path, target: Path) -> None:
    """Unpack the archives of the packages in `folder`, each into a folder of its name.

    Raises:
        InputError: one has another digest.
    """
    for name, path in package_files(folder).items():
        if base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode() != _PACKAGES[name][1]:
            raise InputError(f"{path.name} is not the package {name} of npm: its SHA-512 differs", _NPM_HINT)
        with tarfile.open(path) as archive:
            for member in archive:
                # Each is in a folder `package`. The digest has shown that these are the known files.
                own = target / name / member.name.partition("/")[2]
                if (content := archive.extractfile(member)) is not None:
                    own.parent.mkdir(parents=True, exist_ok=True)
                    own.write_bytes(content.read())


def generate_client(
    python: str, schema: Path, tools: Tools, scratch: Path, variables: Mapping[str, str] = {}
) -> None:
    """Generate the client into the package `prisma` of a Python. Uses no network.

    `scratch`: an empty folder.
    `variables`: more variables of the environment of that Python.

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
    run((str(tools.node / _NODE), command, "generate", "--schema", str(own)), environment=environment, timeout=300)
    # The service cannot write there.
    run((python, "-c", _COMPILE), environment=environment, timeout=300)
