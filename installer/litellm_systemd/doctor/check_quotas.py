"""What AWS lets the account use of each model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from litellm_systemd.aws.credentials import Caller
from litellm_systemd.aws.quotas import find_default, list_quotas
from litellm_systemd.bedrock.quotas import ENOUGH_TOKENS, Quota, has_quota, holds_for, is_too_small
from litellm_systemd.doctor.cause import Cause, Finding, looks_for
from litellm_systemd.doctor.check_aws import ACCESS, find_callers
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import Unavailable
from litellm_systemd.report.report import Outcome

SMALL = Cause(
    "aws-quota-small",
    "AWS lets the account use so few tokens of the model in a minute that a coding agent gets 429 all the time, as is"
    " usual with new accounts; with 0 no call is answered.",
    "{remedy}",
    outcome=Outcome.WARNING,
    needs=ACCESS.needs,
    spared_by=ACCESS.spared_by,
)


@looks_for(SMALL)
def small(snapshot: Snapshot) -> Iterator[Finding | str]:
    """Whether the account's quota of each model is enough for a coding agent, where Service Quotas may be asked."""
    end = time.monotonic() + snapshot.patience
    callers = find_callers(snapshot)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: _Read(each, end), callers))
    for read in found:
        yield from read.tell()
    for read in found:
        if read.trouble:
            raise Unavailable(read.trouble)


class _Read:
    """The quotas of one caller's models, by the ids that these are called by; and what kept it from reading on."""

    def __init__(self, caller: Caller, end: float) -> None:
        self._caller = caller
        self._models = {each.found.text: each for each in caller.models if each.found and has_quota(each.found)}
        self._quotas: dict[str, Quota] = {}
        self.trouble = ""
        try:
            self._read(end)
        except Unavailable as error:
            self.trouble = error.message

    def _read(self, end: float) -> None:
        """Read until all is known to be well, or to the end: of two quotas that fit a model the larger one holds."""
        if not self._models:
            return
        for quota in list_quotas(self._caller.environ, self._caller.region):
            for called, each in self._models.items():
                before = self._quotas.get(called)
                if each.found and holds_for(quota, each.found) and (before is None or before.value < quota.value):
                    self._quotas[called] = quota
            if all(called in self._quotas and not self._is_small(called) for called in self._models):
                return
            if time.monotonic() > end:
                raise Unavailable("Service Quotas takes too long to tell all of Bedrock's quotas")

    def _is_small(self, called: str) -> bool:
        entry = self._models[called].entry
        return is_too_small(self._quotas[called], entry.context if entry is not None else None)

    def tell(self) -> Iterator[Finding | str]:
        """A finding for each that is too small, and for the others what they are."""
        region = self._caller.region
        for called, quota in self._quotas.items():
            name, tokens = self._models[called].model.name, f"{quota.value:,.0f} tokens a minute"
            seen = f"{name} ({called} in {region}): {tokens} (quota {quota.code}, {quota.name})"
            if not self._is_small(called):
                yield seen
                continue
            default = find_default(self._caller.environ, region, quota.code)
            more = "" if default is None else f"; AWS's default is {default:,.0f}"
            yield SMALL.found(seen + more, remedy=_remedy(quota, region, default))


def _remedy(quota: Quota, region: str, default: float | None) -> str:
    if not quota.is_adjustable:
        return (
            f"# {quota.code} can't be raised by a request: write to AWS Support (account and billing, Amazon Bedrock)"
        )
    # RequestServiceQuotaIncrease refuses what isn't above the default, even where less than that is applied.
    wanted = "N" if default is None else str(max(int(default) + 1, ENOUGH_TOKENS))
    return (
        f"aws service-quotas request-service-quota-increase --region {region} --service-code bedrock"
        f" --quota-code {quota.code} --desired-value {wanted}    # it must be above AWS's default; in the case that"
        " it opens, ask for what you need"
    )
