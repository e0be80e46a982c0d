"""The checks of `verify` that need a database: a virtual key works, is limited and charged, and can be deleted.

The key expires after some minutes, so that one of a run that was killed is of no use.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial

from litellm_systemd.client.gateway import Gateway
from litellm_systemd.client.management import Management
from litellm_systemd.command import uninterruptible
from litellm_systemd.errors import InstallerError, PermissionDenied
from litellm_systemd.report.report import Outcome, render_count
from litellm_systemd.verify.answers import CheckResult, FailureScope, build_question, describe_failure
from litellm_systemd.verify.checks import CHAT, MODELS, PROMPT, check_chat

#: The alias of the key begins with it. No other key may have it: those that have expired are deleted.
ALIAS = "litellmctl-verify-"
#: Longer than a run takes. In LiteLLM's form.
_LIFETIME = "15m"
#: Seconds. LiteLLM writes what was spent every 10 to 15 s (PROXY_BATCH_WRITE_AT), later if PostgreSQL is slow.
_SPEND_WAIT = 45.0
#: Seconds for which a worker remembers a key that it has served (user_api_key_cache_ttl), and some more.
_DELETED_WAIT = 65.0
_PAUSE = 0.5
#: Seconds for the removal of the key, which a signal does not interrupt.
_DELETE_TIMEOUT = 10.0
#: Requested if the gateway has one model only.
_NO_MODEL = "a-model-of-no-key"

_SPEND_HINT = "LiteLLM counts no spend, so no budget holds. Its journal has the cause: `journalctl -u litellm -n 50`."
_DELETED_HINT = "Deleted keys stay valid: look for user_api_key_cache_ttl in general_settings."


class TrialKey:
    """A key for one model, and the checks with it. `remove` it when they are over, whatever happened."""

    def __init__(
        self,
        gateway: Gateway,
        model: str,
        other: str | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gateway, self._api = gateway, Management(gateway)
        self._model, self._other = model, other or _NO_MODEL
        self._clock, self._sleep = clock, sleep
        self._alias = f"{ALIAS}{secrets.token_hex(8)}"
        self._key = self._token = ""
        self._may_exist = False

    def check_created(self) -> CheckResult:
        """LiteLLM creates a key. With a key that may not do that, the checks are skipped."""
        body = {"key_alias": self._alias, "models": [self._model], "duration": _LIFETIME}
        try:
            self._delete_expired()
            self._may_exist = True
            answer = self._api.post("/key/generate", body)
            self._key, self._token = answer["key"], answer["token"]
        except PermissionDenied:
            return CheckResult(Outcome.SKIPPED, "this API key may not create keys")
        except InstallerError as error:
            return CheckResult(Outcome.FAILED, error.message, error.hint)
        return CheckResult(Outcome.OK, f"created for {self._model}")

    def check_chat(self) -> CheckResult:
        """The key is accepted for its model."""
        return self._with_key(lambda: check_chat(replace(self._gateway, api_key=self._key), self._model, CHAT))

    def check_another_model(self) -> CheckResult:
        """The key is refused for another model."""
        return self._with_key(self._check_another_model)

    def _check_another_model(self) -> CheckResult:
        gateway = self._gateway.with_refused_key(self._key)
        answer = gateway.post(CHAT, build_question(self._other, PROMPT))
        if answer.status in (401, 403):
            return CheckResult(Outcome.OK, f"HTTP {answer.status} for {self._other}", data={"status": answer.status})
        detail = f"{describe_failure(gateway, answer)} for {self._other}, which the key lacks (not 401 or 403)"
        return CheckResult(Outcome.FAILED, detail, "Keys are not limited to their models.", FailureScope.NOTHING)

    def check_spend(self) -> CheckResult:
        """The request of the key is in the spend."""
        return self._with_key(self._check_spend)

    def _check_spend(self) -> CheckResult:
        day, until = datetime.now(timezone.utc).date(), self._clock() + _SPEND_WAIT
        # The request may have been made before midnight.
        dates = {"start_date": day - timedelta(days=1), "end_date": day + timedelta(days=1)}
        read = partial(self._api.get, "/user/daily/activity/export", **dates, format="json", api_key=self._token)
        try:
            while not (rows := [row for row in read(export_type="daily_with_keys") if row["successful_requests"]]):
                if self._clock() > until:
                    detail = f"its request is not in the spend after {_SPEND_WAIT:.0f} s"
                    return CheckResult(Outcome.FAILED, detail, _SPEND_HINT, FailureScope.NOTHING)
                self._sleep(_PAUSE)
        except InstallerError as error:
            return CheckResult(Outcome.FAILED, error.message, error.hint, FailureScope.NOTHING)
        spent, count = sum(row["spend"] for row in rows), sum(row["successful_requests"] for row in rows)
        return CheckResult(Outcome.OK, f"{render_count(count, 'request')}, ${spent:.6f}", data={"spend": spent})

    def check_deleted(self) -> CheckResult:
        """LiteLLM deletes the key, and a worker refuses it, which may take as long as a worker remembers it."""
        return self._with_key(self._check_deleted)

    def _check_deleted(self) -> CheckResult:
        key, until = self._key, self._clock() + _DELETED_WAIT
        try:
            self._delete(self._alias)
        except InstallerError as error:
            return CheckResult(Outcome.FAILED, error.message, error.hint, FailureScope.NOTHING)
        self._key, self._may_exist = "", False
        gateway = self._gateway.with_refused_key(key)
        # One refusal proves it: another worker may remember the key for longer.
        while (answer := gateway.get(MODELS)).ok:
            if self._clock() > until:
                detail = f"it is still accepted {_DELETED_WAIT:.0f} s after it was deleted"
                return CheckResult(Outcome.FAILED, detail, _DELETED_HINT, FailureScope.NOTHING)
            self._sleep(_PAUSE)
        if answer.status not in (401, 403):
            detail = f"{describe_failure(gateway, answer)} (not 401 or 403)"
            return CheckResult(Outcome.FAILED, detail, _DELETED_HINT, FailureScope.NOTHING)
        return CheckResult(Outcome.OK, f"HTTP {answer.status}", data={"status": answer.status})

    def remove(self) -> None:
        """Delete the key, if there is one. No signal interrupts this, and a failure is no error: the key expires."""
        if self._may_exist:
            with uninterruptible(), contextlib.suppress(InstallerError):
                self._delete(self._alias)

    def _delete(self, *aliases: str) -> None:
        gateway = replace(self._gateway, timeout=min(_DELETE_TIMEOUT, self._gateway.timeout))
        Management(gateway).post("/key/delete", {"key_aliases": list(aliases)})

    def _delete_expired(self) -> None:
        """Delete the keys of runs that were killed."""
        found = self._api.get("/key/list", search=ALIAS, expires="expired", return_full_object="true", size=100)
        aliases = [row["key_alias"] for row in found["keys"] if str(row["key_alias"]).startswith(ALIAS)]
        if aliases:
            self._delete(*aliases)

    def _with_key(self, check: Callable[[], CheckResult]) -> CheckResult:
        return check() if self._key else CheckResult(Outcome.SKIPPED, "there is no virtual key")
