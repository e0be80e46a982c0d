"""Run the checks side by side, each with a deadline; then tell causes from consequences."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from litellm_systemd.doctor.cause import Cause, Finding, Probe
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import InstallerError
from litellm_systemd.report.report import Outcome

#: Seconds for one check, and for all of them.
EACH, TOTAL = 3.0, 4.5


@dataclass(frozen=True, slots=True)
class CheckRun:
    """How a check went: what it found, or `because` of what it wasn't made, or not to its end.

    `details` are what was seen and isn't wrong.
    """

    cause: Cause
    findings: tuple[Finding, ...] = ()
    because: str = ""
    seconds: float = 0.0
    details: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether what was found is worse than a warning."""
        return any(finding.outcome is Outcome.FAILED for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks, in the order from the ground up."""

    examined: tuple[CheckRun, ...]

    @property
    def causes(self) -> tuple[Finding, ...]:
        """What is wrong: failures before warnings, else from the ground up."""
        found = [finding for finding, cause in self._explained() if not cause]
        return tuple(sorted(found, key=lambda finding: finding.outcome is not Outcome.FAILED))

    @property
    def consequences(self) -> tuple[tuple[Finding, str], ...]:
        """What only follows from a cause, with the id of that one."""
        return tuple((finding, cause) for finding, cause in self._explained() if cause)

    @property
    def unchecked(self) -> tuple[CheckRun, ...]:
        """The checks that weren't made."""
        return tuple(each for each in self.examined if each.because)

    def _explained(self) -> Iterator[tuple[Finding, str]]:
        failed = {each.cause.id for each in self.examined if each.failed}
        for each in self.examined:
            cause = next((name for name in each.cause.follows if name in failed), "")
            yield from ((finding, cause) for finding in each.findings)


def examine(snapshot: Snapshot, probes: Iterable[Probe], *, each: float = EACH, total: float = TOTAL) -> Diagnosis:
    """Make every check that can be made, in threads of their own; returns after `total` seconds at the latest.

    A check that hangs is left behind: its thread ends with the process.
    """
    order = tuple(probes)
    waiting = {probe.cause.id: probe for probe in order}
    known, end = frozenset(waiting), time.monotonic() + total
    done: dict[str, CheckRun] = {}
    running: dict[str, tuple[Probe, float]] = {}
    results: queue.SimpleQueue[CheckRun] = queue.SimpleQueue()
    while waiting or running:
        for probe in _ready(waiting.values(), known, done):
            del waiting[probe.cause.id]
            because = _obstacle(probe.cause, done)
            if because:
                done[probe.cause.id] = CheckRun(probe.cause, because=because)
            else:
                running[probe.cause.id] = probe, min(time.monotonic() + each, end)
                threading.Thread(target=_look, args=(snapshot, probe, results), daemon=True).start()
        if running:
            _collect(running, results, done)
    return Diagnosis(tuple(done[probe.cause.id] for probe in order))


def _ready(waiting: Iterable[Probe], known: frozenset[str], done: Mapping[str, CheckRun]) -> tuple[Probe, ...]:
    def is_ready(cause: Cause) -> bool:
        return all(name in done for name in (*cause.needs, *cause.spared_by) if name in known)

    return tuple(probe for probe in waiting if is_ready(probe.cause))


def _obstacle(cause: Cause, done: Mapping[str, CheckRun]) -> str:
    """Why the check can't be made: a failure of one that it needs, or whatever kept that one from being made."""
    for need in (*cause.needs, *cause.spared_by):
        examined = done.get(need)
        if examined is not None and examined.failed:
            return f"{need} has to be mended first"
        if examined is not None and examined.because and need in cause.needs:
            return examined.because
    return ""


def _look(snapshot: Snapshot, probe: Probe, results: queue.SimpleQueue[CheckRun]) -> None:
    began, findings, details, because = time.monotonic(), list[Finding](), list[str](), ""
    try:
        for found in probe.look(snapshot):
            if isinstance(found, Finding):
                findings.append(found)
            else:
                details.append(found)
    except InstallerError as error:
        because = error.message
    except OSError as error:
        because = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except Exception as error:  # one bad check must not take the others along
        because = f"a defect of this check: {type(error).__name__}: {error}"
    results.put(CheckRun(probe.cause, tuple(findings), because, time.monotonic() - began, tuple(details)))


def _collect(
    running: dict[str, tuple[Probe, float]], results: queue.SimpleQueue[CheckRun], done: dict[str, CheckRun]
) -> None:
    """Take the next result; or give up those whose time is over."""
    try:
        rest = min(deadline for _, deadline in running.values()) - time.monotonic()
        examined = results.get(timeout=max(0.0, rest))
        # One that was given up may still come to an end.
        if running.pop(examined.cause.id, None):
            done[examined.cause.id] = examined
    except queue.Empty:
        now = time.monotonic()
        for name, (probe, deadline) in list(running.items()):
            if deadline <= now:
                del running[name]
                done[name] = CheckRun(probe.cause, because="it didn't come to an end in time")
