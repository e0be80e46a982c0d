"""An instance of an Auto Scaling group: the state that it is to get, and the lifecycle hook that waits for it.

Source: user guide of EC2 Auto Scaling, "Retrieve the target lifecycle state through instance metadata" and "How
lifecycle hooks work".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from litellm_systemd.aws.client import Refused, connect, describe_error, describe_refusal
from litellm_systemd.aws.sources import read_metadata
from litellm_systemd.env.aws import CREDENTIAL_VARIABLES
from litellm_systemd.errors import Unavailable, UsageError

#: The states of an instance that is to end, the second in a warm pool.
_ENDS = ("Terminated", "Warmed:Terminated")
#: The name of a group has no colon.
_HOOK = re.compile(r"([^:\s]+):([\w/-]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Hook:
    """A lifecycle hook of an Auto Scaling group."""

    group: str
    name: str


@dataclass(frozen=True, slots=True)
class Target:
    """An instance, its region, and the lifecycle state that it is to get; empty outside of a group."""

    instance: str
    region: str
    state: str

    @property
    def is_end(self) -> bool:
        return self.state in _ENDS


def parse_hook(text: str) -> Hook:
    """The hook in `GROUP:HOOK`. Raises UsageError for another text."""
    match = _HOOK.fullmatch(text)
    if match is None:
        raise UsageError(f"{text} is not a lifecycle hook", "Write the Auto Scaling group and the hook: GROUP:HOOK")
    return Hook(match[1], match[2])


def read_target(environ: Mapping[str, str]) -> Target:
    """What the instance metadata report. Raises Unavailable if none answer."""
    paths = ("instance-id", "placement/region", "autoscaling/target-lifecycle-state")
    return Target(*read_metadata(environ, *paths))


def complete_hook(hook: Hook, target: Target, environ: Mapping[str, str]) -> bool:
    """Complete a hook with the role of the instance, and return whether it was waiting.

    `environ`: the service's environment, with its endpoints, proxy and CA; its credentials are not used.

    Raises:
        Unavailable: AWS can't be reached, or refuses it.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    own = {name: value for name, value in environ.items() if name not in CREDENTIAL_VARIABLES}
    try:
        connect(own, target.region, "autoscaling").complete_lifecycle_action(
            AutoScalingGroupName=hook.group,
            LifecycleHookName=hook.name,
            InstanceId=target.instance,
            LifecycleActionResult="CONTINUE",
        )
    except ClientError as error:
        if "No active Lifecycle Action" in error.response.get("Error", {}).get("Message", ""):
            return False
        raise _unavailable(hook, describe_refusal(error)) from None
    except BotoCoreError as error:
        raise _unavailable(hook, describe_error(error)) from None
    except Refused as error:
        raise _unavailable(hook, str(error)) from None
    return True


def _unavailable(hook: Hook, why: str) -> Unavailable:
    return Unavailable(
        f"the lifecycle hook {hook.name} of {hook.group} can't be completed: {why}",
        "The role of the instance needs autoscaling:CompleteLifecycleAction on its group.",
    )
