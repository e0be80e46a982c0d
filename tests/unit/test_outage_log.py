"""What the journal says of a server that workers cannot use."""

from __future__ import annotations

from litellm_systemd.runtime.master.outage_log import build_redis_log


def test_outage_is_logged_once() -> None:
    """An outage is one error, and its end one notice. A configuration without that server is no end of an outage."""
    errors: list[str] = []
    notices: list[str] = []
    log = build_redis_log(errors.append, notices.append, workers=2)
    log.update(["", "Connection refused.", None], 10)
    log.update(["Connection refused."], 20)
    (error,) = errors
    assert error.startswith("Redis cannot be used: Connection refused. Until it can, each of the 2 workers")
    log.update(["", None], 35)
    assert notices == ["Redis can be used again, after 25 s: limits, cooldowns and cache are shared"]
    log.update(["Connection refused."], 40)
    log.update([None], 50)
    assert (len(errors), len(notices), log.cause, log.is_used) == (2, 1, "", False)
