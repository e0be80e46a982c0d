"""A second release for tests: a copy of the installed one, which is built in no time."""

from __future__ import annotations

from box import Box

#: Makes a copy of a release under another identifier, without later migrations, and with another version of LiteLLM.
_COPY = """
import json, pathlib, shutil, subprocess, sys
from litellm_systemd.releases.integrity import write_record
source, name, last, litellm = sys.argv[1:]
source = pathlib.Path("/opt/litellm-systemd/releases") / source
target = source.with_name(name)
subprocess.run(("cp", "-a", "--reflink=auto", source, target), check=True)
for path in (target / "bin").iterdir():
    if path.is_file() and not path.is_symlink() and path.stat().st_size < 10000:
        path.write_text(path.read_text().replace(source.name, name))
(migrations,) = target.glob("lib/python*/site-packages/litellm_proxy_extras/migrations")
for path in migrations.glob("2*"):
    if path.name[:8] > last:
        shutil.rmtree(path)
mark = json.loads((target / "release.json").read_text())
if litellm:
    (metadata,) = target.glob("lib/python*/site-packages/litellm-*.dist-info/METADATA")
    before, after = (f"\\nVersion: {version}\\n" for version in (mark["litellm"], litellm))
    metadata.write_text(metadata.read_text().replace(before, after, 1))
    mark["litellm"] = litellm
(target / "files.sha256").unlink()
mark |= {"identifier": name, "files": write_record(target)}
(target / "release.json").write_text(json.dumps(mark))
"""


def current(box: Box) -> str:
    """The identifier of the release that is in use."""
    return box.run(("readlink", "/opt/litellm-systemd/current")).stdout.strip().removeprefix("releases/")


def copy_release(box: Box, source: str, name: str, last: str, litellm: str = "") -> None:
    """Copy a release without the migrations after the date `last`, and with that version of LiteLLM in name."""
    box.run(("/opt/litellm-systemd/current/bin/python", "-c", _COPY, source, name, last, litellm), timeout=300)


def switch(box: Box, name: str) -> tuple[int, str]:
    """Let a release install itself, as an upgrade does. Returns the exit code and the output."""
    argv = (
        f"/opt/litellm-systemd/releases/{name}/bin/litellmctl",
        "install",
        "--installed",
        "--no-verify",
        "--verbose",
    )
    done = box.run(argv, check=False, timeout=300)
    return done.returncode, done.stdout + done.stderr
