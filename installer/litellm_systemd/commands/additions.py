"""Choose the additions of a release: what a configuration needs, what the user names, what the release in use has."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from litellm_systemd.gateway.config import GatewayConfig
from litellm_systemd.gateway.packages import Missing, locked_names, missing_packages
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import RELEASE_MARK
from litellm_systemd.releases.additions import (
    Additions,
    Kept,
    choose_additions,
    extend,
    list_packages,
    require_additions,
    without_former,
)
from litellm_systemd.releases.archive import WHEELS
from litellm_systemd.releases.bad_versions import refuse_bad_litellm
from litellm_systemd.releases.inventory import (
    current_release,
    installed_litellm,
    read_mark,
    read_release_lock,
    running_release,
)
from litellm_systemd.releases.needs import render_need
from litellm_systemd.releases.source import Source, current_lock, find_source
from litellm_systemd.resources import read_lock

if TYPE_CHECKING:
    from litellm_systemd.releases.bundle import Target

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ReleaseChoice:
    """The release to install. `source`: what it is built from, None if it exists. `notes`: what it gets, and why."""

    identifier: str
    source: Source | None
    notes: tuple[str, ...] = ()


def kept_additions(layout: Layout, identifier: str | None) -> Kept:
    """The additions of a release; none without a release."""
    if identifier is None:
        return Kept()
    return _kept(layout.real(layout.release(identifier)), read_release_lock(layout, identifier))


def own_additions() -> Kept | None:
    """The additions of the release that this process runs from; None if it runs from no release."""
    prefix = Path(sys.prefix)
    return _kept(prefix, current_lock()) if (prefix / RELEASE_MARK).is_file() else None


def _kept(release: Path, lock: str) -> Kept:
    wheels = {path.name: path for path in (release / WHEELS).glob("*.whl")}
    return Kept(lock, wheels, read_mark(release, release.name).python_version)


def choose_release(
    layout: Layout,
    gateway: GatewayConfig,
    *,
    bundle: Path | None = None,
    wanted: tuple[str, ...] = (),
    dropped: tuple[str, ...] = (),
    say: Say = lambda _line: None,
) -> ReleaseChoice:
    """The release for a configuration: that of a bundle, the one that this process runs from, or a new one.

    Raises:
        UsageError: `wanted` or `dropped` names what can't be added or dropped.
        InputError: the bundle lacks an addition, or the release has a LiteLLM that is refused.
        InstallerError: a package can't be found, or conflicts with the others.
    """
    if bundle is not None:
        return _from_bundle(layout, gateway, bundle, wanted, dropped)
    running = running_release(layout)
    if running is not None:
        refuse_bad_litellm(installed_litellm(layout, running), "Install another release: sudo litellmctl upgrade")
    # Outside of a release, such as in a checkout: those that an earlier install has added.
    kept = own_additions() or kept_additions(layout, current_release(layout))
    chosen, missing = _choose(kept, gateway, wanted, dropped, kept.lock or read_lock())
    notes = tuple(_notes(missing, tuple(each for each in without_former(*wanted) if each not in kept.names), dropped))
    if running is not None and set(chosen) == set(kept.names):
        return ReleaseChoice(running, None, notes)
    source = find_source()
    if chosen or kept.names:
        source = extend(source, chosen, kept, say=say)
    return ReleaseChoice(source.identifier, source, notes)


def _from_bundle(
    layout: Layout, gateway: GatewayConfig, bundle: Path, wanted: tuple[str, ...], dropped: tuple[str, ...]
) -> ReleaseChoice:
    # A late import: it loads what the other verbs do not need.
    from litellm_systemd.releases.bundle import open_own_bundle

    source = open_own_bundle(bundle)
    kept = kept_additions(layout, current_release(layout))
    missing = missing_packages(gateway, locked_names(source.lock))
    needed = tuple(each.group for each in missing if each.group is not None)
    chosen = choose_additions(kept.names, Additions(wanted, dropped, needed))
    require_additions(bundle, source.lock, chosen, dropped)
    return ReleaseChoice(source.identifier, source, tuple(_notes(missing, (), dropped)))


def _choose(
    kept: Kept, gateway: GatewayConfig, wanted: tuple[str, ...], dropped: tuple[str, ...], lock: str
) -> tuple[tuple[str, ...], tuple[Missing, ...]]:
    """All additions, and what the configuration needs in addition to those that are kept and wanted."""
    remaining = choose_additions(kept.names, Additions(wanted, dropped))
    # The next release has the base that ships, whatever that of the release in use lacks.
    missing = missing_packages(gateway, list_packages(lock, remaining) | locked_names(read_lock()))
    needed = tuple(dict.fromkeys(each.group for each in missing if each.group is not None))
    return choose_additions(kept.names, Additions(wanted, dropped, needed)), missing


def _notes(missing: tuple[Missing, ...], wanted: tuple[str, ...], dropped: tuple[str, ...]) -> Iterator[str]:
    groups = {each.group: each for each in reversed(missing)}
    for each in reversed(groups.values()):
        if each.group is not None:
            yield f"Added to the release: the group {each.group}. {render_need(each)}."
    for each in missing:
        if each.group is None:
            yield (
                f"{render_need(each)}, which is in no group. To add it, run: sudo litellmctl install --with"
                f" {each.package}"
            )
    yield from (f"Added to the release: {each}." for each in wanted)
    yield from (f"Removed from the release: {each}." for each in dropped)


def bundle_source(target: Target, gateway: GatewayConfig | None, wanted: tuple[str, ...], say: Say) -> Source:
    """The source of a bundle: this package with the additions of its release, and those that are wanted or needed.

    Raises:
        InstallerError: as `choose_release`.
    """
    source, kept = find_source(), own_additions() or Kept()
    chosen = choose_additions(kept.names, Additions(wanted))
    if gateway is not None:
        chosen, _ = _choose(kept, gateway, wanted, (), source.lock)
    is_here = (target.python, target.machine) == ("{}.{}".format(*sys.version_info), platform.machine())
    return extend(source, chosen, kept, target=None if is_here else target, say=say) if chosen else source
