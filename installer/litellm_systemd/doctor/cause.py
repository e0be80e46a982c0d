"""Values: a cause that doctor knows, a finding, and the check that detects a cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from litellm_systemd.host.state import Action
from litellm_systemd.report.report import Outcome

if TYPE_CHECKING:
    from litellm_systemd.doctor.snapshot import Snapshot

DOCS = "docs/troubleshooting.md"

#: For a release that can no longer run: litellmctl is one of its programs. units/litellmctl.j2 prints it as well.
REINSTALL = (
    "/usr/bin/python3 -m venv DIR && DIR/bin/pip install litellm-systemd"
    " && sudo DIR/bin/litellmctl install --installed    # or, in a checkout: sudo ./scripts/quickstart.sh"
)


@dataclass(frozen=True, slots=True)
class Cause:
    """One possible cause of a problem.

    `id` is stable and begins with the group. `explanation` says what it does to the service. `remedy` is the command
    that fixes it, a template for `str.format`. `outcome` is FAILED or WARNING, unless a finding overrides it. `fix`
    describes what `doctor --fix` does; empty if it does nothing.

    Three fields name other causes by id. `requires`: this cause is checked only if those are absent and were checked.
    `skipped_if`: this cause is not checked if one of those is found, but is checked if those could not be checked.
    `caused_by`: if one of those is found, this cause is reported as its consequence.
    """

    id: str
    explanation: str
    remedy: str
    outcome: Outcome = Outcome.FAILED
    fix: str = ""
    requires: tuple[str, ...] = ()
    skipped_if: tuple[str, ...] = ()
    caused_by: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The first word of the id, such as `host`."""
        return self.id.split("-")[0]

    @property
    def link(self) -> str:
        """Path and anchor of its documentation."""
        return f"{DOCS}#{self.id}"

    def finding(
        self,
        evidence: str,
        *,
        outcome: Outcome | None = None,
        actions: tuple[Action, ...] = (),
        **values: str,
    ) -> Finding:
        """A finding of this cause; `values` fill the template of the remedy."""
        return Finding(self, evidence, self.remedy.format_map(values), outcome or self.outcome, actions)


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause that was detected.

    `evidence` is the line or value that shows it, `remedy` the command that fixes it on this host, and `actions` are
    the steps that `doctor --fix` takes.
    """

    cause: Cause
    evidence: str
    remedy: str
    outcome: Outcome
    actions: tuple[Action, ...] = ()


#: Yields findings. A plain string is an observation that is not a problem, for `doctor --json` and bug reports.
Detector = Callable[["Snapshot"], Iterator[Finding | str]]


@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """A cause and the function that detects it, which raises InstallerError or OSError if it cannot check."""

    cause: Cause
    detect: Detector


def detects(cause: Cause) -> Callable[[Detector], DoctorCheck]:
    """Decorator: make a check of the function that detects `cause`."""
    return lambda detect: DoctorCheck(cause, detect)
