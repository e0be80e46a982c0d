"""The journal: does it record what the service logs?"""

from __future__ import annotations

from collections.abc import Iterator

from litellm_systemd import contract
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.report.report import Outcome, render_count

JOURNAL = Cause(
    "host-journal",
    "The journal does not record what the service logs: doctor and 'litellmctl logs' cannot see its errors, and the"
    " checks that need them are not made.",
    "{remedy}",
    outcome=Outcome.WARNING,
    requires=("host-systemd-absent", "host-systemd-silent", "files-not-installed"),
)


@detects(JOURNAL)
def detect_host_journal(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a journald that does not run, stores nothing or drops messages, and a unit that logs elsewhere."""
    if (gap := snapshot.journal_gap) is not None:
        yield JOURNAL.finding(gap.reason, remedy=gap.remedy)
    elif dropped := snapshot.systemctl.dropped_messages(contract.SERVICE):
        evidence = f"journald dropped {render_count(dropped, 'message')} of {contract.SERVICE} since boot"
        remedy = "litellmctl logs -p warning    # shows what repeats; the limit is RateLimitBurst= in journald.conf"
        yield JOURNAL.finding(evidence, remedy=remedy)
