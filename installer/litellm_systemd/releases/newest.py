"""The newest LiteLLM that can be installed, and why newer ones can't: the index may lack what they depend on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from litellm_systemd.command import run
from litellm_systemd.errors import CommandError, InstallerError
from litellm_systemd.releases.requirements_lock import SUPPORTED_LITELLM
from litellm_systemd.releases.source import (
    INDEX_HINT,
    Source,
    fetch_litellm,
    find_cause,
    parse_version,
    reachable_python,
)
from litellm_systemd.releases.venvs import find_uv, index_environment, pip_argv, uv_argv

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Newest:
    """The source with the newest LiteLLM, None without one, and a line about each newer version that was skipped."""

    source: Source | None
    skipped: tuple[str, ...]


def fetch_newest_litellm(current: str, scratch: Path, say: Say = lambda _line: None) -> Newest:
    """Return this package with the newest LiteLLM that resolves and is newer than `current`.

    Args:
        current: the version of LiteLLM in use.
        scratch: an empty folder.
        say: called with each line of progress; with the skipped versions only if there is a source.

    Raises:
        CommandError: the index can't be reached, or has no LiteLLM.
    """
    say("looking for the newest LiteLLM that can be installed (up to a minute)")
    skipped: list[str] = []
    for version in _versions(scratch):
        if parse_version(version) <= parse_version(current):
            break
        try:
            found = fetch_litellm(version, scratch)
        except InstallerError as error:
            skipped.append(f"skipped: {error.message}")
            continue
        for line in skipped:
            say(line)
        return Newest(found, tuple(skipped))
    return Newest(None, tuple(skipped))


def _versions(scratch: Path) -> Iterator[str]:
    """Yield the newest version on the index, then the supported ones before it, the newest first."""
    try:
        version = _newest("", scratch)
    except CommandError as error:
        error.message = f"LiteLLM can't be fetched: {find_cause(error)}"
        raise
    while True:
        yield version
        try:
            version = _newest(f"{SUPPORTED_LITELLM},<{version}", scratch)
        except CommandError:  # no version is left
            return


def _newest(specifier: str, scratch: Path) -> str:
    """Return the newest LiteLLM on the index that a specifier allows, whatever it depends on. Raises CommandError."""
    wanted = f"litellm{specifier}"
    if uv := find_uv():
        argv = (
            *(*uv_argv(uv), "pip", "compile", "--quiet", "--no-deps", "--no-build", "--no-header", "--no-annotate"),
            *("--python", str(reachable_python()), "-"),
        )
        done = run(argv, environment=index_environment(), timeout=600, hint=INDEX_HINT, text=f"{wanted}\n")
        return done.stdout.strip().removeprefix("litellm==")
    report = scratch / "newest.json"
    options = ("--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:")
    argv = (*pip_argv(reachable_python(), scratch), "install", *options, "--report", str(report), wanted)
    run(argv, environment=index_environment(), timeout=600, hint=INDEX_HINT)
    return str(json.loads(report.read_text(encoding="utf-8"))["install"][0]["metadata"]["version"])
