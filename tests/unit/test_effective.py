"""The environment of the unit with its drop-ins. tests/system/test_doctor.py has it on a real systemd."""

from __future__ import annotations

from pathlib import Path

import pytest

from litellm_systemd.errors import MissingError
from litellm_systemd.host import effective
from litellm_systemd.host.effective import observe_environment, read_lines, read_manager_files, split_assignments
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import read_installed

OWN = "/etc/litellm/litellm.env"
DROP_IN = "/etc/systemd/system/litellm.service.d/mine.conf"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A root folder with an environment file, one of the user's own, and a drop-in."""
    found = Layout(root=tmp_path)
    for path, text in (
        (OWN, 'LITELLM_MASTER_KEY="sk-installed"\nPORT="4000"\n'),
        ("/etc/mine.env", "# mine\nLITELLM_MASTER_KEY=sk-mine\n"),
        (
            DROP_IN,
            "[Service]\n# Environment=PORT=1\nEnvironment=PORT=5000 \\\n  'A=x y'\nEnvironmentFile=/etc/mine.env\n",
        ),
    ):
        found.real(path).parent.mkdir(parents=True, exist_ok=True)
        found.real(path).write_text(text, encoding="utf-8")
    return found


def properties(*files: str, **more: str) -> dict[str, str]:
    """The properties of the unit with these environment files, as systemd has them."""
    listed = "\n".join(
        f"{path.removeprefix('-')} (ignore_errors={'yes' if path[0] == '-' else 'no'})" for path in files
    )
    found = {"LoadState": "loaded", "FragmentPath": "/etc/systemd/system/litellm.service", "DropInPaths": DROP_IN}
    return {**found, "EnvironmentFiles": listed, "Environment": 'HOME=/var/lib/litellm PORT=5000 "A=x y"', **more}


def test_order_and_origins(layout: Layout) -> None:
    """A later file overrides an earlier one, and each of them Environment=; each variable has its file and line."""
    found = observe_environment(layout, properties(OWN, "/etc/mine.env"))
    assert found.dotenv.values == {"LITELLM_MASTER_KEY": "sk-mine", "PORT": "4000", "A": "x y"}
    where = {name: found.dotenv.where(name) for name in found.dotenv.values}
    assert where == {"LITELLM_MASTER_KEY": "/etc/mine.env:2", "PORT": f"{OWN}:2", "A": f"{DROP_IN}:3"}
    overridden = {(each.name, each.where, each.by) for each in found.overridden}
    assert overridden == {("PORT", f"{DROP_IN}:3", f"{OWN}:2"), ("LITELLM_MASTER_KEY", f"{OWN}:1", "/etc/mine.env:2")}


def test_removed_variables(layout: Layout) -> None:
    """UnsetEnvironment= removes a variable, or one with that value only."""
    found = observe_environment(layout, properties(OWN, UnsetEnvironment="PORT A=other"))
    assert found.dotenv.values == {"LITELLM_MASTER_KEY": "sk-installed", "A": "x y"}


def test_unit_that_is_not_loaded(layout: Layout) -> None:
    """Without a loaded unit, the installed file is the environment; without that file, there is none."""
    found = observe_environment(layout, {"LoadState": "masked"})
    assert found.dotenv.values == {"LITELLM_MASTER_KEY": "sk-installed", "PORT": "4000"}
    layout.real(OWN).unlink()
    with pytest.raises(MissingError, match=OWN):
        observe_environment(layout)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"A=1\nB=\0\n", "line 2 contains a NUL byte"),
        (b"\0\0", "the file has NUL bytes only, as after a power failure"),
        (b"A=1\nB=\xe4\n", "line 2 is not UTF-8"),
        ("A=1\n".encode("utf-16"), "the file is UTF-16, and must be UTF-8"),
    ],
)
def test_rejected_file(layout: Layout, content: bytes, reason: str) -> None:
    """A file that systemd rejects as a whole is reported with the line, a missing one unless it is optional."""
    layout.real("/etc/mine.env").write_bytes(content)
    files = (OWN, "/etc/mine.env", "/etc/none.env", "-/etc/optional.env", "/etc/none*.env")
    found = observe_environment(layout, properties(*files)).unusable
    assert [(each.path, each.reason) for each in found] == [
        ("/etc/mine.env", reason),
        ("/etc/none.env", "it does not exist"),
        ("/etc/none*.env", "no file has such a name"),
    ]


