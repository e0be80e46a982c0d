"""A clone of this host for a rehearsal: the files that it needs, and a service in the state of the host's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from litellm_systemd.box import Bind, Box, Image, Namespaces, is_hidden, outermost
from litellm_systemd.contract import SERVICE
from litellm_systemd.errors import InstallerError, Unavailable
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import is_booted
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.releases.source import Checkout, find_source
from litellm_systemd.report.report import Check, Outcome

#: A clone has its own: none of these is copied as a whole.
_OWN = frozenset({Path("/"), Path("/tmp"), Path("/run"), Path("/var/tmp")})  # noqa: S108 - named, not used
#: Variables by which uv and pip find packages; the clone gets no others.
_TOOL_VARIABLES = ("UV_", "PIP_", "XDG_CACHE_HOME", "HOME", "SUDO_USER")


def make_clone(namespaces: Namespaces, inputs: Iterable[Path], cwd: Path) -> Box:
    """A clone of this host, not booted yet. `inputs` are files that the command line names.

    Raises:
        Unavailable: one of them is in a folder that a clone can't show.
    """
    folders, files = _sort(inputs, cwd)
    binds = tuple(Bind(path) for path in files if not any(path.is_relative_to(folder) for folder in folders))
    return Box(
        namespaces, Image(copies=folders, keeps_service=True), binds=binds, environment=build_environment(os.environ)
    )


def build_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for commands in the clone. It has no network, so that uv and pip must not try for minutes."""
    kept = {name: value for name, value in environ.items() if name.startswith(_TOOL_VARIABLES)}
    offline = {"UV_OFFLINE": "1", "PIP_RETRIES": "0", "AWS_EC2_METADATA_DISABLED": "true"}
    path = f"{Path(sys.executable).parent}:{environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
    return {**kept, "PATH": path, **offline}


def _sort(inputs: Iterable[Path], cwd: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """What a clone can't see otherwise: folders to copy, and files to bind."""
    hidden = {path for path in (*inputs, cwd, *_needed(os.environ)) if path.exists() and is_hidden(path)}
    for path in hidden - _OWN:
        if path.is_relative_to("/run"):
            raise Unavailable(
                f"{path} can't be shown to a clone, which has its own /run", "Copy it to another folder."
            )
    folders = outermost(path for path in hidden - _OWN if path.is_dir())
    return folders, tuple(sorted(path for path in hidden if not path.is_dir()))


def _needed(environ: Mapping[str, str]) -> Iterator[Path]:
    """Folders that litellmctl itself needs: its venv and Python, the checkout, uv's and pip's caches."""
    yield from (Path(sys.prefix), Path(sys.base_prefix))
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    yield from (Path(environ.get(f"{tool.upper()}_CACHE_DIR") or cache / tool) for tool in ("uv", "pip"))
    try:
        origin = find_source().origin
    except InstallerError:
        return  # the install in the clone reports it
    if isinstance(origin, Checkout):
        yield origin.folder


def boot_clone(clone: Box, layout: Layout) -> Check:
    """Boot the clone, and start the service if it runs on the host. Returns the line of the report.

    Raises:
        BoxError: it doesn't boot.
    """
    # Other units of the host may fail in a clone, which does not matter here.
    clone.boot(degraded=True, deadline=600)
    runs_here = is_booted() and Systemctl(layout).unit_state(SERVICE).is_active
    if runs_here and not _is_active(clone):
        clone.run(("systemctl", "start", SERVICE), check=False, timeout=600)
    if (runs_here or _is_enabled(clone)) and not _is_active(clone):
        hint = "The rehearsal continues without it. On the host the service may start."
        return Check("boot a clone", Outcome.WARNING, f"the installed {SERVICE} doesn't start in it", hint)
    state = "its service runs as on the host" if _is_active(clone) else "no service runs in it yet"
    return Check("boot a clone", Outcome.OK, state)


def _is_active(clone: Box) -> bool:
    return clone.run(("systemctl", "is-active", "--quiet", SERVICE), check=False).returncode == 0


def _is_enabled(clone: Box) -> bool:
    return clone.run(("systemctl", "is-enabled", "--quiet", SERVICE), check=False).returncode == 0
