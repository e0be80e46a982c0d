"""Binds this machine's Python and releases into a box.

Another release of Debian has no suitable Python. This one comes with its C library: patchelf gives its program the
host's loader and folder of libraries, under a path where nothing of the box's own finds them.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from box import Bind, Image

from litellm_systemd.box.image import quote, volumes

_RELEASES = Path("/opt/litellm-systemd/releases")
#: Where the host's loader and libraries are in the box.
_LIBRARIES = Path("/opt/hostlib")


def python_binds(folder: Path) -> tuple[Bind, ...]:
    """This machine's Python for a box of another Debian release. `folder`: where the patched program is written."""
    original = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    patched = folder / original.name
    patchelf = f"{sys.prefix}/bin/patchelf"
    found = subprocess.run((patchelf, "--print-interpreter", original), check=True, capture_output=True, text=True)
    loader = _LIBRARIES / Path(found.stdout.strip()).name
    # RPATH, not RUNPATH, because it also applies to libraries that are loaded later.
    argv = (patchelf, "--set-interpreter", loader, "--force-rpath", "--set-rpath", _LIBRARIES, "--output", patched)
    subprocess.run((*argv, original), check=True)
    patched.chmod(0o755)
    libraries = Path("/usr/lib") / str(sysconfig.get_config_var("MULTIARCH"))
    return (Bind(patched, original), Bind(Path(sysconfig.get_path("stdlib"))), Bind(libraries, _LIBRARIES))


def releases_bind(installed: Image) -> Bind:
    """The releases of an image of this machine, unchanged: an install in the box builds none."""
    volume = max((each for each in volumes(Path("/")) if _RELEASES.is_relative_to(each)), key=lambda each: each.parts)
    layer = next(iter(installed.layers))
    return Bind(layer / quote(volume) / _RELEASES.relative_to(volume), _RELEASES)
