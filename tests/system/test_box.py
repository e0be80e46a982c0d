"""Boxes: the systemd containers that the other system tests run in."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import images
import pytest
from box import Bind, Box, BoxError, Image, Namespaces, end, wait_until

import litellm_systemd
from litellm_systemd.box.namespaces import CGROUP_PREFIX, STATE, find_cgroups

MakeBox = Callable[..., Box]
MODULE = (sys.executable, "-m", "litellm_systemd.box")
HERE = Path(__file__).parent


def unit(*service: str) -> str:
    """The text of a oneshot unit that can be enabled and stays active."""
    lines = ("[Service]", "Type=oneshot", "RemainAfterExit=yes", *service, "[Install]", "WantedBy=multi-user.target")
    return "\n".join(lines) + "\n"


# --- boot ---


def test_boots_without_a_failed_unit(box: Box) -> None:
    """A new box boots to the state `running` without a failed unit."""
    assert box.systemctl("is-system-running") == "running"
    assert box.systemctl("--failed", "--no-legend") == ""
    assert box.read("/proc/1/comm").strip() == "systemd"


@pytest.mark.parametrize(("suite", "version"), [("bullseye", "247"), ("trixie", "257")])
def test_boots_other_releases(
    make_box: MakeBox, debian_image: Callable[[str], Image], suite: str, version: str
) -> None:
    """Boxes boot with the oldest and the newest systemd that the units support."""
    other = make_box(debian_image(suite))
    assert other.systemctl("--version").split()[1] == version
    assert other.systemctl("is-system-running") == "running"
    other.reboot()
    assert other.systemctl("is-system-running") == "running"


def test_every_suite_is_tested() -> None:
    """Every Debian release that is built is booted by a test."""
    assert images.SUITES == ("bullseye", "trixie")


def test_host_services_do_not_start(box: Box) -> None:
    """A box enables no service of the host and does not contain an installation of this project."""
    links = box.run(("find", "/etc/systemd/system", "-type", "l", "!", "-name", "dbus*")).stdout
    assert links == ""
    assert not box.exists("/etc/litellm")
    assert box.run(("id", "litellm"), check=False).returncode != 0


def test_boxes_are_isolated(make_box: MakeBox) -> None:
    """Boxes that run at the same time share no control groups, services or machine id."""
    one, two = make_box(), make_box()
    for each in (one, two):
        each.write("/etc/systemd/system/same.service", "[Service]\nExecStart=sleep infinity\n")
        each.systemctl("start", "same.service")
    one.systemctl("stop", "same.service")
    assert two.show("same.service", "ActiveState")["ActiveState"] == "active"
    assert one.read("/etc/machine-id") != two.read("/etc/machine-id")


def test_failed_unit_fails_the_boot(make_box: MakeBox) -> None:
    """A boot with a failed unit raises an error that names the unit, unless `degraded` is true."""
    broken = make_box()
    broken.write("/etc/systemd/system/broken.service", unit("ExecStart=false"))
    broken.systemctl("enable", "broken.service")
    with pytest.raises(BoxError, match=r"broken\.service"):
        broken.reboot()
    assert not broken.running
    broken.boot(degraded=True)
    assert broken.show("broken.service", "Result") == {"Result": "exit-code"}


# --- commands ---


def test_input_output_and_exit_code(box: Box) -> None:
    """A command gets its input, and its standard output, standard error and exit code are returned."""
    done = box.run(("sh", "-c", "cat; echo wrong >&2; exit 7"), input="héllo", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "héllo", "wrong\n")


def test_failed_command(box: Box) -> None:
    """The error about a failed command contains the command, its exit code and its output."""
    with pytest.raises(BoxError) as caught:
        box.run(("sh", "-c", "echo out; echo err >&2; exit 3"))
    assert all(part in str(caught.value) for part in ("exit 3", "exit code 3", "out", "err"))


def test_command_timeout(box: Box) -> None:
    """A command that exceeds its timeout is killed with its children, and the box can power off at once."""
    with pytest.raises(BoxError, match="still running after"):
        box.run(("sh", "-c", "echo started; sleep 4711 & sleep 4711"), timeout=3)
    assert box.run(("pgrep", "-f", "sleep 4711"), check=False).stdout == ""
    after_kill = measure_poweroff(box)
    box.boot()
    # systemd-shutdown(8) waits ten seconds for a process that does not exit. A busy machine takes some for any box.
    assert after_kill < measure_poweroff(box) + 8


def measure_poweroff(box: Box) -> float:
    """The seconds in which the box powers off."""
    begin = time.monotonic()
    box.poweroff()
    return time.monotonic() - begin


def test_end(box: Box) -> None:
    """`end` kills a command that runs in the background."""
    process = box.popen(("sh", "-c", "echo ready; exec sleep 4712"))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    end(process)
    assert process.returncode is not None
    assert box.run(("pgrep", "-f", "sleep 4712"), check=False).stdout == ""


def test_user_folder_and_environment(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command runs with the given user, folder and environment, without the environment of the caller."""
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-of-the-host")
    script = 'id -un; pwd; echo "$GREETING"; env'
    done = box.run(("sh", "-c", script), user="nobody:nogroup", cwd="/usr", env={"GREETING": "a  b"})
    assert done.stdout.splitlines()[:3] == ["nobody", "/usr", "a  b"]
    assert "sk-of-the-host" not in done.stdout


