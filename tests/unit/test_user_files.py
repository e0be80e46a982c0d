"""Root neither reads what another user could have written, nor writes where another user decides."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from litellm_systemd.cli.program import run_command
from litellm_systemd.commands.config_files import shipped_config
from litellm_systemd.commands.doctor import require_place
from litellm_systemd.commands.init import init
from litellm_systemd.commands.preflight import require_files
from litellm_systemd.commands.verify import Files
from litellm_systemd.env.dotenv import Dotenv
from litellm_systemd.errors import CannotCreate, InputError, InstallerError, PermissionDenied
from litellm_systemd.releases.bundle import open_source
from litellm_systemd.report.report import Report
from litellm_systemd.user_files import (
    MAX_SIZE,
    read_regular,
    read_trusted,
    require_output,
    require_trusted,
    write_output,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it is about what root does")

#: A user and a group without a name; the user who calls sudo, and their group, which each system has.
MALLORY, OTHERS, CALLER = 12345, 34567, "daemon"
ALICE, ALICES = pwd.getpwnam(CALLER)[2:4]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of root, who is not called by sudo."""
    monkeypatch.delenv("SUDO_USER", raising=False)
    path = tmp_path / "project"
    path.mkdir(mode=0o755)
    return path


def text(path: Path, owner: int = 0, group: int = 0, mode: int = 0o644) -> Path:
    path.write_text("A=1\n", encoding="utf-8")
    os.chown(path, owner, group)
    path.chmod(mode)
    return path


def sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", CALLER)


