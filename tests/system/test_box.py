"""The boxes themselves: what every other test on a real systemd leans on."""

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
    """A unit that is wanted at boot and stays active."""
    lines = ("[Service]", "Type=oneshot", "RemainAfterExit=yes", *service, "[Install]", "WantedBy=multi-user.target")
    return "\n".join(lines) + "\n"


# --- a sound machine ---


def test_boots_without_a_failed_unit(box: Box) -> None:
    """A fresh box is a machine that systemd itself calls sound."""
    assert box.systemctl("is-system-running") == "running"
    assert box.systemctl("--failed", "--no-legend") == ""
    assert box.read("/proc/1/comm").strip() == "systemd"


@pytest.mark.parametrize(("suite", "version"), [("bullseye", "247"), ("trixie", "257")])
def test_boots_other_releases(
    make_box: MakeBox, debian_image: Callable[[str], Image], suite: str, version: str
) -> None:
    """The oldest and the newest systemd that we write units for boot in the same way."""
    other = make_box(debian_image(suite))
    assert other.systemctl("--version").split()[1] == version
    assert other.systemctl("is-system-running") == "running"
    other.reboot()
    assert other.systemctl("is-system-running") == "running"


def test_every_suite_is_tested() -> None:
    """No release is built that no test boots."""
    assert images.SUITES == ("bullseye", "trixie")


def test_starts_none_of_the_hosts_services(box: Box) -> None:
    """What is enabled on this machine is not enabled in a box, and no installation of ours shines through."""
    links = box.run(("find", "/etc/systemd/system", "-type", "l", "!", "-name", "dbus*")).stdout
    assert links == ""
    assert not box.exists("/etc/litellm")
    assert box.run(("id", "litellm"), check=False).returncode != 0


def test_two_boxes_are_two_machines(make_box: MakeBox) -> None:
    """Boxes that run at the same time share neither control groups nor processes nor identity."""
    one, two = make_box(), make_box()
    for each in (one, two):
        each.write("/etc/systemd/system/same.service", "[Service]\nExecStart=sleep infinity\n")
        each.systemctl("start", "same.service")
    one.systemctl("stop", "same.service")
    assert two.show("same.service", "ActiveState")["ActiveState"] == "active"
    assert one.read("/etc/machine-id") != two.read("/etc/machine-id")


def test_a_failed_unit_fails_the_boot(make_box: MakeBox) -> None:
    """A boot that leaves a failed unit behind raises an error that names it, unless the test allows for that."""
    broken = make_box()
    broken.write("/etc/systemd/system/broken.service", unit("ExecStart=false"))
    broken.systemctl("enable", "broken.service")
    with pytest.raises(BoxError, match=r"broken\.service"):
        broken.reboot()
    assert not broken.running
    broken.boot(degraded=True)
    assert broken.show("broken.service", "Result") == {"Result": "exit-code"}


# --- commands ---


def test_output_input_and_exit_code(box: Box) -> None:
    """A command gets its input, and its output, its errors and its exit code come back apart."""
    done = box.run(("sh", "-c", "cat; echo wrong >&2; exit 7"), input="héllo", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "héllo", "wrong\n")


def test_a_failing_command_raises(box: Box) -> None:
    """The error of a failed command says what was run, how it ended and what it wrote."""
    with pytest.raises(BoxError) as caught:
        box.run(("sh", "-c", "echo out; echo err >&2; exit 3"))
    assert all(part in str(caught.value) for part in ("exit 3", "exit code 3", "out", "err"))


def test_a_command_that_hangs_is_killed(box: Box) -> None:
    """When the time is up, the command and its children are gone, and the box can still power off at once."""
    with pytest.raises(BoxError, match="still running after"):
        box.run(("sh", "-c", "echo started; sleep 4711 & sleep 4711"), timeout=3)
    assert box.run(("pgrep", "-f", "sleep 4711"), check=False).stdout == ""
    box.poweroff(deadline=8)  # systemd-shutdown(8) waits ten seconds for a process that won't go


