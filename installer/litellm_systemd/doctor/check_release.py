"""The active release: is it damaged, and is its LiteLLM compromised, vulnerable or old? Needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from fnmatch import fnmatch

from litellm_systemd import contract
from litellm_systemd.doctor.check_service import is_short_of_workers
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.host.files import read_numbered_lines
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import observe_releases
from litellm_systemd.host.state import Action, Verb
from litellm_systemd.releases.advisories import list_advisories
from litellm_systemd.releases.bad_versions import find_bad
from litellm_systemd.releases.integrity import Verification, verify_release
from litellm_systemd.releases.inventory import Release, current_release, installed_litellm, read_release
from litellm_systemd.report.report import Outcome

#: Days. Advisories for LiteLLM came every few weeks in 2026, and only the last four minor versions get fixes.
_MAX_AGE = 60
_UPGRADE = "sudo litellmctl upgrade    # or, for LiteLLM alone: sudo litellmctl upgrade --litellm VERSION"


def _versions(snapshot: Snapshot) -> tuple[str, ...]:
    current = current_release(snapshot.layout)
    return () if current is None else installed_litellm(snapshot.layout, current)


DAMAGED = Cause(
    "release-damaged",
    "Files of the release are missing, changed or not readable, as after a power failure, an error of the disk, or an"
    " install with pip or uv into its venv. A running service degrades, and may not start again.",
    "sudo litellmctl install --installed    # without a package index: add --bundle FILE",
    fix="restores the modes of the files, or builds the release again, and starts a service that failed",
)
#: Seconds for the check, which takes a fraction of one second on an idle host, and for reading files within it.
_TIMEOUT, _READ_TIME = 20.0, 5.0


@detects(DAMAGED, timeout=_TIMEOUT)
def detect_release_damaged(snapshot: Snapshot) -> Iterator[Finding | str]:
    """Detect missing, changed and unreadable files. If the service does not run, the content of all is read."""
    current = current_release(snapshot.layout)
    if current not in observe_releases(snapshot.layout):
        return
    is_thorough = not _is_healthy(snapshot)
    found = verify_release(snapshot.layout, current, is_thorough=is_thorough, seconds=_READ_TIME)
    cleaner = find_cleaner(snapshot.layout, current) if found.missing else None
    for finding in damage_findings(snapshot.layout, current, found, is_active=snapshot.is_active):
        if cleaner is None:
            yield finding
        else:
            remedy = f"sudoedit {cleaner.path}    # remove the line; then: {finding.remedy}"
            yield replace(finding, evidence=f"{cleaner}: {finding.evidence}", remedy=remedy)
    if not found.is_complete:
        yield f"{found.number} files compared: to compare all of them, run litellmctl releases verify"


def damage_findings(layout: Layout, release: str, found: Verification, *, is_active: bool) -> Iterator[Finding]:
    """The finding about a damaged release; none if it is undamaged."""
    if found.is_damaged:
        actions = [Action(Verb.BUILD_RELEASE, layout.release(release))]
        if is_active and (found.missing or found.changed):
            actions.append(Action(Verb.RESTART, contract.SERVICE))
        slow = "; Python compiles their modules at each start, which takes longer" if found.is_slow else ""
        outcome = Outcome.WARNING if found.is_slow else None
        yield DAMAGED.finding(f"{release}: {found.render()}{slow}", outcome=outcome, actions=tuple(actions))


CLEANED = Cause(
    "release-cleaned",
    "systemd-tmpfiles deletes files of the release or of the service that are older than the age in this line.",
    "sudoedit {path}    # remove the line, or give it the age -",
    Outcome.WARNING,
    skipped_if=("release-damaged",),
)


@detects(CLEANED)
def detect_release_cleaned(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a line of tmpfiles.d(5) that deletes files of the service."""
    current = current_release(snapshot.layout)
    if current is not None and (cleaner := find_cleaner(snapshot.layout, current)) is not None:
        yield CLEANED.finding(str(cleaner), path=cleaner.path)


@dataclass(frozen=True, slots=True)
class CleaningLine:
    """A line of tmpfiles.d(5) that deletes files."""

    path: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.number}: {self.text}"


