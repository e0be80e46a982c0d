"""Test a venv before it becomes a release."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from litellm_systemd import contract
from litellm_systemd.command import Result, minimal_environment, run, runtime_argv
from litellm_systemd.env.dotenv import parse_environment_file
from litellm_systemd.errors import InstallerError
from litellm_systemd.host.files import user_exists
from litellm_systemd.host.layout import Layout
from litellm_systemd.releases.requirements_lock import parse_lock, pinned_versions

_PROBE = """
import importlib.metadata, json, platform
import litellm_systemd.runtime, litellm_systemd.commands, uvicorn, packaging.markers, packaging.utils
found = importlib.metadata.distributions()
print(json.dumps({
    "python": platform.python_version(),
    "environment": packaging.markers.default_environment(),
    "versions": {packaging.utils.canonicalize_name(item.name): item.version for item in found},
}))
"""

#: As the service does it: without the network, and with the modules that it preloads.
_IMPORT = """
import os
from litellm_systemd.runtime.worker.litellm_adapter import preload
preload(os.environ)
"""

_REMEDY = "Run it again; if it fails again, report it."


@dataclass(frozen=True, slots=True)
class Trial:
    """The versions in the venv: of Python, and of each package."""

    python: str
    versions: Mapping[str, str]


def try_release(python: str, lock: str, version: str) -> Trial:
    """Import what the service and litellmctl import first, and compare each version with the lock.

    LiteLLM takes seconds to import: `try_configuration`, `try_import` or the start of the service does that.

    Args:
        python: the path of the release's Python.
        lock: the text of its lock.
        version: the version of this package.

    Raises:
        InstallerError: an import fails, or a version differs from the lock.
    """
    found: dict[str, Any] = json.loads(_try(python, _PROBE))
    versions = {str(name): str(value) for name, value in found["versions"].items()}
    wanted = pinned_versions(parse_lock(lock), found["environment"]) | {"litellm-systemd": version}
    for name, value in wanted.items():
        if versions.get(name) != value:
            raise InstallerError(
                f"the new release has {name} {versions.get(name, 'not at all')}, and the lock {value}", _REMEDY
            )
    return Trial(str(found["python"]), versions)


def try_import(python: str) -> None:
    """Import LiteLLM as the service does.

    Raises:
        InstallerError: the import fails.
    """
    _try(python, _IMPORT)


def _try(python: str, code: str) -> str:
    done = run((python, "-I", "-c", code), check=False, timeout=300)
    if done.returncode != 0:
        raise InstallerError(f"the new release doesn't work: {_last_line(done)}", _REMEDY)
    return done.stdout


def try_configuration(layout: Layout, python: str, say: Callable[[str], None]) -> bool:
    """Let the release load the installed configuration as the service's user does. Nothing is served.

    A configuration that the release in use can't load either doesn't count against the new one.

    Returns:
        Whether a configuration is installed.

    Raises:
        InstallerError: it can't be loaded, and the release in use can load it.
    """
    if not layout.is_host or not layout.real(layout.config_link).is_file():
        return False
    say(f"loading {layout.config_link} with the new release (some seconds)")
    failed = _check(layout, python)
    if failed is None:
        return True
    present = layout.real(layout.current) / "bin" / "python"
    if present.exists() and _check(layout, str(present)) is not None:
        say(f"{layout.config_link} doesn't load with the release in use either: {failed}")
        return True
    raise InstallerError(
        f"the new release can't load {layout.config_link}: {failed}",
        "The service was not touched. Fix the configuration, or keep the release in use.",
    )


def _check(layout: Layout, python: str) -> str | None:
    """Return why the runtime of that Python can't load the installed configuration, None if it can."""
    user = contract.SERVICE_USER
    become = (
        ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--") if user_exists(layout, user) else ()
    )
    argv = runtime_argv("check", "--config", layout.config_link, python=python)
    done = run((*become, *argv), check=False, environment=_service_environment(layout), timeout=600)
    return None if done.returncode == 0 else _last_line(done)


def _service_environment(layout: Layout) -> dict[str, str]:
    path = layout.real(layout.environment_file)
    given = parse_environment_file(path.read_bytes().decode(errors="replace")) if path.is_file() else {}
    # As in the unit.
    own = {"HOME": layout.state, "XDG_CACHE_HOME": layout.cache}
    return {**minimal_environment(), **own, **given}


def _last_line(done: Result) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"exit code {done.returncode}"]
    return re.sub(r"^<\d>", "", lines[-1])
