"""What keeps an install from working, found before anything is changed. Pure: it looks at values."""

from __future__ import annotations

from litellm_systemd.errors import CannotCreate, Unavailable
from litellm_systemd.layout import Layout
from litellm_systemd.model import DesiredState, FileState, HostState, Kind
from litellm_systemd.plan import UNITS


def require_ground(layout: Layout, desired: DesiredState, host: HostState) -> None:
    """Check that each path is free for what has to stand there, and that the units' names are ours to use.

    Raises:
        Unavailable: a unit is masked.
        CannotCreate: something else stands at a path, or somebody else's unit has the name.
    """
    for name in UNITS:
        _require_name(layout, desired, host, name)
    for state in (*desired.folders, *desired.files):
        found = host.files.get(state.path)
        if found is not None:
            _require_kind(state, found, is_ours=state.path in {*host.manifest, *desired.take})


def _require_name(layout: Layout, desired: DesiredState, host: HostState, name: str) -> None:
    unit, path = host.unit(name), f"{layout.units}/{name}"
    if "masked" in (unit.load, unit.enabled):
        raise Unavailable(f"{name} is masked: systemd won't start it", f"Run: systemctl unmask {name}")
    if unit.fragment and unit.fragment != path:
        raise CannotCreate(
            f"there is a {name} already, from {unit.fragment}",
            "Another package runs LiteLLM on this host. Remove it first.",
        )
    if path in host.files and path not in host.manifest and path not in desired.take:
        raise CannotCreate(
            f"{path} is there already, and litellmctl didn't write it",
            "With --take-ours it is put aside and the new service takes its place; or remove it.",
        )


def _require_kind(state: FileState, found: FileState, *, is_ours: bool) -> None:
    # A file in place of a link of ours is somebody's copy of what it led to. It is put aside like any other edit.
    if found.kind is state.kind or (is_ours and (state.kind, found.kind) == (Kind.LINK, Kind.FILE)):
        return
    what = (
        f"a link to {found.content.decode(errors='replace')}" if found.kind is Kind.LINK else f"a {found.kind.value}"
    )
    raise CannotCreate(
        f"{state.path} is {what}, and a {state.kind.value} has to stand there", "Move it away and run this again."
    )
