"""init: the .env that it writes, and the profiles that it reads from ~/.aws."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from litellm_systemd.aws.sources import read_profile, read_service_profile
from litellm_systemd.command import interruptible
from litellm_systemd.commands.init import fill_example, find_invoker, init
from litellm_systemd.env.settings import build_settings, read_dotenv
from litellm_systemd.errors import InputError, InstallerError, Interrupted, MissingError, PermissionDenied, UsageError

CREDENTIALS = """
[default]
aws_access_key_id = AKIAIOSFODNN7DEFAULT
aws_secret_access_key = defa/rXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY

[cline]
aws_access_key_id = AKIAIOSFODNN7XXCLINE
aws_secret_access_key = cl+ne/XUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKE

[half]
aws_access_key_id = AKIAHALF
"""
CONFIG = """
[profile cline]
region = eu-central-1

[profile program]
credential_process = /usr/bin/get-keys

[profile sso]
sso_session = work

[profile role]
role_arn = arn:aws:iam::123456789012:role/x
source_profile = default
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    aws = tmp_path / "home" / ".aws"
    aws.mkdir(parents=True)
    (aws / "credentials").write_text(CREDENTIALS, encoding="utf-8")
    (aws / "config").write_text(CONFIG, encoding="utf-8")
    return aws.parent


def test_env_from_profile(home: Path, tmp_path: Path) -> None:
    """A .env from a profile has its key pair and region, and install accepts it unchanged."""
    path = tmp_path / ".env"
    report = init(path, environ={"HOME": str(home)}, profile="cline", offline=True)
    settings = build_settings(read_dotenv(path), installed={}, new_key=lambda: "sk-made")
    assert settings.environment["AWS_ACCESS_KEY_ID"] == "AKIAIOSFODNN7XXCLINE"
    assert settings.environment["AWS_SECRET_ACCESS_KEY"] == "cl+ne/XUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKE"
    assert (settings.region, settings.config) == ("eu-central-1", "access_key_config.yml")
    assert "cl+ne/XUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKE" not in report.as_json()


def test_region_of_the_command_line_wins(home: Path, tmp_path: Path) -> None:
    """The region of the command line overrides the profile's."""
    path = tmp_path / ".env"
    init(path, environ={"HOME": str(home)}, profile="cline", offline=True, region="us-west-2")
    assert read_dotenv(path).values["AWS_REGION_NAME"] == "us-west-2"


def test_env_without_a_profile_is_usable(tmp_path: Path) -> None:
    """An unchanged copy of the example is accepted. It uses the IAM role and listens on loopback."""
    path = tmp_path / ".env"
    init(path, environ={"HOME": str(tmp_path)})
    settings = build_settings(read_dotenv(path), installed={}, new_key=lambda: "sk-made")
    assert (settings.config, settings.base_url) == ("iam_role_config.yml", "http://127.0.0.1:4000")
    assert settings.warnings == ()


def test_env_is_private(tmp_path: Path) -> None:
    """Only its owner can read the .env, with any umask."""
    before = os.umask(0)
    try:
        init(tmp_path / ".env", environ={"HOME": str(tmp_path)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    """A signal while init writes the .env ends it with the code of the signal and leaves no file. The next run writes
    it.
    """
    with monkeypatch.context() as patch, interruptible():
        patch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted) as caught:
            init(tmp_path / ".env", environ={"HOME": str(tmp_path)})
    assert (int(caught.value.code), list(tmp_path.iterdir())) == (code, [])
    init(tmp_path / ".env", environ={"HOME": str(tmp_path)})


def test_existing_file_is_kept(tmp_path: Path) -> None:
    """An existing .env is not overwritten without --force."""
    path = tmp_path / ".env"
    path.write_text("MINE=1\n", encoding="utf-8")
    with pytest.raises(InstallerError, match="exists already"):
        init(path, environ={"HOME": str(tmp_path)})
    assert path.read_text(encoding="utf-8") == "MINE=1\n"
    init(path, environ={"HOME": str(tmp_path)}, force=True)
    assert "MINE" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("profile", "error", "reason"),
    [
        ("none", MissingError, "there is no profile none"),
        ("half", InputError, "has no complete key pair"),
        ("program", InputError, "credential_process"),
        ("sso", InputError, "SSO"),
        ("role", InputError, "assumes a role"),
    ],
)
def test_profile_without_a_pair(home: Path, profile: str, error: type[InstallerError], reason: str) -> None:
    """A profile without a key pair is refused with the reason."""
    with pytest.raises(error, match=reason):
        read_profile(profile, home)