@pytest.mark.parametrize(
    ("owner", "group", "mode", "said", "fix"),
    [
        (MALLORY, 0, 0o600, "it belongs to the user 12345", "sudo chown root {path}"),
        (ALICE, ALICES, 0o600, None, ""),
        (ALICE, ALICES, 0o664, None, ""),
        (0, 0, 0o660, None, ""),
        (ALICE, OTHERS, 0o664, "the group 34567 can write to it", "sudo chmod g-w {path}"),
        (0, 0, 0o666, "every user can write to it", "sudo chmod o-w {path}"),
        (ALICE, ALICES, 0o602, "every user can write to it", "sudo chmod o-w {path}"),
    ],
)
def test_owner_and_mode(
    folder: Path, owner: int, group: int, mode: int, said: str | None, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root reads a file that only root and the user who called sudo can write, and says how to fix another one."""
    sudo(monkeypatch)
    path = text(folder / ".env", owner, group, mode)
    if said is None:
        assert read_trusted(path) == b"A=1\n"
        return
    with pytest.raises(PermissionDenied) as refused:
        read_trusted(path)
    assert refused.value.message == f"{path} is not safe for root to use: {said}"
    assert refused.value.hint.endswith(f": {fix.format(path=path)}")


def test_shared_group(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that is not the caller's alone is not trusted, though it is their primary group."""
    monkeypatch.setenv("SUDO_USER", "sync")
    user, group = pwd.getpwnam("sync")[2:4]
    with pytest.raises(PermissionDenied, match="the group nogroup can write to it"):
        read_trusted(text(folder / ".env", user, group, 0o664))


def test_without_sudo_a_file_of_another_user(folder: Path) -> None:
    """Without sudo(8), no other user than root is trusted."""
    with pytest.raises(PermissionDenied, match=f"belongs to {CALLER}"):
        read_trusted(text(folder / ".env", ALICE))


@pytest.mark.parametrize(
    ("owner", "mode", "said"),
    [
        (MALLORY, 0o755, "belongs to the user 12345"),
        (0, 0o777, "every user can write to the folder"),
        (ALICE, 0o755, None),
        (0, 0o1777, None),
    ],
)
@pytest.mark.parametrize("below", ["", "sub/folder"])
def test_folders(
    folder: Path, owner: int, mode: int, said: str | None, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other user may be able to replace the file, or a folder on the way to it; /tmp is no such folder."""
    sudo(monkeypatch)
    (folder / below).mkdir(parents=True, exist_ok=True)
    path = text(folder / below / ".env")
    os.chown(folder, owner, 0)
    folder.chmod(mode)
    monkeypatch.chdir(folder)
    for each in (path, Path(below) / ".env", Path(below) / ".." / path.parent.name / ".env"):
        if not each.exists():
            continue
        if said is None:
            assert read_trusted(each) == b"A=1\n"
        else:
            with pytest.raises(PermissionDenied, match=said):
                read_trusted(each)


def test_file_of_another_user_in_tmp(folder: Path) -> None:
    """In a folder like /tmp, a file of another user is not used."""
    folder.chmod(0o1777)
    with pytest.raises(PermissionDenied, match="it belongs to the user 12345"):
        read_trusted(text(folder / ".env", MALLORY))


def test_links(folder: Path) -> None:
    """A link counts like the file that it leads to, if no other user could have placed it."""
    target = text(folder / "target", MALLORY)
    (folder / "link").symlink_to("../project/target")
    with pytest.raises(PermissionDenied, match="it belongs to the user 12345"):
        read_trusted(folder / "link")
    os.chown(target, 0, 0)
    assert read_trusted(folder / "link") == b"A=1\n"
    os.chown(folder / "link", MALLORY, 0, follow_symlinks=False)
    with pytest.raises(PermissionDenied, match="a link on the way to it belongs to the user 12345"):
        read_trusted(folder / "link")
    (folder / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="symbolic links"):
        read_trusted(folder / "circle")


@pytest.mark.parametrize("read", [read_trusted, read_regular, require_trusted])
def test_what_is_no_file(folder: Path, read: Callable[[Path], object]) -> None:
    """A pipe, a device or a folder is refused at once."""
    os.mkfifo(folder / "pipe")
    for path in (folder / "pipe", Path("/dev/zero"), Path("/dev/tty")):
        with pytest.raises((ValueError, OSError)):
            read(path)
    with pytest.raises(IsADirectoryError):
        read(folder)


def test_size(folder: Path) -> None:
    """A file that is too large is refused, and of an endless one no more is read."""
    with (folder / "large").open("wb") as file:
        file.truncate(MAX_SIZE + 1)
    with pytest.raises(ValueError, match="is larger than 4 MiB"):
        read_trusted(folder / "large")


@pytest.fixture(params=["verify --html", "doctor --bundle", "init --force", "bundle -o"])
def write(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    """Each verb that writes a file of the user's choice."""

    def html(path: Path) -> None:
        Files(html=path).require_places()
        Files(html=path).write(Report("done"))

    def doctor(path: Path) -> None:
        require_place(path)
        write_output(path, b"new", 0o600, replace=False)

    def env(path: Path) -> None:
        init(path, environ={}, force=True)

    def bundle(path: Path) -> None:
        require_output(path, is_strict=True)
        write_output(path, b"new", 0o644)

    writers = {"verify --html": html, "doctor --bundle": doctor, "init --force": env, "bundle -o": bundle}
    return writers[request.param]


def test_output_is_written(folder: Path, write: Callable[[Path], object]) -> None:
    """A new file is written, and nothing else is left."""
    write(folder / "out")
    assert (folder / "out").stat().st_size
    assert [path.name for path in folder.iterdir()] == ["out"]


def test_output_through_links(folder: Path, write: Callable[[Path], object]) -> None:
    """Root writes through no link: not in place of the file, and not in place of a folder on the way to it."""
    victim = folder / "victim"
    victim.mkdir()
    text(victim / "file")
    trap = folder / "trap"
    trap.mkdir()
    os.chown(trap, MALLORY, MALLORY)
    (trap / "out").symlink_to(victim / "file")
    (trap / "new").symlink_to(victim / "new")
    (trap / "sub").symlink_to(victim)
    for path in (trap / "out", trap / "new", trap / "sub" / "file", trap / "sub" / "new"):
        with pytest.raises(InstallerError) as refused:
            write(path)
        assert str(path) in refused.value.message
    assert (victim / "file").read_text(encoding="utf-8") == "A=1\n"
    assert [path.name for path in victim.iterdir()] == ["file"]


def test_output_of_another_user(folder: Path, write: Callable[[Path], object]) -> None:
    """Root overwrites no file of another user."""
    path = text(folder / "out", MALLORY)
    with pytest.raises(InstallerError):
        write(path)
    assert path.read_text(encoding="utf-8") == "A=1\n"
    os.mkfifo(folder / "pipe")
    os.chown(folder / "pipe", MALLORY, 0)
    with pytest.raises(InstallerError, match="pipe"):
        write(folder / "pipe")


def test_output_in_the_folder_of_another_user(folder: Path) -> None:
    """A report can be written where another user, such as a web server, publishes it; a bundle is unpacked nearby."""
    os.chown(folder, MALLORY, MALLORY)
    Files(html=folder / "page.html").write(Report("done"))
    Files(html=folder / "page.html").write(Report("done again"))
    page = folder / "page.html"
    assert "done again" in page.read_text(encoding="utf-8")
    assert (page.stat().st_uid, stat.S_IMODE(page.stat().st_mode)) == (0, 0o644)
    with pytest.raises(PermissionDenied, match="belongs to the user 12345"):
        require_output(folder / "bundle.tar", is_strict=True)


def test_files_of_the_invoking_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sudo litellmctl init --force` replaces the user's own file, which stays theirs."""
    sudo(monkeypatch)
    os.chown(folder, ALICE, ALICE)
    path = text(folder / ".env", ALICE, ALICE, 0o644)
    init(path, environ={"SUDO_USER": CALLER}, force=True)
    assert (path.stat().st_uid, path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (ALICE, ALICES, 0o600)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/null", "/dev/fd/1"])
def test_standard_output(name: str) -> None:
    """A report can be written to standard output, also by root."""
    Files(junit=Path(name)).require_places()
    Files(junit=Path(name)).write(Report("done"))


def test_messages_of_refused_outputs(folder: Path) -> None:
    """The message names the file and what is there."""
    (folder / "link").symlink_to("x")
    with pytest.raises(CannotCreate, match="link is a link"):
        Files(html=folder / "link").require_places()
    with pytest.raises(CannotCreate, match="belongs to the user 12345"):
        Files(html=text(folder / "other", MALLORY)).require_places()
    with pytest.raises(InputError, match="is a link"):
        init(folder / "link", environ={}, force=True)


CONFIG = "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: none, mock_response: b}}]\n"


def refused_by(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What litellmctl says, which must refuse for want of permission."""
    assert run_command([*arguments]) == 77
    return capsys.readouterr().err


def test_commands_refuse_files_of_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`install` uses no `.env`, configuration, included file or bundle of another user, and says how to fix it."""
    monkeypatch.chdir(folder)
    root = folder / "root"
    root.mkdir()
    install = ("install", "--dry-run", "--root", str(root))
    text(folder / ".env", MALLORY, mode=0o666)
    assert f"{folder}/.env is not safe for root to use" in refused_by(*install, capsys=capsys)
    os.chown(folder / ".env", 0, 0)
    assert f"sudo chmod o-w {folder}/.env" in refused_by(*install, capsys=capsys)
    (folder / ".env").chmod(0o600)
    for name, content in (("own.yml", f"include: [more.yml]\n{CONFIG}"), ("more.yml", "{}\n")):
        (folder / name).write_text(content, encoding="utf-8")
    for name in ("own.yml", "more.yml"):
        (folder / name).chmod(0o666)
        assert f"{folder}/{name} is not safe" in refused_by(*install, "-c", "./own.yml", capsys=capsys)
        assert f"{folder}/{name} is not safe" in refused_by("config", "check", "./own.yml", capsys=capsys)
        (folder / name).chmod(0o644)
    assert run_command(["config", "check", "./own.yml"]) == 0
    text(folder / "bundle.tar", MALLORY)
    assert "bundle.tar is not safe" in refused_by(
        *install, "-c", "./own.yml", "--bundle", "bundle.tar", capsys=capsys
    )
    text(folder / "new.whl", MALLORY)
    with pytest.raises(PermissionDenied, match=r"new\.whl is not safe"):
        open_source(folder / "new.whl")


def test_certificates_of_others() -> None:
    """`install` refuses a certificate of an authority that another user could replace."""
    # The folders of pytest are hidden from the user of the service.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        text(Path(name) / "ca.pem", MALLORY)
        environment = {"SSL_CERT_FILE": f"{name}/ca.pem"}
        with pytest.raises(PermissionDenied, match=r"\.env: SSL_CERT_FILE: .*ca\.pem is not safe"):
            require_files(Dotenv(".env", environment), environment, shipped_config("demo.yml"))
