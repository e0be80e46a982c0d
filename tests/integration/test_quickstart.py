"""quickstart.sh on machines where no systemd can run the service."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from litellm_systemd.releases.venvs import find_uv
from tests.bundle import REPOSITORY, own_bundle
from tests.integration.runtime_service import wait_for
from tests.ports import free_port

#: The capabilities that root lacks in an ordinary container.
WITHOUT_NAMESPACES = ("setpriv", "--bounding-set=-sys_admin,-sys_chroot", "--inh-caps=-sys_admin", "--")
#: A user without an entry in /etc/passwd, as with `docker run --user`.
USER = 54321
#: Below the folder of the fixture: where quickstart.sh installs, without root or namespaces.
DATA = "home/.local/share/litellm-systemd"
WITHOUT_ROOT = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--")


@pytest.fixture(scope="module")
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


def command(
    folder: Path, become: tuple[str, ...], environment: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command line and the whole environment of quickstart.sh."""
    given = {"PATH": f"{folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder / "home"), **environment}
    script = str(folder / "checkout/scripts/quickstart.sh")
    return (*become, script, "--bundle", str(folder / "bundle.tar"), "--env-file", str(folder / "my.env")), given


def interrupt(folder: Path, become: tuple[str, ...], number: int) -> None:
    """Run it, and send a signal to its process group, as a terminal does, while it installs packages."""
    argv, given = command(folder, become, {})
    bootstrap = folder / DATA / "bootstrap"
    venv = bootstrap / "pyvenv.cfg"
    # Each run makes the incomplete venv of the one before again.
    venv.unlink(missing_ok=True)
    with subprocess.Popen(argv, env=given, cwd="/", start_new_session=True, stderr=subprocess.DEVNULL) as process:
        wait_for("the packages", lambda: venv.exists() and any(bootstrap.glob("lib/*/site-packages/*.dist-info")))
        os.killpg(process.pid, number)
        assert process.wait(180) == -number
    if number != signal.SIGKILL:
        assert list((folder / DATA).glob(".*")) == []


def quickstart(folder: Path, become: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, list[str]]:
    """Run it without a network and with only these variables. Returns its standard output and the lines of
    its error.
    """
    argv, given = command(folder, become, environment)
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


def test_plain_user(folder: Path) -> None:
    """A user without root gets the release, checked units and a verified service below ~/.local and ~/.cache, also
    after interrupted runs, and the checkout does not change.
    """
    checkout = {path for path in (folder / "checkout").rglob("*") if path.name != "__pycache__"}
    become: tuple[str, ...] = ()
    if os.geteuid() == 0:
        become = WITHOUT_ROOT
        os.chown(folder / "home", USER, USER)
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        interrupt(folder, become, number)
    output, errors = quickstart(folder, become, {})
    assert_proven(output)
    assert errors[-1].startswith("* not available here: root")
    assert errors[-1].endswith("Run there: sudo ./scripts/quickstart.sh")
    assert (folder / "home/.local/share/litellm-systemd/root/etc/systemd/system/litellm.socket").is_file()
    assert (folder / "home/.local/state/litellm/litellm.log").is_file()
    assert {path.name for path in (folder / "home").iterdir()} == {".local", ".cache"}
    assert list((folder / DATA).glob(".*")) == []
    assert {path for path in (folder / "checkout").rglob("*") if path.name != "__pycache__"} == checkout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to take namespaces away from it")
def test_root_without_namespaces(folder: Path) -> None:
    """Root in a container without namespaces gets the same below the XDG folders; the last line names what is missing
    and what a host adds.
    """
    # Root has no other way to build a release, so it uses that of the user.
    subprocess.run(("chown", "-R", "0:0", str(folder / "home")), check=True)
    places = {"DATA": ".local/share", "STATE": ".local/state", "CACHE": ".cache"}
    xdg = {f"XDG_{name}_HOME": str(folder / "home" / place) for name, place in places.items()}
    (folder / "root").mkdir()
    xdg["HOME"] = str(folder / "root")
    installed = state_of(Path("/opt/litellm-systemd"))
    output, errors = quickstart(folder, WITHOUT_NAMESPACES, xdg)
    assert_proven(output)
    assert errors[-1].startswith("* not available here: systemd as PID 1, and namespaces for a container with one (")
    assert "unshare failed: Operation not permitted" in errors[-1]
    assert errors[-1].endswith("Run there: sudo ./scripts/quickstart.sh")
    root = folder / DATA / "root"
    assert (root / "etc/systemd/system/litellm.service").read_text(encoding="utf-8").startswith("# Written by")
    assert list((folder / "root").iterdir()) == []
    assert state_of(Path("/opt/litellm-systemd")) == installed


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