#: The folders of tmpfiles.d(5): a file in a later one replaces that with the same name.
_TMPFILES = ("/usr/lib/tmpfiles.d", "/usr/local/lib/tmpfiles.d", "/run/tmpfiles.d", "/etc/tmpfiles.d")
#: Types of lines that delete what is old, or all, and that protect a path.
_AGED, _REMOVED, _KEPT = "dDevqQC", "rRD", "xX"


def find_cleaner(layout: Layout, release: str) -> CleaningLine | None:
    """The first line of tmpfiles.d(5) that deletes files of a release, or of the folders of the service."""
    files: dict[str, str] = {}
    for folder in _TMPFILES:
        files |= {path.name: f"{folder}/{path.name}" for path in layout.real(folder).glob("*.conf")}
    folders = (layout.release(release), layout.current, layout.etc, layout.state, layout.own_state)
    found = []
    for _, path in sorted(files.items()):
        for number, line in read_numbered_lines(layout.real(path)):
            kind, target, *fields = (*line.split(), "", "")
            if not any(_is_same_branch(each, target) for each in folders):
                continue
            if kind[0] in _KEPT:
                return None
            is_aged = kind[0] in _AGED and len(fields) > _AGE and fields[_AGE] not in ("", "-")
            if is_aged or kind[0] in _REMOVED:
                found.append(CleaningLine(path, number, " ".join(line.split())))
    return found[0] if found else None


def _is_same_branch(path: str, pattern: str) -> bool:
    """Whether a pattern is for a path, a folder above it, or something below it."""
    return pattern.startswith("/") and all(map(fnmatch, path.split("/"), pattern.split("/")))


#: The place of the age after the path: mode, user, group, age.
_AGE = 3


def _is_healthy(snapshot: Snapshot) -> bool:
    """Whether the service did not fail, and no worker cannot start."""
    service = snapshot.service
    failed = service.get("ActiveState") in ("failed", "activating") or service.get("NRestarts", "0") != "0"
    return not failed and not is_short_of_workers(service.get("StatusText", ""))


COMPROMISED = Cause(
    "release-compromised",
    "The release contains a LiteLLM that was published with malicious code. Each secret that it could read may be"
    " stolen.",
    "sudo litellmctl upgrade    # then replace the master key, the AWS keys and every other secret of this host",
)


@detects(COMPROMISED)
def detect_release_compromised(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a version that no release may contain, also if it was installed by hand."""
    for bad in filter(None, map(find_bad, _versions(snapshot))):
        yield COMPROMISED.finding(f"LiteLLM {bad.version}: {bad.reason} ({bad.source})")


ADVISORY = Cause(
    "release-advisory",
    "A security advisory covers the installed LiteLLM. litellm-systemd knows those that were published before its own"
    " release.",
    _UPGRADE,
    Outcome.WARNING,
    skipped_if=("release-compromised",),
)


@detects(ADVISORY)
def detect_release_advisory(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect versions with a known advisory."""
    for version in _versions(snapshot):
        for advisory in list_advisories():
            fix = advisory.fix_for(version)
            if fix is not None:
                names = ", ".join((advisory.id, *advisory.aliases))
                fixed = f"fixed in {fix}" if fix else "without a fix"
                yield ADVISORY.finding(f"LiteLLM {version}: {advisory.summary} ({names}; {fixed}; {advisory.source})")


OLD = Cause(
    "release-old",
    f"The installed LiteLLM is more than {_MAX_AGE} days old, so fixes for later advisories are missing.",
    _UPGRADE,
    Outcome.WARNING,
    skipped_if=("release-compromised",),
)


@detects(OLD)
def detect_release_old(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect an old LiteLLM by the day that the release records."""
    current = current_release(snapshot.layout)
    if current is not None:
        release = read_release(snapshot.layout, current)
        evidence = assess_age(release, date.today())
        if evidence and release.litellm in _versions(snapshot):
            yield OLD.finding(evidence)


def assess_age(release: Release, today: date) -> str:
    """Return the age of a release's LiteLLM as evidence; empty if it is not old.

    If the day of its publication is unknown, as after `upgrade --litellm`, it is at least as old as the release.
    """
    known = release.litellm_released
    try:
        day = date.fromisoformat(known or release.made[:10])
    except ValueError:
        return ""
    age = (today - day).days
    if age <= _MAX_AGE:
        return ""
    verb = "published" if known else "installed"
    return f"LiteLLM {release.litellm} was {verb} {age} days ago, on {day}"
