"""The build backend (PEP 517, in-tree): setuptools, which leaves nothing in the source tree and is reproducible.

By itself setuptools writes `build` and an egg-info folder next to the sources. A later build takes modules from there
that were renamed or removed since.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  # the hooks that stay as they are

# Removed when the process ends: a frontend starts one for each hook.
_scratch = tempfile.TemporaryDirectory(prefix="litellm-systemd-build-")
_settings = Path(_scratch.name) / "extra.cfg"
_settings.write_text(
    f"[build]\nbuild_base = {_scratch.name}/build\n[egg_info]\negg_base = {_scratch.name}\n", encoding="utf-8"
)
os.environ["DIST_EXTRA_CONFIG"] = str(_settings)
# Modes in a wheel are those of the files that are copied for it.
os.umask(0o022)


def build_sdist(sdist_directory: str, config_settings: Mapping[str, str | list[str] | None] | None = None) -> str:
    """Build the source distribution; with SOURCE_DATE_EPOCH the same sources give the same bytes."""
    name: str = build_meta.build_sdist(sdist_directory, config_settings)
    _normalize(Path(sdist_directory) / name, int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    return name


def _normalize(path: Path, epoch: int) -> None:
    """Rewrite an archive: members sorted, of one instant, owned by root and without the umask of the checkout."""
    content = io.BytesIO()
    with tarfile.open(path) as source, tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as target:
        for member in sorted(source.getmembers(), key=lambda each: each.name):
            member.uid, member.gid, member.uname, member.gname = 0, 0, "root", "root"
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.mtime, member.pax_headers = epoch, {}
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
    with path.open("wb") as out, gzip.GzipFile("", "wb", fileobj=out, mtime=epoch) as packed:
        packed.write(content.getvalue())
