"""Resolve the configuration that `-c NAME` or `CONFIG_FILE=NAME` selects."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from litellm_systemd.errors import UsageError

_SUFFIXES = (".yml", ".yaml")


class ConfigOrigin(Enum):
    """The origin of a configuration: the package, the folder of installed configurations, or a path."""

    SHIPPED = "shipped"
    INSTALLED = "installed"
    PATH = "path"


@dataclass(frozen=True, slots=True)
class ConfigChoice:
    """The selected configuration. `name` is its file name, `path` the file; None for a shipped configuration.

    `passed_over` is a file with the same name in the current folder that was not selected, to be reported to the
    user.
    """

    name: str
    origin: ConfigOrigin
    path: Path | None
    passed_over: Path | None = None


def resolve_name(
    name: str, *, shipped: frozenset[str], installed: frozenset[str], installed_dir: Path, folder: Path
) -> ConfigChoice:
    """The configuration that `name` selects. `shipped` and `installed` are file names, such as `demo.yml`.

    1. A name with a slash is a path relative to `folder`; `read_config` reports if it does not exist.
    2. Else an installed configuration, with or without `.yml` in the name: a user's edit in `installed_dir` survives.
    3. Else a shipped one.
    4. Else a file in `folder`.

    Files in `folder` come last for safety: `sudo litellmctl install -c demo.yml` must not use a demo.yml that another
    user left in the current folder, because a configuration can name Python code to load. `./demo.yml` selects that
    file, and `passed_over` reports it. Only `folder` is read from disk. UsageError if there is no such configuration.
    """
    if not name.strip():
        raise UsageError("the name of the configuration is empty", f"Available: {_listing(shipped | installed)}.")
    if "/" in name:
        path = folder / name
        return ConfigChoice(path.name, ConfigOrigin.PATH, path)
    own = next((folder / file for file in _spellings(name) if os.path.isfile(folder / file)), None)  # noqa: PTH113 - is_file() may raise
    for file in _spellings(name):
        if file in installed:
            return ConfigChoice(file, ConfigOrigin.INSTALLED, installed_dir / file, _other(own, installed_dir / file))
        if file in shipped:
            return ConfigChoice(file, ConfigOrigin.SHIPPED, None, own)
    if own is not None:
        return ConfigChoice(own.name, ConfigOrigin.PATH, own)
    raise _unknown(name, shipped | installed)


def _spellings(name: str) -> tuple[str, ...]:
    return (name,) if name.endswith(_SUFFIXES) else (*(name + suffix for suffix in _SUFFIXES), name)


def _other(own: Path | None, path: Path) -> Path | None:
    return None if own is None or own.absolute() == path.absolute() else own


def _unknown(name: str, known: frozenset[str]) -> UsageError:
    close = difflib.get_close_matches(name, sorted(known), n=1) or difflib.get_close_matches(
        name, sorted(file.rsplit(".", 1)[0] for file in known), n=1
    )
    guess = f"Did you mean {close[0]}? " if close else ""
    hint = f"{guess}Available: {_listing(known)}. For your own file use its path, such as ./{name}."
    return UsageError(f"there is no configuration named {name}", hint)


def _listing(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"
