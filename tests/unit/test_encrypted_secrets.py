"""Secrets in an encrypted credential: which variables it holds, what install writes, and what the service reads.

tests/system/test_encrypted_secrets.py runs it on a real systemd.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from litellm_systemd.commands.install import build_desired
from litellm_systemd.env.secrets import holds_secret
from litellm_systemd.env.service_credential import add_secrets
from litellm_systemd.errors import InputError, Unavailable
from litellm_systemd.host.encrypted_secrets import require_encryption
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import DesiredState, FileState, HostState, Running, Verb
from litellm_systemd.install.plan import plan_install
from tests.unit.plan_hosts import make_host, make_service, simulate

ENV = "LITELLM_MASTER_KEY=sk-canary-one\nHTTPS_PROXY=http://me:canary-two@10.0.0.1:3128\nNUM_WORKERS=2\n"
CANARIES = (b"canary-one", b"canary-two")
CIPHERTEXT = FileState(Layout.secrets, b"ciphertext\n", mode=0o600)


def desired(host: HostState, encrypted: FileState | None) -> DesiredState:
    return build_desired(
        Layout(),
        make_service({"env": ENV}),
        host,
        release="r1",
        systemd=252,
        version="1.0",
        running=Running.STARTED,
        verify_every="1h",
        encrypted=encrypted,
    )


def installed(encrypted: FileState | None) -> HostState:
    host = make_host(Layout(), {})
    return simulate(plan_install(Layout(), desired(host, encrypted), host), host)


def texts(host: HostState) -> bytes:
    return b"\n".join(file.content for file in host.files.values())


def test_secrets_are_in_the_credential_alone() -> None:
    """With --encrypt-secrets no installed file holds a secret, and both units load the credential."""
    host = installed(CIPHERTEXT)
    assert not [canary for canary in CANARIES if canary in texts(host)]
    assert b"NUM_WORKERS" in host.files[Layout.environment_file].content
    line = b"\nLoadCredentialEncrypted=litellm.secrets:/etc/litellm/litellm.secrets\n"
    assert all(line in host.files[path].content for path in (Layout.service, Layout.verify_service))


def test_way_back_removes_the_credential() -> None:
    """With --no-encrypt-secrets the secrets are in the environment file, and the credential is gone."""
    host = installed(CIPHERTEXT)
    plan = plan_install(Layout(), desired(host, None), host)
    host = simulate(plan, host)
    assert all(canary in host.files[Layout.environment_file].content for canary in CANARIES)
    assert Layout.secrets not in {*host.files, *host.manifest}
    assert b"LoadCredential" not in texts(host)


def test_changed_secret_restarts_the_service() -> None:
    """A new credential alone restarts the service: a running one cannot read it."""
    host = installed(CIPHERTEXT)
    other = replace(CIPHERTEXT, content=b"other\n")
    actions = plan_install(Layout(), desired(host, other), host).actions
    assert [action.verb for action in actions] == [Verb.WRITE, Verb.RESTART]


def test_saved_edit_holds_no_secret() -> None:
    """The copy of an edited environment file that --take-ours saves has its secrets masked, in both directions."""
    for before, after in ((None, CIPHERTEXT), (CIPHERTEXT, None)):
        host = installed(before)
        edited = replace(host.files[Layout.environment_file], content=ENV.encode() + b"MINE=1\n# sk-canary-one\n")
        host = replace(host, files={**host.files, edited.path: edited})
        wanted = replace(desired(host, after), take=frozenset({edited.path}))
        [saved] = [each for each in plan_install(Layout(), wanted, host).actions if each.verb is Verb.SAVE_EDITED]
        assert saved.after is not None
        assert not [canary for canary in CANARIES if canary in saved.after.content]
        assert b'MINE="1"' in saved.after.content


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("LITELLM_MASTER_KEY", "short", True),
        ("MY_SETTING", "9f8e7d6c5b4a39281706f5e4", True),
        ("HTTPS_PROXY", "http://me:pass@proxy:3128", True),
        ("HTTPS_PROXY", "http://proxy:3128", False),
        ("AWS_REGION_NAME", "us-east-1", False),
        ("AWS_ROLE_NAME", "arn:aws:iam::123456789012:role/NAME", False),
    ],
)
def test_what_is_encrypted(name: str, value: str, expected: bool) -> None:
    """Secrets are encrypted, a password in the URL of a proxy too; addresses, regions and numbers are not."""
    assert holds_secret(name, value) is expected


def test_credential_that_is_no_file(tmp_path: Path) -> None:
    """A pipe in place of the credential is an error and not waited for."""
    os.mkfifo(tmp_path / "litellm.secrets")
    with pytest.raises(InputError, match="is not a regular file"):
        add_secrets({"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_service_reads_the_credential(tmp_path: Path) -> None:
    """The service adds the variables of the credential to its environment; one that is set there already stays."""
    tmp_path.joinpath("litellm.secrets").write_text(json.dumps({"A_KEY": "1", "B_KEY": "2"}), encoding="utf-8")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "B_KEY": "mine"}
    add_secrets(environ)
    assert environ == {"CREDENTIALS_DIRECTORY": str(tmp_path), "A_KEY": "1", "B_KEY": "mine"}


@pytest.mark.parametrize("content", ["", "[]", '{"A": 1}', "A=1"])
def test_damaged_credential_is_one_error(tmp_path: Path, content: str) -> None:
    """A credential with other content is one error with the remedy."""
    tmp_path.joinpath("litellm.secrets").write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        add_secrets({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert "--encrypt-secrets" in refused.value.hint


def test_older_systemd_is_refused(tmp_path: Path) -> None:
    """Before systemd 250, and for another root file system, --encrypt-secrets is one error."""
    with pytest.raises(Unavailable, match="systemd 249"):
        require_encryption(Layout(), 249)
    with pytest.raises(Unavailable, match="--root"):
        require_encryption(Layout(root=tmp_path), 252)
    require_encryption(Layout(), 250)
