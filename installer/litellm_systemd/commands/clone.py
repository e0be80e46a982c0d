"""A clone of this host to rehearse in: what it has to see, and how it comes to the state that the host is in."""

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

#: A clone's own in any case: nothing below is copied as a whole.
_OWN = frozenset({Path("/"), Path("/tmp"), Path("/run"), Path("/var/tmp")})  # noqa: S108 - named, not used
#: What tells uv and pip where they find packages; the rest of the environment is none of the clone's business.
_TOOL_VARIABLES = ("UV_", "PIP_", "XDG_CACHE_HOME", "HOME", "SUDO_USER")


def make_clone(namespaces: Namespaces, inputs: Iterable[Path], cwd: Path) -> Box:
    """A clone of this host that isn't booted yet. `inputs` are files that the command line names.

    Raises:
        Unavailable: one of them is where no clone can see it.
    """
    folders, files = _sort(inputs, cwd)
    binds = tuple(Bind(path) for path in files if not any(path.is_relative_to(folder) for folder in folders))
    return Box(
        namespaces, Image(copies=folders, keeps_service=True), binds=binds, environment=build_environment(os.environ)
    )


def build_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for commands in the clone. It has no network: uv and pip are told so, or would try for minutes."""
    kept = {name: value for name, value in environ.items() if name.startswith(_TOOL_VARIABLES)}
    offline = {"UV_OFFLINE": "1", "PIP_RETRIES": "0", "AWS_EC2_METADATA_DISABLED": "true"}
    path = f"{Path(sys.executable).parent}:{environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
    return {**kept, "PATH": path, **offline}


def _sort(inputs: Iterable[Path], cwd: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """What a clone wouldn't see else: folders to copy, and files to show."""
    hidden = {path for path in (*inputs, cwd, *_needed(os.environ)) if path.exists() and is_hidden(path)}
    for path in hidden - _OWN:
        if path.is_relative_to("/run"):
            raise Unavailable(f"{path} can't be shown to a clone: its /run is its own", "Copy it somewhere else.")
    folders = outermost(path for path in hidden - _OWN if path.is_dir())
    return folders, tuple(sorted(path for path in hidden if not path.is_dir()))


def _needed(environ: Mapping[str, str]) -> Iterator[Path]:
    """Folders that litellmctl itself lives on: its venv and Python, the checkout, uv's and pip's caches."""
    yield from (Path(sys.prefix), Path(sys.base_prefix))
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    yield from (Path(environ.get(f"{tool.upper()}_CACHE_DIR") or cache / tool) for tool in ("uv", "pip"))
    try:
        origin = find_source().origin
    except InstallerError:
        return  # the clone will say so itself
    if isinstance(origin, Checkout):
        yield origin.folder


def boot_clone(clone: Box, layout: Layout) -> Check:
    """Boot, and bring the service to where it is on the host. Gives the line of the report.

    Raises:
        BoxError: it doesn't boot.
    """
    # A host's odd unit may well fail in a clone, and is none of our business.
    clone.boot(degraded=True, deadline=600)
    runs_here = is_booted() and Systemctl(layout).unit_state(SERVICE).is_active
    if runs_here and not _is_active(clone):
        clone.run(("systemctl", "start", SERVICE), check=False, timeout=600)
    if (runs_here or _is_enabled(clone)) and not _is_active(clone):
        hint = "The rehearsal goes on without; on the host it may be otherwise."
        return Check("boot a clone", Outcome.WARNING, f"the installed {SERVICE} doesn't come up in it", hint)
    state = "its service runs as here" if _is_active(clone) else "no service runs in it yet"
    return Check("boot a clone", Outcome.OK, state)


def _is_active(clone: Box) -> bool:
    return clone.run(("systemctl", "is-active", "--quiet", SERVICE), check=False).returncode == 0


def _is_enabled(clone: Box) -> bool:
    return clone.run(("systemctl", "is-enabled", "--quiet", SERVICE), check=False).returncode == 0
