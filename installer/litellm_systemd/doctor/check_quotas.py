"""Bedrock quotas: are they large enough for a coding agent?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from litellm_systemd.aws.bedrock import find_default, list_quotas
from litellm_systemd.aws.credentials import Caller
from litellm_systemd.bedrock.quotas import ENOUGH_TOKENS, Quota, applies_to, has_quota, is_too_small
from litellm_systemd.doctor.cause import Cause, Finding, detects
from litellm_systemd.doctor.check_aws import ACCESS, find_callers
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import Unavailable
from litellm_systemd.report.report import Outcome

SMALL = Cause(
    "aws-quota-small",
    "The account's quota of tokens per minute is so small, as is usual for new accounts, that a coding agent keeps"
    " getting status 429; with a quota of 0 every call fails.",
    "{remedy}",
    outcome=Outcome.WARNING,
    requires=ACCESS.requires,
    skipped_if=ACCESS.skipped_if,
)


@detects(SMALL)
def detect_aws_quota_small(snapshot: Snapshot) -> Iterator[Finding | str]:
    """Detect quotas that are too small for a coding agent, if the service may query Service Quotas."""
    end = time.monotonic() + snapshot.optional_timeout
    callers = find_callers(snapshot)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda caller: _CallerQuotas(caller, end), callers))
    for quotas in found:
        yield from quotas.findings()
    for quotas in found:
        if quotas.error:
            raise Unavailable(quotas.error)


class _CallerQuotas:
    """The quotas of one caller's models, by the ids in its calls; `error` says why some are missing."""

    def __init__(self, caller: Caller, end: float) -> None:
        self._caller = caller
        self._models = {each.found.text: each for each in caller.models if each.found and has_quota(each.found)}
        self._quotas: dict[str, Quota] = {}
        self.error = ""
        try:
            self._read(end)
        except Unavailable as error:
            self.error = error.message

    def _read(self, end: float) -> None:
        """Read until every model has a sufficient quota, or to the end: of two matching quotas the larger counts."""
        if not self._models:
            return
        for quota in list_quotas(self._caller.environ, self._caller.region):
            for called, each in self._models.items():
                before = self._quotas.get(called)
                if each.found and applies_to(quota, each.found) and (before is None or before.value < quota.value):
                    self._quotas[called] = quota
            if all(called in self._quotas and not self._is_small(called) for called in self._models):
                return
            if time.monotonic() > end:
                raise Unavailable("Service Quotas did not list all Bedrock quotas in time")

    def _is_small(self, called: str) -> bool:
        entry = self._models[called].entry
        return is_too_small(self._quotas[called], entry.context if entry is not None else None)

    def findings(self) -> Iterator[Finding | str]:
        """A finding for each quota that is too small, and an observation for each of the others."""
        region = self._caller.region
        for called, quota in self._quotas.items():
            name, tokens = self._models[called].model.name, f"{quota.value:,.0f} tokens per minute"
            evidence = f"{name} ({called} in {region}): {tokens} (quota {quota.code}, {quota.name})"
            if not self._is_small(called):
                yield evidence
                continue
            default = find_default(self._caller.environ, region, quota.code)
            more = "" if default is None else f"; AWS's default is {default:,.0f}"
            yield SMALL.finding(evidence + more, remedy=_remedy(quota, region, default))


def _remedy(quota: Quota, region: str, default: float | None) -> str:
    if not quota.is_adjustable:
        return (
            f"# {quota.code} cannot be raised by a request: contact AWS Support (account and billing, Amazon Bedrock)"
        )
    # RequestServiceQuotaIncrease rejects values up to AWS's default, even if the applied value is lower.
    wanted = "N" if default is None else str(max(int(default) + 1, ENOUGH_TOKENS))
    return (
        f"aws service-quotas request-service-quota-increase --region {region} --service-code bedrock"
        f" --quota-code {quota.code} --desired-value {wanted}    # the value must be above AWS's default; state what"
        " you need in the support case that this opens"
    )
