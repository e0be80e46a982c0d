"""The salt key in its file: written once, loaded by the unit, and kept when everything else goes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from litellm_systemd.commands.install import build_desired, render_removal_question
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import FileState, HostState, Running, Verb
from litellm_systemd.install.plan import plan_install, plan_uninstall
from tests.unit.plan_hosts import make_host, make_service, simulate

SALT = "sk-canary-of-the-salt-key-0123456789"
ENV = f"LITELLM_MASTER_KEY=sk-6f1d0c2b9a8e7d5f\nLITELLM_SALT_KEY={SALT}\nNUM_WORKERS=2\n"
CIPHERTEXT = FileState(Layout.secrets, b"ciphertext\n", mode=0o600)


def install(host: HostState, env: str = ENV, encrypted: FileState | None = None) -> tuple[HostState, list[Verb]]:
    """Install on the host. Returns the host afterwards and the verbs of the plan."""
    desired = build_desired(
        Layout(),
        make_service({"env": env}),
        host,
        release="r1",
        systemd=252,
        version="1.0",
        running=Running.STARTED,
        encrypted=encrypted,
    )
    plan = plan_install(Layout(), desired, host)
    return simulate(plan, host), [action.verb for action in plan.actions]


@pytest.fixture
def host() -> HostState:
    return install(make_host(Layout(), {}))[0]


def holders(host: HostState) -> set[str]:
    return {path for path, file in host.files.items() if SALT.encode() in file.content}


def test_salt_key_has_a_file_of_its_own(host: HostState) -> None:
    """The salt key is in salt.env alone, for root, and the service does not start without that file."""
    assert holders(host) == {Layout.salt}
    assert host.files[Layout.salt].mode == 0o600
    lines = host.files[Layout.service].content.decode().splitlines()
    files = [line for line in lines if line.startswith("EnvironmentFile=")]
    assert files == [f"EnvironmentFile={path}" for path in (Layout.environment_file, Layout.salt)]


def test_unit_without_a_salt_key_is_unchanged() -> None:
    """Without a salt key there is neither the file nor a line about it in the unit."""
    without, _ = install(make_host(Layout(), {}), ENV.replace(f"LITELLM_SALT_KEY={SALT}\n", ""))
    assert Layout.salt not in without.files
    assert "litellm.env\nEnvironment=" in without.files[Layout.service].content.decode()


def test_comment_in_the_file_stays(host: HostState) -> None:
    """A comment that was added to salt.env stays, and is no reason for a restart."""
    edited = replace(host.files[Layout.salt], content=f'# of 2026\nLITELLM_SALT_KEY="{SALT}"\n'.encode())
    after, verbs = install(replace(host, files={**host.files, edited.path: edited}))
    assert (after.files[Layout.salt], verbs) == (edited, [])


def test_encryption_leaves_no_copy(host: HostState) -> None:
    """--encrypt-secrets removes salt.env, even an edited one, without a copy; the way back writes it again."""
    edited = replace(host.files[Layout.salt], content=host.files[Layout.salt].content + b"# mine\n")
    after, verbs = install(replace(host, files={**host.files, edited.path: edited}), encrypted=CIPHERTEXT)
    assert holders(after) == set()
    assert Verb.SAVE_EDITED not in verbs
    assert verbs.count(Verb.RESTART) == 1
    assert holders(install(after)[0]) == {Layout.salt}


def test_uninstall_keeps_the_salt_key(host: HostState) -> None:
    """An uninstall keeps salt.env; --purge removes it, after a question that names what is lost."""
    kept, purged = (plan_uninstall(Layout(), host, purge=purge).actions for purge in (False, True))
    assert Layout.salt not in {action.target for action in kept}
    assert Layout.salt in {action.target for action in purged}
    assert "litellmctl backup" in render_removal_question(purge=True, has_salt=True)
    assert "litellmctl backup" not in render_removal_question(purge=True, has_salt=False)
