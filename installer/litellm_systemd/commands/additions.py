"""Choose the additions of a release: what a configuration needs, what the user names, what the release in use has."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from litellm_systemd.contract import QUERY_ENGINE
from litellm_systemd.database.prisma_engine import read_given
from litellm_systemd.gateway.config import GatewayConfig
from litellm_systemd.gateway.packages import Missing, locked_names, missing_packages
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import RELEASE_MARK, observe_releases
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
from litellm_systemd.releases.prisma_parts import GROUP, with_engine
from litellm_systemd.releases.requirements_lock import litellm_versions, parse_lock
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
    engine = release / QUERY_ENGINE
    python = read_mark(release, release.name).python_version
    return Kept(lock, wheels, python, engine if engine.is_file() else None)


def choose_release(
    layout: Layout,
    gateway: GatewayConfig | None,
    *,
    bundle: Path | None = None,
    wanted: tuple[str, ...] = (),
    dropped: tuple[str, ...] = (),
    database: bool = False,
    engine: Path | None = None,
    say: Say = lambda _line: None,
) -> ReleaseChoice:
    """The release for a configuration: that of a bundle, the one that this process runs from, or a new one.

    `gateway`: None if no configuration is known. `database`: the service uses one. `engine`: Prisma's query engine,
    if the user gave it.

    Raises:
        UsageError: `wanted` or `dropped` names what can't be added or dropped.
        InputError: the bundle lacks an addition, or the release has a LiteLLM that is refused.
        InstallerError: a package can't be found, or conflicts with the others.
    """
    engine = None if engine is None else read_given(engine)
    also = (GROUP,) if database else ()
    if bundle is not None:
        return _from_bundle(layout, gateway, bundle, wanted, dropped, also, engine)
    running = running_release(layout)
    if running is not None:
        refuse_bad_litellm(installed_litellm(layout, running), "Install another release: sudo litellmctl upgrade")
    # Outside of a release, such as in a checkout: those that an earlier install has added.
    kept = own_additions() or kept_additions(layout, current_release(layout))
    chosen, missing = _choose(kept, gateway, wanted, dropped, kept.lock or read_lock(), also)
    new = dict.fromkeys(each for each in without_former(*wanted, *also) if each not in kept.names)
    notes = tuple(_notes(missing, tuple(new), dropped))
    if running is not None and set(chosen) == set(kept.names) and engine is None:
        return ReleaseChoice(running, None, notes)
    source = find_source()
    if chosen or kept.names:
        source = extend(source, chosen, kept, engine=engine, say=say)
    return ReleaseChoice(source.identifier, source, notes)


def backed_up_release(layout: Layout, lock: str, wheels: tuple[Path, ...], engine: Path | None) -> ReleaseChoice:
    """The release that a backup describes, with the code of this process.

    `wheels`: the files of packages that the user gave as wheels.

    Raises:
        InputError: the lock is invalid, or has a LiteLLM that is refused.
    """
    refuse_bad_litellm(litellm_versions(parse_lock(lock, "the backup")), "Restore another backup.")
    source = replace(find_source(), lock=lock, groups="", wheels=wheels, engine=engine)
    is_built = source.identifier in observe_releases(layout)
    return ReleaseChoice(source.identifier, None if is_built else source)


def _from_bundle(
    layout: Layout,
    gateway: GatewayConfig | None,
    bundle: Path,
    wanted: tuple[str, ...],
    dropped: tuple[str, ...],
    also: tuple[str, ...],
    engine: Path | None,
) -> ReleaseChoice:
    # A late import: it loads what the other verbs do not need.
    from litellm_systemd.releases.bundle import open_own_bundle

    source = open_own_bundle(bundle)
    kept = kept_additions(layout, current_release(layout))
    missing = _missing(gateway, locked_names(source.lock))
    needed = (*also, *(each.group for each in missing if each.group is not None))
    chosen = choose_additions(kept.names, Additions(wanted, dropped, needed))
    require_additions(bundle, source.lock, chosen, dropped)
    if engine is not None:
        source = replace(source, lock=with_engine(source.lock, platform.machine(), engine), engine=engine)
    return ReleaseChoice(source.identifier, source, tuple(_notes(missing, (), dropped)))


def _choose(
    kept: Kept,
    gateway: GatewayConfig | None,
    wanted: tuple[str, ...],
    dropped: tuple[str, ...],
    lock: str,
    also: tuple[str, ...] = (),
) -> tuple[tuple[str, ...], tuple[Missing, ...]]:
    """All additions, and what the configuration needs in addition to those that are kept and wanted."""
    remaining = choose_additions(kept.names, Additions(wanted, dropped))
    # The next release has the base that ships, whatever that of the release in use lacks.
    missing = _missing(gateway, list_packages(lock, remaining) | locked_names(read_lock()))
    needed = tuple(dict.fromkeys((*also, *(each.group for each in missing if each.group is not None))))
    return choose_additions(kept.names, Additions(wanted, dropped, needed)), missing


def _missing(gateway: GatewayConfig | None, present: frozenset[str]) -> tuple[Missing, ...]:
    return () if gateway is None else missing_packages(gateway, present)


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


def bundle_source(
    target: Target, gateway: GatewayConfig | None, wanted: tuple[str, ...], say: Say, engine: Path | None = None
) -> Source:
    """The source of a bundle: this package with the additions of its release, and those that are wanted or needed.

    Raises:
        InstallerError: as `choose_release`.
    """
    source, kept = find_source(), own_additions() or Kept()
    chosen = choose_additions(kept.names, Additions(wanted))
    if gateway is not None:
        chosen, _ = _choose(kept, gateway, wanted, (), source.lock)
    is_here = (target.python, target.machine) == ("{}.{}".format(*sys.version_info), platform.machine())
    if not chosen:
        return source
    engine = None if engine is None else read_given(engine)
    return extend(source, chosen, kept, target=None if is_here else target, engine=engine, say=say)
