"""The checks of a host before a change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from litellm_systemd.errors import CannotCreate, InstallerError, Unavailable
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import FileKind, FileState, HostState, UnitState, folder, link
from litellm_systemd.install.plan import require_no_conflicts
from tests.unit.plan_hosts import make_desired, make_host

LAYOUT = Layout()


def check(host: HostState, **asked: object) -> None:
    require_no_conflicts(LAYOUT, make_desired(LAYOUT, dict(asked), host), host)


def with_file(host: HostState, state: FileState) -> HostState:
    return replace(host, files={**host.files, state.path: state})


def with_unit(host: HostState, unit: UnitState) -> HostState:
    return replace(host, units={**host.units, unit.name: unit})


BARE = make_host(LAYOUT, {})
INSTALLED = make_host(LAYOUT, {"installed": {}})
MASKED = UnitState("litellm.service", load="masked", enabled="masked")
ELSEWHERE = UnitState("litellm.service", load="loaded", fragment="/usr/lib/systemd/system/litellm.service")


@pytest.mark.parametrize("host", [BARE, INSTALLED], ids=["bare", "installed"])
def test_usable_host(host: HostState) -> None:
    """A host without and a host with an installation are usable."""
    check(host)


@pytest.mark.parametrize(
    ("host", "kind", "said"),
    [
        (with_unit(INSTALLED, MASKED), Unavailable, "systemctl unmask litellm.service"),
        (with_unit(BARE, ELSEWHERE), CannotCreate, "/usr/lib/systemd/system/litellm.service"),
        (with_file(BARE, FileState(LAYOUT.service, b"theirs")), CannotCreate, "--take-ours"),
        (with_file(INSTALLED, link(LAYOUT.environment_file, "/root/env")), CannotCreate, "a link to /root/env"),
        (with_file(INSTALLED, folder(LAYOUT.socket, 0o755)), CannotCreate, "is a folder, but must be a file"),
        (with_file(INSTALLED, link(LAYOUT.etc, "/srv/etc")), CannotCreate, "but must be a folder"),
        (with_file(INSTALLED, FileState(LAYOUT.command, kind=FileKind.OTHER)), CannotCreate, "but must be a file"),
        (with_file(BARE, FileState(LAYOUT.current, b"?")), CannotCreate, "is a file, but must be a link"),
    ],
    ids=["masked", "another package's", "another unit", "link", "folder", "etc is a link", "device", "no link"],
)
def test_unusable_host(host: HostState, kind: type[InstallerError], said: str) -> None:
    """An obstacle is one error with its path or unit and the remedy."""
    with pytest.raises(kind) as refused:
        check(host)
    assert said in f"{refused.value.message} {refused.value.hint}"


def test_take_ours() -> None:
    """With --take-ours, a unit of another installer is no obstacle."""
    check(with_file(BARE, FileState(LAYOUT.service, b"theirs")), take=[LAYOUT.service])


def test_copy_in_place_of_our_link() -> None:
    """A file in place of a link that an install wrote is an edit, not an obstacle."""
    check(with_file(INSTALLED, FileState(LAYOUT.config_link, b"mine")))