def test_a_command_can_be_ended(box: Box) -> None:
    """`end` stops a command that runs in the background."""
    process = box.popen(("sh", "-c", "echo ready; exec sleep 4712"))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    end(process)
    assert process.returncode is not None
    assert box.run(("pgrep", "-f", "sleep 4712"), check=False).stdout == ""


def test_user_folder_and_environment(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command runs as whom, where and with what the test says, and sees nothing of the caller's environment."""
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-of-the-host")
    script = 'id -un; pwd; echo "$GREETING"; env'
    done = box.run(("sh", "-c", script), user="nobody:nogroup", cwd="/usr", env={"GREETING": "a  b"})
    assert done.stdout.splitlines()[:3] == ["nobody", "/usr", "a  b"]
    assert "sk-of-the-host" not in done.stdout


def test_units_and_journal(box: Box) -> None:
    """Properties come as a dictionary, and the journal of a unit as its lines."""
    box.write("/etc/systemd/system/speak.service", unit("ExecStart=echo hello from the box"))
    box.systemctl("start", "speak.service")
    wanted = {"ActiveState": "active", "SubState": "exited"}
    assert box.show("speak.service", "ActiveState", "SubState") == wanted
    assert "hello from the box" in box.journal("speak.service").splitlines()
    assert "hello" not in box.journal("dbus.service")


def test_waiting_ends(box: Box) -> None:
    """Waiting for what never comes ends in an error that names it and shows the journal."""
    box.run(("logger", "a trace in the journal"))
    with pytest.raises(BoxError, match="the moon is blue") as caught:
        box.wait_until(lambda: False, 0.1, "the moon is blue")
    assert "a trace in the journal" in str(caught.value)


# --- files ---


def test_files_have_mode_and_owner(box: Box) -> None:
    """A written file can be read back, with the mode and owner that were asked for."""
    box.write("/etc/deep/er/file", "línea\n", 0o640, "root:daemon")
    assert box.read("/etc/deep/er/file") == "línea\n"
    assert box.run(("stat", "-c", "%a %U:%G", "/etc/deep/er/file")).stdout == "640 root:daemon\n"
    assert box.exists("/etc/deep/er")
    assert not box.exists("/etc/deep/er/other")


@pytest.mark.parametrize("folder", ["/etc", "/usr/local/bin", "/var/tmp", "/tmp", "/root", "/run", "/opt"])
def test_changes_stay_in_the_box(box: Box, folder: str) -> None:
    """Nothing that is written in a box reaches the host, wherever it is written."""
    path = f"{folder}/written-in-{box.namespaces.name}"
    box.write(path, "x")
    assert box.exists(path)
    assert not Path(path).exists()


def test_binds_show_the_hosts_files(make_box: MakeBox, tmp_path: Path) -> None:
    """A bound folder is the host's own: read-only unless it is made writable."""
    for name in ("look", "touch:me"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("host", encoding="utf-8")
    binds = (
        Bind(tmp_path / "look", Path("/srv/look")),
        Bind(tmp_path / "touch:me", Path("/srv/touch"), writable=True),
    )
    bound = make_box(binds=binds)
    assert bound.read("/srv/look/file") == "host"
    with pytest.raises(BoxError, match="Read-only"):
        bound.write("/srv/look/file", "box")
    bound.write("/srv/touch/file", "box")
    assert (tmp_path / "touch:me" / "file").read_text(encoding="utf-8") == "box"


def test_other_file_systems_are_copied_too(namespaces: Namespaces) -> None:
    """A folder that is a mount of its own (a /home or /usr on another disk) is in the box, and a copy as well."""
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


def test_a_copy_of_a_folder_in_tmp(make_box: MakeBox, tmp_path: Path) -> None:
    """/tmp is a box's own; a folder in it that the test needs can be copied in, and its changes can be saved."""
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
    """A port that something on the host's loopback listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_loopback_is_the_whole_network(box: Box, host_port: int) -> None:
    """A box has no interface but loopback, and reaches neither the host nor anything beyond."""
    interfaces = [line.split(":")[0].strip() for line in box.read("/proc/net/dev").splitlines()[2:]]
    assert interfaces == ["lo"]
    with pytest.raises(ConnectionRefusedError):
        box.connect("127.0.0.1", host_port)
    with pytest.raises(OSError, match="unreachable"):
        box.connect("192.0.2.1", 80)  # RFC 5737: nobody's address


def test_the_hosts_network_on_request(make_box: MakeBox, host_port: int) -> None:
    """With network="host" a box sees what the host sees, its resolver included."""
    shared = make_box(network="host")
    shared.connect("127.0.0.1", host_port).close()
    assert shared.read("/etc/resolv.conf") == Path("/etc/resolv.conf").read_text(encoding="utf-8")


def test_http_into_the_box(box: Box) -> None:
    """A test speaks HTTP to a server in the box without leaving its own process, and this process stays outside."""
    box.write("/srv/www/answer.json", '{"answer": 42}')
    argv = ("python3", "-m", "http.server", "--bind", "127.0.0.1", "8123")
    here = Path("/proc/thread-self/ns/net").readlink()
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
    assert Path("/proc/thread-self/ns/net").readlink() == here


# --- power ---


def test_a_reboot_keeps_changes(box: Box) -> None:
    """Files, enabled services and the journal of the boot before outlive a reboot; processes don't."""
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
    """Powering off runs what a service does at its end; pulling the plug runs nothing, and loses no file."""
    box.write("/etc/systemd/system/last.service", unit("ExecStart=true", "ExecStop=touch /var/last-words"))
    box.systemctl("enable", "--now", "last.service")
    box.kill()
    box.boot()
    assert box.exists("/etc/systemd/system/last.service")
    assert not box.exists("/var/last-words")
    box.reboot()
    assert box.exists("/var/last-words")


def test_off_means_off(box: Box) -> None:
    """Commands to a box without power are refused, pulling the plug twice is harmless."""
    box.kill()
    box.kill()
    assert not box.running
    with pytest.raises(BoxError, match="powered off"):
        box.run(("true",))


def test_a_saved_box_can_be_forked(namespaces: Namespaces, make_box: MakeBox) -> None:
    """What a box changed is the start of any number of others, and they don't see one another's changes."""
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


# --- what is left on the host ---


def _inhabitants(namespace: str) -> list[int]:
    """The processes of the host that live in a PID namespace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((process / "ns/pid").readlink()) == namespace:
                found.append(int(process.name))
    return found


def test_a_closed_namespaces_leaves_nothing(namespaces: Namespaces) -> None:
    """Mounts, processes, control groups and locks are gone when the namespaces are closed, and nothing is in /run."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    traces = sorted(Path("/run/systemd").glob("nspawn/**/*"))
    with Namespaces() as other, Box(other) as short:
        namespace = str(Path(f"/proc/{short.leader}/ns/pid").readlink())
        assert _inhabitants(namespace)
        assert find_cgroups(other.name)
        assert Path("/proc/self/mountinfo").read_text(encoding="utf-8") == mounts
    assert _inhabitants(namespace) == []
    assert find_cgroups(other.name) == []
    assert not list(STATE.glob(f"{other.name}*"))
    assert sorted(Path("/run/systemd").glob("nspawn/**/*")) == traces


@pytest.fixture
def holder(namespaces: Namespaces) -> Iterator[subprocess.Popen[str]]:
    """Another process with a booted box; its first line names the namespaces and the PID namespace of the box."""
    script = """
        import signal, sys
        # A shell starts its background jobs with SIGINT ignored, and so would be whatever runs in this one.
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
    ) as it:
        yield it
        it.kill()


def _first_line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert len(words) == 3, process.stderr.read() if process.stderr else ""
    return words


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_nothing(holder: subprocess.Popen[str], number: signal.Signals) -> None:
    """However the process that made a box ends, its box ends as well and its control groups go."""
    name, namespace, _ = _first_line(holder)
    holder.send_signal(number)
    holder.wait(timeout=60)
    wait_until(lambda: not _inhabitants(namespace), 30, "the box's processes are gone")
    wait_until(lambda: not find_cgroups(name), 30, "the control groups are gone")
    wait_until(lambda: not list(STATE.glob(f"{name}*")), 30, "the lock is gone")


def test_the_next_namespaces_clears_away(holder: subprocess.Popen[str]) -> None:
    """When even the cleaner is killed, the kernel ends the box and the next namespaces removes the rest."""
    name, namespace, keeper = _first_line(holder)
    os.kill(int(keeper), signal.SIGKILL)
    holder.kill()
    holder.wait(timeout=60)
    wait_until(lambda: not _inhabitants(namespace), 30, "the box's processes are gone")
    # (The namespaces of another test that runs now may have been the next one already.)
    with Namespaces():
        assert not find_cgroups(name)
        assert not list(STATE.glob(f"{name}*"))


def test_what_is_still_dying_is_cleared_later(namespaces: Namespaces) -> None:
    """A namespaces whose processes take their time to die stays on record, and a later namespaces clears it away."""
    name = f"{CGROUP_PREFIX}000000000000"
    group, lock = namespaces.cgroups[0].with_name(name), STATE / f"{name}.lock"
    group.mkdir()
    lock.touch()
    with subprocess.Popen(("sleep", "60")) as dying:
        (group / "cgroup.procs").write_text(str(dying.pid), encoding="ascii")
        with Namespaces():
            assert lock.exists()
        dying.kill()
    with Namespaces():
        assert not lock.exists()
        assert not find_cgroups(name)


def test_a_box_that_fails_to_boot_is_gone(namespaces: Namespaces) -> None:
    """An option that systemd-nspawn refuses is an error that says so, and leaves no half-made box."""
    refused = Box(namespaces, options=("--no-such-option",))
    with pytest.raises(BoxError, match="no-such-option"), refused:
        pass
    assert not refused.running
    assert not [folder for folder in namespaces.cgroups if (folder / refused.name).exists()]


def test_on_a_machine_that_runs_systemd(make_box: MakeBox) -> None:
    """Where systemd is PID 1 it is asked for control groups, and gets them back: here the machine is a box."""
    machine = make_box(options=("--capability=all",))
    argv = (*MODULE, "exec", "--", "systemctl", "is-system-running")
    assert machine.run(argv).stdout == "running\n"
    assert machine.run(("find", "/sys/fs/cgroup", "-name", "litellm-boxes-*")).stdout == ""
    # systemd hears of it from the kernel, a little later.
    scopes = ("list-units", "--type=scope", "--no-legend", "run-*")
    machine.wait_until(lambda: machine.systemctl(*scopes) == "", 30, "the scope is gone")


# --- the command line ---


def _cli(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    argv = (*MODULE, *arguments)
    return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=120, check=False, cwd=HERE)


def test_exec_passes_everything_through(namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """`exec` is transparent: input, output, errors, variables, folder and exit code."""
    monkeypatch.setenv("GREETING", "hola")
    script = 'cat; echo "$GREETING"; pwd; cat /proc/1/comm; echo wrong >&2; exit 9'
    done = _cli("exec", "--", "sh", "-c", script, text="in\n")
    assert done.stdout.splitlines() == ["in", "hola", str(HERE), "systemd"]
    assert (done.returncode, done.stderr) == (9, "wrong\n")


def test_exec_without_root() -> None:
    """Without root, `exec` says in one line what is missing."""
    if os.geteuid() != 0:
        pytest.skip("needs root to stop being root")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        Path(scratch).chmod(0o755)  # the checkout may be where only root can read
        shutil.copytree(Path(litellm_systemd.__file__).parent, Path(scratch, "litellm_systemd"))
        become = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        argv = (*become, str(Path(sys.executable).resolve()), "-m", "litellm_systemd.box", "exec", "--", "true")
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=scratch)
    assert done.returncode == 77
    assert done.stderr.startswith("box: systemd containers need root\nbox: Run: sudo ")
