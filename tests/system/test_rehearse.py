"""A rehearsal performs an install in a clone of the host, and the host does not change."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from box import Box, Image, Namespaces, wait_until
from box_images import REPOSITORY, install_environment
from service import chat, ctl, state
from test_install import snapshot, write_env
from test_transaction import mend_start, refuse_start
from tests.bundle import own_bundle
from tests.files import Files

from litellm_systemd.box.namespaces import STATE, find_cgroups
from litellm_systemd.box.processes import children

REHEARSE = (f"{sys.prefix}/bin/litellmctl", "rehearse")
TREES = ("/etc", "/opt/litellm-systemd", "/usr/local/bin")
#: Folders in which other programs write at any time: only paths with this name are ours.
VARIABLE, OURS = "/var/lib", "*litellm*"


def _files() -> Files:
    """Mode, owner, group, size and modification time of every path that an install may write on the host."""
    ours = [path for mine in Path(VARIABLE).glob(OURS) for path in (mine, *mine.rglob("*"))]
    found = Files()
    for path in (*(path for tree in TREES for path in Path(tree).rglob("*")), *ours):
        with contextlib.suppress(FileNotFoundError):  # a temporary file of another program
            facts = path.lstat()
            found[str(path)] = facts.st_mode, facts.st_uid, facts.st_gid, facts.st_size, facts.st_mtime_ns
    return found


def _rehearse(*arguments: str, cwd: Path = REPOSITORY, **environment: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        (*REHEARSE, *arguments, "--json", "--wait"),
        env={**os.environ, **install_environment(), **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    return done.returncode, json.loads(done.stdout)


def _named(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in report["checks"]}


# --- on this machine ---


def test_first_install(namespaces: Namespaces) -> None:
    """A first install is performed, verified and shown with its differences, and no file of the host changes."""
    before = _files()
    code, report = _rehearse("-c", "demo.yml")
    assert _files() == before
    assert code == 0, report
    checks = _named(report)
    assert checks["boot a clone"]["detail"] == "no service runs in it yet"
    assert checks["start litellm.service"]["outcome"] == "changed"
    assert checks["chat claude-sonnet-5-5 (/v1/chat/completions)"]["outcome"] == "ok"
    assert any("+++ /etc/systemd/system/litellm.service" in difference for difference in report["diffs"])
    assert any("ready" in line for line in report["data"]["journal"])
    assert "sk-" not in json.dumps(report)


def test_first_install_from_a_bundle(namespaces: Namespaces, tmp_path: Path) -> None:
    """With --bundle the clone installs from that file alone, in any folder, without a package index."""
    bundle = Path(shutil.copy(own_bundle(), tmp_path))  # below /tmp, which a clone does not share
    options = ("-c", "demo.yml", "--no-verify", "--bundle", bundle.name)
    code, report = _rehearse(*options, cwd=tmp_path, UV_CACHE_DIR=str(tmp_path / "no-cache"))
    assert code == 0, report
    checks = _named(report)
    assert any(name.startswith("build release ") for name in checks)
    assert checks["start litellm.service"]["outcome"] == "changed"
    assert "not rehearsed: package index" not in checks


def test_bundle_that_cannot_be_used(namespaces: Namespaces, tmp_path: Path) -> None:
    """An invalid bundle is refused at once, with the error of install, and no clone is created."""
    (tmp_path / "other.tar").write_text("no bundle", encoding="utf-8")
    code, report = _rehearse("-c", "demo.yml", "--bundle", "other.tar", cwd=tmp_path)
    assert (code, "other.tar" in report["error"]) == (78, True)


def test_env_that_cannot_be_read(namespaces: Namespaces, tmp_path: Path) -> None:
    """A .env that install refuses is refused at once, with the same message and exit code."""
    (tmp_path / ".env").write_text("PORT=many\nCONFIG_FILE=demo.yml\n", encoding="utf-8")
    code, report = _rehearse(cwd=tmp_path)
    assert code == 78
    assert ".env:1" in report["error"]


@pytest.fixture
def under_way(namespaces: Namespaces) -> Iterator[subprocess.Popen[str]]:
    """A rehearsal that has booted its clone and is installing."""
    argv = ("env", "--default-signal", *REHEARSE, "--wait", "-c", "demo.yml")
    environment = {**os.environ, **install_environment()}
    with subprocess.Popen(
        argv, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "build release" in line:
                break
        else:
            pytest.fail("".join(lines))
        yield process
        process.kill()


def _namespaces_of(process: subprocess.Popen[str]) -> tuple[str, int]:
    """The name of the namespaces that a process has open, and its keeper's pid."""
    for child in children(process.pid):
        names = re.findall(rb"litellm-boxes-[0-9a-f]{12}", Path(f"/proc/{child}/cmdline").read_bytes())
        if names:
            return names[0].decode(), child
    raise AssertionError("no namespaces is open")