def test_units_and_journal(box: Box) -> None:
    """`show` returns the properties of a unit and `journal` its messages."""
    box.write("/etc/systemd/system/speak.service", unit("ExecStart=echo hello from the box"))
    box.systemctl("start", "speak.service")
    expected = {"ActiveState": "active", "SubState": "exited"}
    assert box.show("speak.service", "ActiveState", "SubState") == expected
    assert "hello from the box" in box.journal("speak.service").splitlines()
    assert "hello" not in box.journal("dbus.service")


def test_wait_until_timeout(box: Box) -> None:
    """A wait that times out raises an error with its description and the end of the journal."""
    box.run(("logger", "a trace in the journal"))
    with pytest.raises(BoxError, match="a condition") as caught:
        box.wait_until(lambda: False, 0.1, "a condition")
    assert "a trace in the journal" in str(caught.value)


# --- files ---


def test_write_and_read(box: Box) -> None:
    """A written file has the given content, mode and owner."""
    box.write("/etc/deep/er/file", "línea\n", 0o640, "root:daemon")
    assert box.read("/etc/deep/er/file") == "línea\n"
    assert box.run(("stat", "-c", "%a %U:%G", "/etc/deep/er/file")).stdout == "640 root:daemon\n"
    assert box.exists("/etc/deep/er")
    assert not box.exists("/etc/deep/er/other")


@pytest.mark.parametrize("folder", ["/etc", "/usr/local/bin", "/var/tmp", "/tmp", "/root", "/run", "/opt"])
def test_changes_stay_in_the_box(box: Box, folder: str) -> None:
    """A file that is written in a box does not appear on the host."""
    path = f"{folder}/written-in-{box.namespaces.name}"
    box.write(path, "x")
    assert box.exists(path)
    assert not Path(path).exists()


