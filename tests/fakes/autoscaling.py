"""A fake EC2 Auto Scaling: CompleteLifecycleAction in the query protocol."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from tests.fakes.account import Account, Key
from tests.fakes.http import Reply, Request
from tests.fakes.refusals import refuse
from tests.fakes.signature import identify

VERSION = "2011-01-01"


@dataclass
class AutoScaling:
    """The hooks of one account in one region: `waiting` are `GROUP:HOOK` of those that wait for an instance.

    `completed` are the completions so far: `GROUP:HOOK INSTANCE RESULT`.
    """

    account: Account
    region: str
    waiting: set[str] = field(default_factory=set)
    completed: list[str] = field(default_factory=list)

    def answer(self, request: Request) -> tuple[Key, Reply]:
        """The key of the caller and the response. Raises Refused."""
        key = identify(request, self.account, "autoscaling", (self.region,))
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        action = form.get("Action", "")
        if action != "CompleteLifecycleAction":
            raise refuse(400, "InvalidAction", f"Could not find operation {action} for version {VERSION}")
        if f"autoscaling:{action}" in self.account.denied:
            raise refuse(403, "AccessDenied", f"User: {key.arn} is not authorized to perform: autoscaling:{action}")
        hook = f"{form['AutoScalingGroupName']}:{form['LifecycleHookName']}"
        if hook not in self.waiting:
            raise refuse(
                400, "ValidationError", f"No active Lifecycle Action found with instance ID {form['InstanceId']}"
            )
        self.waiting.discard(hook)
        self.completed.append(f"{hook} {form['InstanceId']} {form['LifecycleActionResult']}")
        body = (
            f'<{action}Response xmlns="http://autoscaling.amazonaws.com/doc/{VERSION}/"><{action}Result/>'
            f"<ResponseMetadata><RequestId>{uuid.uuid4()}</RequestId></ResponseMetadata></{action}Response>"
        )
        return key, Reply(200, body.encode(), {"Content-Type": "text/xml"})
