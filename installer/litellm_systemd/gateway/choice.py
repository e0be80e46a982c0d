"""Which configuration a user means by `-c NAME` or `CONFIG_FILE=NAME`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from litellm_systemd.errors import UsageError

_SUFFIXES = (".yml", ".yaml")


class ConfigOrigin(Enum):
    """Where a configuration comes from: the package, the folder of installed ones, or a file of the user's."""

    SHIPPED = "shipped"
    INSTALLED = "installed"
    PATH = "path"


@dataclass(frozen=True, slots=True)
class ConfigChoice:
    """A configuration that was chosen. `name` is its file name, `path` the file; None for a shipped one.

    `passed_over` is a file of the same name in the current folder that was not taken, for the user to be told of.
    """

    name: str
    origin: ConfigOrigin
    path: Path | None
    passed_over: Path | None = None


def resolve_name(
    name: str, *, shipped: frozenset[str], installed: frozenset[str], installed_dir: Path, folder: Path
) -> ConfigChoice:
    """The configuration that `name` means. `shipped` and `installed` are file names, such as `demo.yml`.

    1. With a slash it is a path, seen from `folder`; whether it exists is for `read_config` to say.
    2. A bare name, with or without `.yml`, is an installed one: a user's edit in `installed_dir` survives.
    3. Else a shipped one.
    4. Else a file in `folder`.

    A file in `folder` comes last on purpose: `sudo litellmctl install -c demo.yml` must not depend on who left a
    demo.yml in the current folder (a configuration can name Python code to load). `./demo.yml` takes that one,
    and `passed_over` tells of it. Looks at `folder`, at nothing else. UsageError for a name that nothing answers.
    """
    if not name.strip():
        raise UsageError("no configuration is named", f"There are: {_listing(shipped | installed)}.")
    if "/" in name:
        path = folder / name
        return ConfigChoice(path.name, ConfigOrigin.PATH, path)
    own = next((folder / file for file in _spellings(name) if (folder / file).is_file()), None)
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
    hint = f"{guess}There are: {_listing(known)}. For a file of your own give its path, such as ./{name}."
    return UsageError(f"there is no configuration named {name}", hint)


def _listing(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"