def test_comment_that_is_not_utf8(layout: Layout) -> None:
    """systemd loads a file with a comment in another encoding."""
    layout.real(OWN).write_bytes(b"# Schl\xfcssel\nLITELLM_MASTER_KEY=sk-installed\n")
    found = observe_environment(layout, properties(OWN))
    assert (found.dotenv.values["LITELLM_MASTER_KEY"], found.unusable) == ("sk-installed", ())
    assert read_installed(layout) == {"LITELLM_MASTER_KEY": "sk-installed"}


def test_file_of_another_user(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file that another user can write, no variable is taken that makes a program of root run code."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    path = layout.real("/etc/mine.env")
    path.write_text("LD_PRELOAD=/tmp/x.so\nAWS_CONFIG_FILE=/tmp/config\nA=mine\n", encoding="utf-8")
    path.chmod(0o666)
    found = observe_environment(layout, properties(OWN, "/etc/mine.env")).dotenv.values
    assert found["A"] == "mine"
    assert not {"LD_PRELOAD", "AWS_CONFIG_FILE"} & found.keys()


def test_printed_assignments() -> None:
    """A list of assignments is read as systemctl prints it, with quotes and escapes."""
    printed = 'A=1 "B=two words" "C=a\\nb\\"c\\\\d" E= "F=\\x01"'
    assert split_assignments(printed) == {"A": "1", "B": "two words", "C": 'a\nb"c\\d', "E": "", "F": "\x01"}
    assert split_assignments("") == {}


def test_lines_of_a_unit(layout: Layout) -> None:
    """Each assignment of a unit file has its section and the line on which it begins; comments are left out."""
    found = [(each.where, each.section, each.name) for each in read_lines(layout, DROP_IN)]
    assert found == [(f"{DROP_IN}:3", "[Service]", "Environment"), (f"{DROP_IN}:5", "[Service]", "EnvironmentFile")]
    assert list(read_lines(layout, "/etc/none.conf")) == []


def test_passed_variables_of_another_user(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """PassEnvironment= of a unit does not fail for a user who cannot read the environment of process 1."""

    def deny(path: Path) -> dict[str, str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(effective, "read_environ", deny)
    found = observe_environment(layout, properties(OWN, PassEnvironment="HTTPS_PROXY"))
    assert found.dotenv.values["PORT"] == "4000"


@pytest.mark.parametrize("name", ["LD_PRELOAD", "OPENSSL_ENGINES", "SSLKEYLOGFILE"])
def test_variables_that_act_as_root(layout: Layout, name: str) -> None:
    """A variable by which another user could act as root is left out of a file that this user can write."""
    path = layout.real("/etc/mine.env")
    path.write_text(f"{name}=/tmp/x\nB=2\n", encoding="utf-8")
    path.chmod(0o666)
    values = observe_environment(layout, properties(OWN, "/etc/mine.env")).dotenv.values
    assert (values.get(name), values["B"]) == (None, "2")


def test_files_of_the_manager(tmp_path: Path) -> None:
    """Drop-ins of each folder count, in the order of their names, and of one name the most important file."""
    layout = Layout(root=tmp_path)
    for path in ("/usr/lib/systemd/system.conf", "/etc/systemd/system.conf.d/2.conf"):
        layout.real(path).parent.mkdir(parents=True, exist_ok=True)
        layout.real(path).write_text("[Manager]\nDefaultEnvironment=A=1\n", encoding="utf-8")
    for name in ("1.conf", "2.conf"):
        found = layout.real(f"/usr/local/lib/systemd/system.conf.d/{name}")
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_text("[Manager]\nDefaultEnvironment=A=2\n", encoding="utf-8")
    assert [(each.where, each.value) for each in read_manager_files(layout, "system.conf")] == [
        ("/usr/lib/systemd/system.conf:2", "A=1"),
        ("/usr/local/lib/systemd/system.conf.d/1.conf:2", "A=2"),
        ("/etc/systemd/system.conf.d/2.conf:2", "A=1"),
    ]
