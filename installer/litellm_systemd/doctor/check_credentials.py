"""The AWS credentials that the environment holds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

from litellm_systemd.doctor.cause import Cause, Finding, looks_for
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.expiry import judge_end
from litellm_systemd.report.report import Outcome

ENDED = Cause(
    "environment-credentials",
    "The temporary AWS credentials in the environment end within the hour (a warning), or have: every call to Bedrock"
    " is refused then.",
    "litellmctl init --force --from-profile PROFILE, or new ones into your .env; then: sudo litellmctl install",
    needs=("files-not-installed", "environment-unusable"),
)


@looks_for(ENDED)
def ended(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether temporary credentials last. Nothing is said of those whose end nobody stored: install did."""
    found = judge_end(snapshot.environment, datetime.now(timezone.utc))
    if found is not None and found.outcome in (Outcome.WARNING, Outcome.FAILED):
        yield ENDED.found(f"{snapshot.layout.environment_file}: they {found.detail}", outcome=found.outcome)