def _pids_of(name: str) -> set[str]:
    lists = [found for group in find_cgroups(name) for found in group.rglob("cgroup.procs")]
    return {pid for found in lists for pid in found.read_text(encoding="ascii").split()}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_interrupted(under_way: subprocess.Popen[str], number: signal.Signals, code: int) -> None:
    """However a rehearsal is ended, its clone is removed, and the exit code is that of the signal."""
    name, _ = _namespaces_of(under_way)
    assert _pids_of(name)
    under_way.send_signal(number)
    assert under_way.wait(timeout=180) == code
    wait_until(lambda: not find_cgroups(name), 60, "processes and control groups are gone")
    wait_until(lambda: not list(STATE.glob(f"{name}*")), 30, "the lock is gone")


def test_cleaner_killed_too(under_way: subprocess.Popen[str], tmp_path: Path) -> None:
    """If the cleaner is killed too, the kernel ends the clone, and the next rehearsal removes the rest."""
    name, keeper = _namespaces_of(under_way)
    os.kill(keeper, signal.SIGKILL)
    under_way.kill()
    under_way.wait(timeout=60)
    wait_until(lambda: not _pids_of(name), 60, "the clone's processes are gone")
    # (The namespaces of a test that runs in parallel may have removed the rest already.)
    (tmp_path / ".env").write_text("PORT=many\n", encoding="utf-8")
    assert _rehearse(cwd=tmp_path)[0] == 78
    assert not find_cgroups(name)
    assert not list(STATE.glob(f"{name}*"))


def test_without_rights_to_mount(namespaces: Namespaces) -> None:
    """Root in a container without privileges gets an error that names what is missing, and nothing changes."""
    argv = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", *REHEARSE, "--wait", "-c", "demo.yml")
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 69, done.stderr
    assert "no systemd container can be made here" in done.stderr
    assert "--privileged" in done.stderr


# --- on a machine that has the service ---


@pytest.fixture(scope="module")
def machine(namespaces: Namespaces, installed_image: Image, measured: dict[str, Any]) -> Iterator[Box]:
    """A box with systemd, the service installed, and the privileges to create boxes of its own."""
    with Box(namespaces, installed_image, options=("--capability=all",), **measured) as opened:
        yield opened


def _on(machine: Box, *arguments: str) -> tuple[int, dict[str, Any], str]:
    argv = ("litellmctl", "rehearse", *arguments, "--json")
    done = machine.run(argv, env={"UV_OFFLINE": "1"}, check=False, timeout=600, cwd="/root")
    return done.returncode, json.loads(done.stdout), done.stderr


def test_change_of_a_running_service(machine: Box) -> None:
    """The clone runs the service as the host does; the change is shown there, and the host's service continues."""
    write_env(machine, "ACCESS_LOG=true\n")
    before, main = snapshot(machine), state(machine)["MainPID"]
    code, report, errors = _on(machine, "--env-file", "/root/.env")
    assert code == 0, (report, errors)
    checks = _named(report)
    assert checks["boot a clone"]["detail"] == "its service runs as on the host"
    assert checks["write /etc/litellm/litellm.env"]["outcome"] == "changed"
    assert "the service is restarted" in report["title"]
    assert any("+ACCESS_LOG" in difference for difference in report["diffs"])
    assert snapshot(machine) == before
    assert state(machine)["MainPID"] == main
    assert machine.run(("pgrep", "-x", "systemd-nspawn"), check=False).stdout == ""
    assert machine.run(("find", "/sys/fs/cgroup", "-name", "litellm-boxes-*")).stdout == ""
    assert chat(machine) == 200
    assert "nothing differs from what was installed" in ctl(machine, "diff")


def test_change_that_prevents_a_start(machine: Box) -> None:
    """A change that keeps the service from starting fails in the clone, with exit code, reason and last log lines."""
    refuse_start(machine)
    write_env(machine, "REFUSE=1\n")
    before = snapshot(machine)
    code, report, errors = _on(machine, "--env-file", "/root/.env")
    assert code == 69, (report, errors)
    assert "fails here with exit code 69" in report["title"]
    assert "All changes were undone" in _named(report)["install"]["hint"]
    assert any("The last" in note for note in report["notes"])
    assert snapshot(machine) == before
    assert chat(machine) == 200
    mend_start(machine)


def test_configuration_for_bedrock(machine: Box) -> None:
    """A configuration for Bedrock is rehearsed up to the model call, which is reported as not rehearsed."""
    write_env(machine, "AWS_REGION_NAME=eu-west-1\nCONFIG_FILE=iam_role_config.yml\n")
    code, report, errors = _on(machine, "--env-file", "/root/.env")
    assert code == 0, (report, errors)
    checks = _named(report)
    assert checks["not rehearsed: calls to models (Amazon Bedrock)"]["outcome"] == "skipped"
    assert checks["readiness"]["outcome"] == "ok"
    assert not [name for name in checks if name.startswith("chat ")]
