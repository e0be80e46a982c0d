"""Fetch what an upgrade needs from the user's package index: this package, or another LiteLLM."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from litellm_systemd.command import inherited_environment, run
from litellm_systemd.errors import CommandError, InstallerError, UsageError
from litellm_systemd.releases.requirements_lock import (
    BAD_LITELLM,
    LOCK,
    SUPPORTED_LITELLM,
    Pin,
    parse_lock,
    pinned_version,
    render_lock,
)
from litellm_systemd.releases.source import (
    DISTRIBUTION,
    SDNOTIFY,
    Source,
    find_source,
    folder_source,
    reachable_python,
)
from litellm_systemd.releases.venvs import find_uv, index_environment, install_argv, pip_argv

_INDEX_HINT = (
    "Does the package index have it? PIP_INDEX_URL and UV_INDEX_URL name another index, PIP_FIND_LINKS a folder."
)


def fetch_package(version: str | None, scratch: Path, say: Callable[[str], None] = lambda _line: None) -> Source:
    """Fetch this package from the user's package index and return it as the source of a release.

    Args:
        version: the version to fetch; None for the newest.
        scratch: an empty folder, which must exist until the release is built.
        say: called with each line of progress.

    Raises:
        UsageError: `version` is not a version.
        CommandError: it can't be fetched.
    """
    wanted = DISTRIBUTION if version is None else f"{DISTRIBUTION}=={parse_version(version)}"
    say(f"fetching {wanted}")
    python = reachable_python()
    folder = scratch / "package"
    # Without dependencies: the release gets those of its own lock, checked by their hashes.
    options = ("--upgrade", "--no-deps", "--only-binary", ":all:", "--target", str(folder))
    argv = (*install_argv(python, scratch), *options, wanted)
    run(argv, environment=index_environment(), timeout=600, hint=_INDEX_HINT)
    return folder_source(folder)


def fetch_litellm(version: str, scratch: Path, say: Callable[[str], None] = lambda _line: None) -> Source:
    """Return this package with a new lock for another LiteLLM, in which other packages change only if they must.

    Raises:
        UsageError: `version` is not a version, or not one that this package supports.
        InstallerError: it can't be fetched, or conflicts with other packages.
    """
    source = find_source()
    requirements = _requirements(str(parse_version(version)))
    say(f"resolving the dependencies of LiteLLM {version}")
    try:
        lock = (_by_uv if find_uv() else _by_pip)(source, requirements, scratch)
    except CommandError as error:
        raise InstallerError(f"no lock for LiteLLM {version}: {_cause(error)}", error.hint) from error
    if (found := pinned_version(lock, "litellm")) != version:
        raise InstallerError(
            f"the new lock has {f'LiteLLM {found}' if found else 'no LiteLLM'}, not {version}", "Report this."
        )
    parse_lock(lock)
    return replace(source, lock=lock)


def _cause(error: CommandError) -> str:
    """Return the reason of a failed resolution, which is rarely the last line of uv or pip."""
    lines = [line.strip() for line in error.stderr.splitlines()]
    reasons = [line for mark in ("Because", "ERROR:", "error:") for line in lines if mark in line]
    return (reasons or [error.message])[0].removeprefix("cause: ")


def parse_version(text: str) -> Version:
    """Parse a version (PEP 440). Raises UsageError."""
    try:
        return Version(text)
    except InvalidVersion:
        raise UsageError(f"{text} is not a version", "A version looks like 1.106.2.") from None


def _requirements(version: str) -> list[str]:
    """Return the requirements of this package for the lock, with that version of LiteLLM."""
    declared = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    own = [item for item in declared if item.marker is None or "extra" not in str(item.marker)]
    litellm = next(item for item in own if item.name == "litellm")
    if version in BAD_LITELLM:
        raise UsageError(f"LiteLLM {version} is refused: {BAD_LITELLM[version]}", "Choose another version.")
    if not SpecifierSet(SUPPORTED_LITELLM).contains(version, prereleases=True):
        raise UsageError(
            f"this litellm-systemd works with LiteLLM {SUPPORTED_LITELLM}, not {version}",
            "'litellmctl upgrade' fetches a later litellm-systemd.",
        )
    others = [str(item) for item in own if item.name not in (litellm.name, SDNOTIFY)]
    return [f"litellm[{','.join(sorted(litellm.extras))}]=={version}", *others]


def _by_uv(source: Source, requirements: list[str], scratch: Path) -> str:
    """Resolve for every Python and machine, as scripts/lock.sh does."""
    wanted, lock = scratch / "requirements.in", scratch / LOCK
    wanted.write_text("\n".join(requirements) + "\n", encoding="utf-8")
    # uv prefers the versions that the output file has.
    lock.write_text(source.lock, encoding="utf-8")
    run(
        (
            *(
                find_uv() or "uv",
                "pip",
                "compile",
                "--quiet",
                "--universal",
                "--python-version",
                "3.10",
                "--no-build",
            ),
            *("--python", str(source.python), "--generate-hashes", "--no-header", "--no-annotate"),
            *("--upgrade-package", "litellm", "--output-file", str(lock), str(wanted)),
        ),
        environment=index_environment(),
        timeout=600,
        hint=_INDEX_HINT,
    )
    return lock.read_text(encoding="utf-8")


def _by_pip(source: Source, requirements: list[str], scratch: Path) -> str:
    """Resolve for this Python and machine alone: pip can't do it for others."""
    report = scratch / "report.json"
    options = ("--quiet", "--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", str(report))
    argv = (*pip_argv(source.python, scratch), "install", *options, *requirements)
    run(argv, environment=inherited_environment(), timeout=900, hint=f"pip 22.2 or later is needed. {_INDEX_HINT}")
    found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return render_lock(
        Pin(item["metadata"]["name"], item["metadata"]["version"], (_sha256(item),))
        for item in sorted(found, key=lambda item: str(item["metadata"]["name"]).lower())
    )


def _sha256(item: dict[str, Any]) -> str:
    return str(item["download_info"]["archive_info"]["hashes"]["sha256"])
