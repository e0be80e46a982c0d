"""Programs of Debian's packages that scripts/test.sh unpacks, where this machine lacks them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.skipping import refuse

_CACHE = Path(__file__).resolve().parents[1] / ".cache"


def find_unpacked(folder: str, name: str) -> str | None:
    """The path of a program, of this machine or in a folder of .cache; None if there is none."""
    places = (os.environ["PATH"], "/usr/sbin", *(f"{_CACHE}/{folder}/usr/{each}" for each in ("bin", "sbin")))
    return shutil.which(name, path=os.pathsep.join(places))


def require_unpacked(folder: str, name: str) -> str:
    """The same. Skips the test without it; fails it under REQUIRE_SYSTEM_TESTS=1."""
    found = find_unpacked(folder, name)
    if found is None:
        refuse(f"there is no {name}. ./scripts/test.sh unpacks it")
    return found


def unpacked_environment(folder: str) -> dict[str, str]:
    """The environment in which an unpacked program finds the libraries that came with it."""
    libraries = sorted(map(str, (_CACHE / folder / "usr/lib").glob("*-linux-gnu*")))
    return {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": ":".join(libraries)}
