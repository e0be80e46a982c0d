"""A venv with exactly what a lock names, made by uv where there is one, else by venv and pip: the same hashes."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from litellm_systemd.command import inherited_environment, run
from litellm_systemd.errors import CommandError
from litellm_systemd.releases.wheels import find_uv

_VENV_HINT = "Debian and Ubuntu keep venv in a package of its own: apt-get install python3-venv."
#: Seconds; a slow network fetches 200 MB.
_LONG = 3600


@dataclass(frozen=True, slots=True)
class Venv:
    """A venv under way: its folder, and the uv that makes it (None: pip)."""

    folder: Path
    uv: str | None

    @property
    def python(self) -> str:
        """Its Python."""
        return str(self.folder / "bin" / "python")

    @property
    def maker(self) -> str:
        """What it is made with, for people: `uv` or `pip`."""
        return "uv" if self.uv else "pip"


def make_venv(folder: Path, python: Path) -> Venv:
    """An empty venv on that Python.

    Raises:
        CommandError: there is no venv module, or no room.
    """
    uv = find_uv()
    if uv:
        argv = (uv, "venv", "--quiet", "--relocatable", "--python", str(python), str(folder))
        run(argv, environment=inherited_environment())
    else:
        run((str(python), "-m", "venv", str(folder)), environment=inherited_environment(), hint=_VENV_HINT)
    return Venv(folder, uv)


def install_lock(venv: Venv, lock: Path, others: Path | None = None) -> None:
    """Install what the lock names, each file by its hash, wheels only: a build would bring in what no hash pins.

    Args:
        venv: where to.
        lock: the lock.
        others: a folder with the wheels; None for the user's package index.

    Raises:
        CommandError: a package can't be had, or isn't what the lock says.
    """
    places = () if others is None else ("--no-index", "--find-links", str(others))
    wanted = ("--require-hashes", "--only-binary", ":all:", *places, "--requirement", str(lock))
    later = () if venv.uv else ("--no-compile",)
    hint = _LOCK_HINT if others is None else "Mend that and run it again."
    run((*_install(venv), *later, *wanted), environment=index_environment(), timeout=_LONG, hint=hint)
    if not venv.uv:
        _compile(venv)


def _compile(venv: Venv) -> None:
    """Byte-compile on all processors, as uv does; pip uses one. What can't be compiled is passed over, as by both."""
    argv = (venv.python, "-I", "-m", "compileall", "-q", "-j", "0", str(venv.folder / "lib"))
    done = run(argv, check=False, timeout=_LONG)
    if done.returncode not in (0, 1):  # 1: some file is no Python of this version
        raise CommandError(argv, done.returncode, done.stderr)


_LOCK_HINT = "Is the package index reachable? PIP_INDEX_URL and UV_INDEX_URL name another; a bundle needs none."


def index_environment() -> dict[str, str]:
    """The caller's environment, which says where packages are; uv is told of the folders that pip knows."""
    found = inherited_environment()
    if "PIP_FIND_LINKS" in found and "UV_FIND_LINKS" not in found:
        found["UV_FIND_LINKS"] = found["PIP_FIND_LINKS"].replace(" ", ",")
    return found


def install_wheel(venv: Venv, wheel: Path) -> None:
    """Install this package's own wheel and nothing else."""
    wanted = ("--no-index", "--no-deps", str(wheel))
    run((*_install(venv), *wanted), environment=inherited_environment(), timeout=_LONG)


def _install(venv: Venv) -> tuple[str, ...]:
    if venv.uv:
        # Compiled now, for the service can't write there; pip compiles unasked.
        return (venv.uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", venv.python)
    return (venv.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")


def install_argv(python: Path, scratch: Path) -> tuple[str, ...]:
    """`install` of uv or pip, for a `--target` folder."""
    if uv := find_uv():
        # What is newest is asked anew, unless uv is told not to ask at all.
        asked = () if inherited_environment().get("UV_OFFLINE") else ("--refresh",)
        return (uv, "pip", "install", "--quiet", "--python", str(python), *asked)
    return (*pip_argv(python, scratch), "install", "--quiet")


def pip_argv(python: Path, scratch: Path) -> tuple[str, ...]:
    """A pip: that of this Python, else one in a scratch venv (a release that uv made has none).

    Raises:
        CommandError: there is no venv module either.
    """
    folder = scratch / "pip"
    if importlib.util.find_spec("pip"):
        found = sys.executable
    else:
        run((str(python), "-m", "venv", str(folder)), environment=inherited_environment(), hint=_VENV_HINT)
        found = str(folder / "bin" / "python")
    return (found, "-m", "pip", "--disable-pip-version-check", "--no-input")


def make_movable(venv: Venv, final: str) -> None:
    """Write the final path into its scripts in place of the present one. (uv's find their Python by themselves.)"""
    # uv's own lock, which anybody may write; with no uv at work nobody needs it.
    (venv.folder / ".lock").unlink(missing_ok=True)
    before, after = str(venv.folder).encode(), final.encode()
    for path in (venv.folder / "pyvenv.cfg", *(venv.folder / "bin").iterdir()):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if before in content:
                path.write_bytes(content.replace(before, after))


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(entry.stat(follow_symlinks=False).st_size for entry in _entries(folder))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    found: list[os.DirEntry[str]] = []
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    found.append(entry)
    return found
