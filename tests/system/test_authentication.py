"""Wrong keys at an installed service: what clients, the journal and `verify` say."""

from __future__ import annotations

import json

from box import Box
from service import chat, ctl, said, set_up

WRONG = "sk-by-mistake-0123456789"


def test_wrong_keys(idle_box: Box) -> None:
    """100 requests with a wrong key are one notice, which `logs --errors` explains. Those of `verify` are not."""
    set_up(idle_box, "NUM_WORKERS=2\n")
    checks = {check["name"]: check for check in json.loads(ctl(idle_box, "verify", "--no-spend", "--json"))["checks"]}
    assert {checks[f"refuses a {kind} key"]["detail"] for kind in ("missing", "wrong")} == {"HTTP 401"}
    assert {chat(idle_box, bearer=WRONG) for _ in range(100)} == {401}
    idle_box.wait_until(lambda: refusals(idle_box), 30, "the line about the wrong keys")
    assert refusals(idle_box) == ["refused 100 requests with a wrong key, from 127.0.0.1 (100)"]
    assert said(idle_box, priority="warning") == []
    assert WRONG not in "\n".join(said(idle_box))
    groups = json.loads(ctl(idle_box, "logs", "--errors", "-p", "notice", "--boot", "--json"))["data"]["groups"]
    (group,) = (group for group in groups if group["kind"] == "client-key")
    assert (group["count"], group["means"]) == (1, "A client sent no key or a wrong one")


def refusals(box: Box) -> list[str]:
    """The notices about refused requests, without date and process."""
    lines = said(box, priority="notice")
    return [line[line.index("refused ") :] for line in lines if "refused " in line]
