"""The images that boxes start from: this machine, with the service installed. For system tests and the benchmark."""

from __future__ import annotations

import os
import sys
from datetime import date
from pathlib import Path

from box import Box, Image
from tests.bundle import own_bundle

REPOSITORY = Path(__file__).resolve().parents[2]
#: The variables of uv's cache, which an installation without a network needs.
_CACHE_VARIABLES = ("UV_CACHE_DIR", "XDG_CACHE_HOME", "HOME")


def host_image() -> Image:
    """This machine's own root folder without an installation of this project.

    A checkout, a venv or a cache below /tmp is copied in: a box's /tmp is its own.
    """
    needed = (REPOSITORY, Path(sys.prefix), Path(os.environ.get("UV_CACHE_DIR", "/root/.cache/uv")))
    hidden = {path for path in needed if path.is_relative_to("/tmp") and path.is_dir()}
    return Image(copies=tuple(sorted(path for path in hidden if not hidden & set(path.parents))))


def install_environment() -> dict[str, str]:
    """Variables for `litellmctl install` in a box without a network: uv uses only its cache."""
    known = {name: os.environ[name] for name in _CACHE_VARIABLES if name in os.environ}
    return {**known, "UV_OFFLINE": "1"}


def install_demo(box: Box) -> None:
    """Run `litellmctl install -c demo.yml --bundle` of this checkout. Raises BoxError."""
    argv = (f"{sys.prefix}/bin/litellmctl", "install", "-c", "demo.yml", "--bundle", str(own_bundle()))
    # uv without the host's cache: only the bundle has packages.
    box.run(argv, env={"HOME": "/root", "UV_CACHE_DIR": "/var/tmp/uv"}, cwd=str(REPOSITORY), timeout=900)
    box.run(("rm", "-rf", "/var/tmp/uv"))
    renew_litellm(box)


def renew_litellm(box: Box) -> None:
    """Let every release say that its LiteLLM was published today: doctor reports an old one, and tests do not age."""
    edit = f's/("litellm_released": )"[^"]*"/\\1"{date.today()}"/'
    box.run(("sh", "-c", f"sed -Ei '{edit}' /opt/litellm-systemd/releases/*/release.json"))