def test_binds(make_box: MakeBox, tmp_path: Path) -> None:
    """A bound folder is that of the host, read-only unless the bind is writable."""
    for name in ("read-only", "write:able"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("host", encoding="utf-8")
    binds = (
        Bind(tmp_path / "read-only", Path("/srv/read-only")),
        Bind(tmp_path / "write:able", Path("/srv/writable"), writable=True),
    )
    bound = make_box(binds=binds)
    assert bound.read("/srv/read-only/file") == "host"
    with pytest.raises(BoxError, match="Read-only"):
        bound.write("/srv/read-only/file", "box")
    bound.write("/srv/writable/file", "box")
    assert (tmp_path / "write:able" / "file").read_text(encoding="utf-8") == "box"


def test_submounts_are_copied(namespaces: Namespaces) -> None:
    """A folder on a separate file system, such as /home on another disk, is copied too."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        source, point = Path(scratch) / "source", Path(scratch) / "point"
        source.mkdir()
        point.mkdir()
        (source / "file").write_text("disk", encoding="utf-8")
        inside = f"cat {point}/file && echo box >{point}/file && cat {point}/file"
        script = f"mount --bind {source} {point} && exec {' '.join(MODULE)} exec -- sh -c '{inside}'"
        argv = ("unshare", "--mount", "sh", "-c", script)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "diskbox\n", "")
        assert (source / "file").read_text(encoding="utf-8") == "disk"


def test_copies(make_box: MakeBox, tmp_path: Path) -> None:
    """A folder of the host in /tmp can be copied into a box, and its changes are saved with the box."""
    (tmp_path / "file").write_text("host", encoding="utf-8")
    copied = make_box(Image(copies=(tmp_path,)))
    assert copied.read(tmp_path / "file") == "host"
    copied.write(tmp_path / "file", "box")
    assert make_box(copied.save()).read(tmp_path / "file") == "box"
    assert (tmp_path / "file").read_text(encoding="utf-8") == "host"
    assert not make_box().exists(tmp_path)


# --- network ---


@pytest.fixture
def host_port() -> Iterator[int]:
    """A port on which a server listens on the loopback interface of the host."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_private_network(box: Box, host_port: int) -> None:
    """A box has only a loopback interface and can connect neither to the host nor to other machines."""
    interfaces = [line.split(":")[0].strip() for line in box.read("/proc/net/dev").splitlines()[2:]]
    assert interfaces == ["lo"]
    with pytest.raises(ConnectionRefusedError):
        box.connect("127.0.0.1", host_port)
    with pytest.raises(OSError, match="unreachable"):
        box.connect("192.0.2.1", 80)  # an address for documentation (RFC 5737)


def test_host_network(make_box: MakeBox, host_port: int) -> None:
    """With network="host" a box uses the network and the resolver of the host."""
    shared = make_box(network="host")
    shared.connect("127.0.0.1", host_port).close()
    assert shared.read("/etc/resolv.conf") == Path("/etc/resolv.conf").read_text(encoding="utf-8")


def test_http_into_the_box(box: Box) -> None:
    """A test can send HTTP requests to a server in a box, and its own process stays in the network of the host."""
    box.write("/srv/www/answer.json", '{"answer": 42}')
    argv = ("python3", "-m", "http.server", "--bind", "127.0.0.1", "8123")
    before = Path("/proc/thread-self/ns/net").readlink()
    server = box.popen(argv, cwd="/srv/www")

    def listening() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            box.connect("127.0.0.1", 8123).close()
            return True
        return False

    try:
        box.wait_until(listening, 30, "a server listens")
        answer = box.http("GET", "http://127.0.0.1:8123/answer.json?x=1")
        assert (answer.status, answer.json(), answer.headers["Content-type"]) == (
            200,
            {"answer": 42},
            "application/json",
        )
        assert box.http("POST", "http://127.0.0.1:8123/", body={"a": 1}).status == 501
    finally:
        end(server)
    assert Path("/proc/thread-self/ns/net").readlink() == before


# --- power ---


def test_reboot(box: Box) -> None:
    """A reboot keeps files, enabled services and the journal of the previous boot."""
    box.write("/etc/systemd/system/kept.service", unit("ExecStart=echo up"))
    box.systemctl("enable", "kept.service")
    assert box.systemctl("is-active", "kept.service", check=False) == "inactive"
    box.run(("logger", "before the reboot"))
    boot_id = box.read("/proc/sys/kernel/random/boot_id")
    box.reboot()
    assert box.read("/proc/sys/kernel/random/boot_id") != boot_id
    assert box.systemctl("is-active", "kept.service") == "active"
    assert "before the reboot" in box.journal(None, "--boot=-1")
    assert "before the reboot" not in box.journal(None, "--boot=0")


def test_poweroff_stops_services_and_kill_does_not(box: Box) -> None:
    """`poweroff` stops services, `kill` does not, and both keep the files."""
    box.write("/etc/systemd/system/last.service", unit("ExecStart=true", "ExecStop=touch /var/stopped"))
    box.systemctl("enable", "--now", "last.service")
    box.kill()
    box.boot()
    assert box.exists("/etc/systemd/system/last.service")
    assert not box.exists("/var/stopped")
    box.reboot()
    assert box.exists("/var/stopped")


def test_powered_off(box: Box) -> None:
    """A box that is powered off accepts no commands, and a second `kill` has no effect."""
    box.kill()
    box.kill()
    assert not box.running
    with pytest.raises(BoxError, match="powered off"):
        box.run(("true",))


def test_save(namespaces: Namespaces, make_box: MakeBox) -> None:
    """Boxes that start from a saved box contain its changes and do not see each other's changes."""
    first = make_box()
    first.write("/etc/step", "1")
    first.run(("rm", "/etc/fstab"), check=False)
    image = first.save()
    one, two = make_box(image), make_box(image)
    assert not one.exists("/etc/fstab")
    one.write("/etc/step", "one")
    assert two.read("/etc/step") == "1"
    assert make_box(one.save()).read("/etc/step") == "one"
    assert make_box(image).read("/etc/step") == "1"


# --- cleanup ---


def _processes_in(namespace: str) -> list[int]:
    """The pids, on the host, of the processes in a PID namespace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((process / "ns/pid").readlink()) == namespace:
                found.append(int(process.name))
    return found


def test_close_removes_everything(namespaces: Namespaces) -> None:
    """Closed namespaces leave no mounts, processes, control groups or lock files on the host."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    before = sorted(Path("/run/systemd").glob("nspawn/**/*"))
    with Namespaces() as other, Box(other) as short:
        namespace = str(Path(f"/proc/{short.leader}/ns/pid").readlink())
        assert _processes_in(namespace)
        assert find_cgroups(other.name)
        assert Path("/proc/self/mountinfo").read_text(encoding="utf-8") == mounts
    assert _processes_in(namespace) == []
    assert find_cgroups(other.name) == []
    assert not list(STATE.glob(f"{other.name}*"))
    assert sorted(Path("/run/systemd").glob("nspawn/**/*")) == before


@pytest.fixture
def owner(namespaces: Namespaces) -> Iterator[subprocess.Popen[str]]:
    """Another process with a booted box. It prints the names of the namespaces and the pid of their keeper."""
    script = """
        import signal, sys
        # A shell starts background jobs with SIGINT ignored, and their children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from pathlib import Path
        from litellm_systemd.box import Box, Namespaces
        with Namespaces() as namespaces, Box(namespaces) as box:
            print(namespaces.name, Path(f"/proc/{box.leader}/ns/pid").readlink(), namespaces._keeper.pid, flush=True)
            sys.stdin.read()
    """
    argv = (sys.executable, "-c", textwrap.dedent(script))
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def _first_line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert len(words) == 3, process.stderr.read() if process.stderr else ""
    return words


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_killed_owner(owner: subprocess.Popen[str], number: signal.Signals) -> None:
    """If the process that created a box is killed, the box and its control groups are removed."""
    name, namespace, _ = _first_line(owner)
    owner.send_signal(number)
    owner.wait(timeout=60)
    wait_until(lambda: not _processes_in(namespace), 30, "the box's processes are gone")
    wait_until(lambda: not find_cgroups(name), 30, "the control groups are gone")
    wait_until(lambda: not list(STATE.glob(f"{name}*")), 30, "the lock is gone")


def test_killed_keeper(owner: subprocess.Popen[str]) -> None:
    """If the keeper is killed too, the kernel ends the box, and the next namespaces remove the control groups."""
    name, namespace, keeper = _first_line(owner)
    os.kill(int(keeper), signal.SIGKILL)
    owner.kill()
    owner.wait(timeout=60)
    wait_until(lambda: not _processes_in(namespace), 30, "the box's processes are gone")
    # Namespaces of a test that runs in parallel may have removed them already.
    with Namespaces():
        assert not find_cgroups(name)
        assert not list(STATE.glob(f"{name}*"))


def test_leftovers_with_processes(namespaces: Namespaces) -> None:
    """Leftover control groups that still have processes are removed later, when the processes have exited."""
    name = f"{CGROUP_PREFIX}000000000000"
    group, lock = namespaces.cgroups[0].with_name(name), STATE / f"{name}.lock"
    group.mkdir()
    lock.touch()
    with subprocess.Popen(("sleep", "60")) as process:
        (group / "cgroup.procs").write_text(str(process.pid), encoding="ascii")
        with Namespaces():
            assert lock.exists()
        process.kill()
    with Namespaces():
        assert not lock.exists()
        assert not find_cgroups(name)


def test_failed_boot(namespaces: Namespaces) -> None:
    """A box that cannot boot raises an error with the cause and leaves no control group."""
    broken = Box(namespaces, options=("--no-such-option",))
    with pytest.raises(BoxError, match="no-such-option"), broken:
        pass
    assert not broken.running
    assert not [folder for folder in namespaces.cgroups if (folder / broken.name).exists()]


def test_delegated_control_groups(make_box: MakeBox) -> None:
    """On a machine with systemd, which is a box here, boxes use delegated control groups and remove them."""
    machine = make_box(options=("--capability=all",))
    argv = (*MODULE, "exec", "--", "systemctl", "is-system-running")
    assert machine.run(argv).stdout == "running\n"
    assert machine.run(("find", "/sys/fs/cgroup", "-name", "litellm-boxes-*")).stdout == ""
    # The kernel notifies systemd a little later.
    scopes = ("list-units", "--type=scope", "--no-legend", "run-*")
    machine.wait_until(lambda: machine.systemctl(*scopes) == "", 30, "the scope is gone")


# --- the command line ---


def _cli(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    argv = (*MODULE, *arguments)
    return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=120, check=False, cwd=HERE)


def test_exec(namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """`exec` passes on input, output, environment, working folder and exit code."""
    monkeypatch.setenv("GREETING", "hola")
    script = 'cat; echo "$GREETING"; pwd; cat /proc/1/comm; echo wrong >&2; exit 9'
    done = _cli("exec", "--", "sh", "-c", script, text="in\n")
    assert done.stdout.splitlines() == ["in", "hola", str(HERE), "systemd"]
    assert (done.returncode, done.stderr) == (9, "wrong\n")


def test_exec_without_root() -> None:
    """Without root `exec` fails with an error that says so."""
    if os.geteuid() != 0:
        pytest.skip("needs root to stop being root")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        Path(scratch).chmod(0o755)  # only root may be able to read the checkout
        shutil.copytree(Path(litellm_systemd.__file__).parent, Path(scratch, "litellm_systemd"))
        as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        argv = (*as_nobody, str(Path(sys.executable).resolve()), "-m", "litellm_systemd.box", "exec", "--", "true")
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=scratch)
    assert done.returncode == 77
    assert done.stderr.startswith("box: systemd containers need root\nbox: Run: sudo ")