def test_missing_profile_lists_the_others(home: Path) -> None:
    """The error for an unknown profile lists the existing ones."""
    with pytest.raises(MissingError) as caught:
        read_profile("clien", home)
    assert "cline, default, half" in caught.value.hint


def test_no_aws_folder(tmp_path: Path) -> None:
    """Without ~/.aws, the error has the path of the missing file."""
    with pytest.raises(MissingError, match=r"there is no profile cline in .*\.aws/credentials"):
        read_profile("cline", tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_missing_file_in_a_folder_of_another_user(tmp_path: Path) -> None:
    """The service's own folder, without files of profiles, does not keep root from reading the file that it names."""
    home, file = tmp_path / "home", tmp_path / "profiles"
    (home / ".aws").mkdir(parents=True)
    os.chown(home, 4321, 4321)
    file.write_text("[work]\naws_access_key_id = AKIA\naws_secret_access_key = s\n", encoding="utf-8")
    assert read_service_profile("work", {"AWS_SHARED_CREDENTIALS_FILE": str(file)}, home).access_key == "AKIA"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as under sudo")
def test_sudo_means_the_invoking_user() -> None:
    """Under sudo, init reads the profile from the home of the calling user, not from root's."""
    import pwd

    entry = pwd.getpwnam("daemon")
    found = find_invoker({"SUDO_USER": "daemon", "HOME": "/root"})
    assert (found.home, found.uid) == (Path(entry.pw_dir), entry.pw_uid)


def test_sudo_of_an_unknown_user() -> None:
    """An unknown SUDO_USER, as in a container, is reported."""
    if os.geteuid() == 0:
        with pytest.raises(InputError, match="SUDO_USER=no-such-user: there is no such user"):
            find_invoker({"SUDO_USER": "no-such-user"})


def test_names_of_profiles(home: Path) -> None:
    """Names of profiles have the syntax of the AWS CLI: `[profile "a b"]`, `[profile default]`."""
    (home / ".aws/config").write_text('[profile "a b"]\nregion = eu-west-1\n[profile default]\nregion = eu-west-3\n')
    (home / ".aws/credentials").write_text(CREDENTIALS.replace("[cline]", "[a b]"))
    assert (read_profile("a b", home).region, read_profile("default", home).region) == ("eu-west-1", "eu-west-3")


def test_credentials_that_cannot_be_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another user, as after `sudo aws configure`, is reported as unreadable, not as a missing profile."""

    def refuse(path: Path) -> bytes:
        raise PermissionError(path)

    monkeypatch.setattr("litellm_systemd.aws.sources.read_trusted", refuse)
    with pytest.raises(PermissionDenied, match="can't be read by this user"):
        read_profile("cline", home)


def test_invalid_region(home: Path, tmp_path: Path) -> None:
    """An invalid region, of the profile or the command line, is refused before a .env is written."""
    (home / ".aws/config").write_text("[profile cline]\nregion = mars-1\n", encoding="utf-8")
    path, environ = tmp_path / ".env", {"HOME": str(home)}
    with pytest.raises(InputError, match="its region mars-1 is not an AWS region"):
        init(path, environ=environ, profile="cline", offline=True)
    with pytest.raises(UsageError, match="--region mars-1: not an AWS region"):
        init(path, environ=environ, region="mars-1")
    assert not path.exists()


def test_fill_replaces_where_the_key_stands() -> None:
    """A value replaces its line in the example, also a comment. A new variable is appended."""
    text = fill_example("#A=\nB=old\n# C is explained\n", {"A": "1", "B": r"\2", "D": "4"})
    assert text == "A=1\nB=\\2\n# C is explained\nD=4\n"
