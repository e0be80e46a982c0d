"""Create a venv with exactly the packages of a lock: with uv where it is available, otherwise with venv and pip."""

from __future__ import annotations

import importlib.util
import os
import shutil
import site
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from litellm_systemd.command import inherited_environment, module_argv, run
from litellm_systemd.errors import CommandError

_VENV_HINT = "Debian and Ubuntu have venv in a separate package: apt-get install python3-venv"
#: Seconds, enough for 200 MB over a slow network.
_LONG = 3600
#: Where quickstart.sh installs uv; a release has none.
_BOOTSTRAP_UV = Path("/opt/litellm-systemd/bootstrap/bin/uv")


@dataclass(frozen=True, slots=True)
class Venv:
    """A venv that is being built: its folder, and the path of uv (None: pip builds it)."""

    folder: Path
    uv: str | None

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    @property
    def maker(self) -> str:
        """The name of the tool that builds it: `uv` or `pip`."""
        return "uv" if self.uv else "pip"


def find_uv() -> str | None:
    """Return the path of uv: next to this Python, on PATH, or where quickstart.sh installed it; None without one."""
    sibling = Path(sys.executable).with_name("uv")
    for candidate in (sibling, Path(shutil.which("uv") or sibling), _BOOTSTRAP_UV):
        if os.access(candidate, os.X_OK):
            return str(candidate)
    return None


def uv_argv(uv: str) -> tuple[str, ...]:
    """Return how each command line of uv begins.

    uv reads a uv.toml or pyproject.toml in the current folder and above it, which another user may have written. It
    would name a package index for root.
    """
    return (uv, "--directory", "/")


def make_venv(folder: Path, python: Path) -> Venv:
    """Create an empty venv for that Python.

    Raises:
        CommandError: the venv module is missing, or the disk is full.
    """
    uv = find_uv()
    if uv:
        argv = (*uv_argv(uv), "venv", "--quiet", "--relocatable", "--python", str(python), str(folder))
        run(argv, environment=inherited_environment())
    else:
        argv = module_argv("venv", str(folder), python=str(python))
        run(argv, environment=inherited_environment(), hint=_VENV_HINT)
    return Venv(folder, uv)


def install_lock(
    venv: Venv, lock: Path, others: Path | None = None, given: Path | None = None, additions: Sequence[str] = ()
) -> None:
    """Install the packages of a lock by their hashes. Wheels only: a build would bring in tools that no hash pins.

    Args:
        venv: the venv to install into.
        lock: the lock.
        others: a folder with the wheels; None for the user's package index.
        given: a folder with wheels that the index need not have.
        additions: what the lock has in addition to what every release has.

    Raises:
        CommandError: a package can't be fetched, or doesn't match its hash.
    """
    sources = links_to(given) if others is None else ("--no-index", "--find-links", str(others))
    wanted = ("--require-hashes", "--only-binary", ":all:", *sources, "--requirement", str(lock))
    later = () if venv.uv else ("--no-compile",)
    bundle = "".join((_LOCK_HINT, *(f" --with {each}" for each in additions)))
    hint = bundle if others is None else "Fix that and run it again."
    run((*_install(venv), *later, *wanted), environment=index_environment(), timeout=_LONG, hint=hint)
    if not venv.uv:
        _compile(venv)


def _compile(venv: Venv) -> None:
    """Byte-compile on all processors, as uv does; pip uses one. Skips files that can't be compiled, as both do."""
    argv = (venv.python, "-I", "-m", "compileall", "-q", "-j", "0", str(venv.folder / "lib"))
    done = run(argv, check=False, timeout=_LONG)
    if done.returncode not in (0, 1):  # 1: a file is not valid for this version of Python
        raise CommandError(argv, done.returncode, done.stderr)


_LOCK_HINT = (
    "Is the package index reachable? PIP_INDEX_URL and UV_INDEX_URL name another one. An install from a bundle needs"
    " none. To make one elsewhere: litellmctl bundle"
)


def index_environment() -> dict[str, str]:
    """Return the caller's environment, which names package indexes. uv gets the folders that pip has as well."""
    found = inherited_environment()
    if "PIP_FIND_LINKS" in found and "UV_FIND_LINKS" not in found:
        found["UV_FIND_LINKS"] = found["PIP_FIND_LINKS"].replace(" ", ",")
    if "UV_FIND_LINKS" in found:
        # A relative path would begin at the folder of `uv_argv`.
        links = (each if ":" in each else str(Path(each).absolute()) for each in found["UV_FIND_LINKS"].split(","))
        found["UV_FIND_LINKS"] = ",".join(links)
    return found


def links_to(folder: Path | None) -> tuple[str, ...]:
    """Return options for uv or pip that add a folder of wheels to the user's package index."""
    if folder is None:
        return ()
    # For uv, options replace the variable.
    others = index_environment().get("UV_FIND_LINKS", "").split(",") if find_uv() else []
    return tuple(word for each in (str(folder), *filter(None, others)) for word in ("--find-links", each))


def install_wheel(venv: Venv, wheel: Path) -> None:
    """Install one wheel and nothing else."""
    wanted = ("--no-index", "--no-deps", str(wheel))
    run((*_install(venv), *wanted), environment=inherited_environment(), timeout=_LONG)


def _install(venv: Venv) -> tuple[str, ...]:
    if venv.uv:
        # Compile now, since the service can't write there; pip does so by default.
        # A hard link to uv's cache would carry a damage of the release into the cache, and so into its next build.
        argv = ("pip", "install", "--quiet", "--compile-bytecode", "--link-mode", "copy", "--python", venv.python)
        return (*uv_argv(venv.uv), *argv)
    return module_argv("pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", python=venv.python)


def install_argv(python: Path, scratch: Path) -> tuple[str, ...]:
    """Return the command line of `install` of uv or pip, for a `--target` folder."""
    if uv := find_uv():
        # Look for the newest version on the index, unless uv must not use the network.
        refresh = () if inherited_environment().get("UV_OFFLINE") else ("--refresh",)
        return (*uv_argv(uv), "pip", "install", "--quiet", "--python", str(python), *refresh)
    return (*pip_argv(python, scratch), "install", "--quiet")


def pip_argv(python: Path, scratch: Path) -> tuple[str, ...]:
    """Return the command line of pip: of this Python, otherwise of a scratch venv (a release built by uv has no pip).

    Raises:
        CommandError: the venv module is missing as well.
    """
    folder = scratch / "pip"
    if _has_pip():
        found = sys.executable
    else:
        if not folder.exists():
            argv = module_argv("venv", str(folder), python=str(python))
            run(argv, environment=inherited_environment(), hint=_VENV_HINT)
        found = str(folder / "bin" / "python")
    return module_argv("pip", "--disable-pip-version-check", "--no-input", python=found)


def _has_pip() -> bool:
    """Whether this Python has pip, other than in the home of the user, where an isolated Python does not look."""
    found = importlib.util.find_spec("pip")
    return found is not None and not Path(str(found.origin)).is_relative_to(site.getusersitepackages())


def make_movable(venv: Venv, final: str) -> None:
    """Replace the path of the venv in its files by the final one. (Scripts that uv wrote find their Python.)"""
    # uv's own lock file, which every user may write to. It has no use once uv has finished.
    (venv.folder / ".lock").unlink(missing_ok=True)
    before, after = str(venv.folder).encode(), final.encode()
    for path in (venv.folder / "pyvenv.cfg", *(venv.folder / "bin").iterdir()):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if before in content:
                path.write_bytes(content.replace(before, after))


def size_of(folder: Path) -> int:
    """Return the size of all files below a folder, in bytes."""
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
