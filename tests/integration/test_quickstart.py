"""quickstart.sh on machines where no systemd can run the service."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from litellm_systemd.releases.venvs import find_uv
from tests.bundle import REPOSITORY, own_bundle
from tests.ports import free_port

#: The capabilities that root lacks in an ordinary container.
WITHOUT_NAMESPACES = ("setpriv", "--bounding-set=-sys_admin,-sys_chroot", "--inh-caps=-sys_admin", "--")
#: A user without an entry in /etc/passwd, as with `docker run --user`.
USER = 54321
WITHOUT_ROOT = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user can reach, with the files of the checkout, a bundle, a uv and a `.env`."""
    # pytest's own folder is accessible only to its owner.
    with tempfile.TemporaryDirectory(prefix="litellm-quickstart-") as name:
        made = Path(name)
        tracked = subprocess.run(
            ("git", "ls-files", "-z"), cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout
        for path in filter(None, tracked.split("\0")):
            target = made / "checkout" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if (REPOSITORY / path).is_file():
                shutil.copy(REPOSITORY / path, target)
        shutil.copy(own_bundle(), made / "bundle.tar")
        (made / "bin").mkdir()
        if uv := find_uv():
            shutil.copy(uv, made / "bin/uv")
        (made / "home").mkdir()
        (made / "my.env").write_text(f"PORT={free_port()}\nNUM_WORKERS=1\n", encoding="utf-8")
        subprocess.run(("chmod", "-R", "a+rX", name), check=True)
        yield made


def quickstart(folder: Path, become: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, list[str]]:
    """Run it without a network and with only these variables. Returns its standard output and the lines of
    its error.
    """
    given = {"PATH": f"{folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder / "home"), **environment}
    script = str(folder / "checkout/scripts/quickstart.sh")
    argv = (*become, script, "--bundle", str(folder / "bundle.tar"), "--env-file", str(folder / "my.env"))
    done = subprocess.run(argv, env=given, cwd="/", capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr.splitlines()


def assert_proven(output: str) -> None:
    """The release was built, the units were checked, and the service became ready, answered and stopped."""
    lines = [" ".join(line.split()) for line in output.splitlines()]
    first: tuple[str, ...] = (
        "ok release",
        "ok units",
        "ok start",
        "ok watchdog",
        "ok chat claude-sonnet-5-5 (/v1/chat/completions)",
    )
    if shutil.which("systemd-analyze") is None:
        first = tuple(name.replace("ok units", "- units") for name in first)
    for name in (*first, "ok stop"):
        assert any(line.startswith(name) for line in lines), output
    assert "READY=1" in output
    assert "WATCHDOG=1" in output
    assert "STOPPING=1, exit code 0" in output
    assert "13 checks passed" in lines[-1]


def state_of(path: Path) -> object:
    """Whether the folder exists, and when it was changed."""
    return (path.stat().st_mtime_ns, sorted(path.iterdir())) if path.exists() else None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to take namespaces away from it")
def test_root_without_namespaces(folder: Path) -> None:
    """Root in a container without namespaces gets the release, checked units and a verified service below the XDG
    folders; the last line names what is missing and what a host adds.
    """
    xdg = {f"XDG_{name}_HOME": str(folder / name) for name in ("DATA", "STATE", "CACHE")}
    installed = state_of(Path("/opt/litellm-systemd"))
    output, errors = quickstart(folder, WITHOUT_NAMESPACES, xdg)
    assert_proven(output)
    assert errors[-1].startswith("* not available here: systemd as PID 1, and namespaces for a container with one (")
    assert "unshare failed: Operation not permitted" in errors[-1]
    assert errors[-1].endswith("Run there: sudo ./scripts/quickstart.sh")
    root = folder / "DATA/litellm-systemd/root"
    assert (root / "etc/systemd/system/litellm.service").read_text(encoding="utf-8").startswith("# Written by")
    assert (folder / "STATE/litellm/litellm.log").is_file()
    assert list((folder / "home").iterdir()) == []
    assert state_of(Path("/opt/litellm-systemd")) == installed


def test_plain_user(folder: Path) -> None:
    """A user without root gets the same below ~/.local and ~/.cache, and the checkout does not change."""
    checkout = {path for path in (folder / "checkout").rglob("*") if path.name != "__pycache__"}
    become: tuple[str, ...] = ()
    if os.geteuid() == 0:
        become = WITHOUT_ROOT
        os.chown(folder / "home", USER, USER)
    output, errors = quickstart(folder, become, {})
    assert_proven(output)
    assert errors[-1].startswith("* not available here: root")
    assert errors[-1].endswith("Run there: sudo ./scripts/quickstart.sh")
    assert (folder / "home/.local/share/litellm-systemd/root/etc/systemd/system/litellm.socket").is_file()
    assert (folder / "home/.local/state/litellm/litellm.log").is_file()
    assert {path.name for path in (folder / "home").iterdir()} == {".local", ".cache"}
    assert {path for path in (folder / "checkout").rglob("*") if path.name != "__pycache__"} == checkout


def test_no_writable_folder(folder: Path) -> None:
    """Without root and without a writable folder, quickstart.sh fails with one line that says so."""
    script = str(folder / "checkout/scripts/quickstart.sh")
    become = WITHOUT_ROOT if os.geteuid() == 0 else ()
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/proc/none"}
    done = subprocess.run((*become, script), env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (74, "")
    [line] = done.stderr.splitlines()
    assert line == (
        f"quickstart.sh: /proc/none/.local/share is not writable. Set XDG_DATA_HOME or HOME, or run: sudo {script}"
    )
