"""The lifecycle hook of an Auto Scaling group, with the metadata and AWS on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from litellm_systemd.aws.lifecycle import Hook, Target, complete_hook, parse_hook, read_target
from litellm_systemd.commands.lifecycle_hook import observe_variables
from litellm_systemd.errors import Unavailable, UsageError
from litellm_systemd.host.layout import Layout
from tests.fakes import Cloud, run_cloud
from tests.fakes.metadata import INSTANCE

HOOK = Hook("gateway", "drain")


@pytest.fixture
def aws() -> Iterator[Cloud]:
    with run_cloud("eu-central-1") as cloud:
        yield cloud


def test_target_state(aws: Cloud) -> None:
    """An instance that its group terminates, also from a warm pool, differs from those that serve or wait."""
    assert read_target(aws.environment) == Target(INSTANCE, "eu-central-1", "")
    ends = {}
    for state in ("InService", "Standby", "Warmed:Stopped", "Terminated", "Warmed:Terminated"):
        aws.metadata.target_state = state
        ends[state] = read_target(aws.environment).is_end
    assert [state for state, is_end in ends.items() if is_end] == ["Terminated", "Warmed:Terminated"]


def test_hook_is_completed_once_it_waits(aws: Cloud) -> None:
    """Until the group has removed the instance from the load balancer, the hook does not wait. Then it is completed,
    with the role of the instance, whatever keys the service has.
    """
    target = read_target(aws.environment)
    environ = {**aws.environment, "AWS_BEARER_TOKEN_BEDROCK": "ABSK", "AWS_ROLE_NAME": "arn:aws:iam::1:role/x"}
    assert complete_hook(HOOK, target, environ) is False
    aws.autoscaling.waiting = {"gateway:drain"}
    assert complete_hook(HOOK, target, environ) is True
    assert aws.autoscaling.completed == [f"gateway:drain {INSTANCE} CONTINUE"]
    assert aws.seen[-1].arn == aws.metadata.arn


def test_no_permission(aws: Cloud) -> None:
    """Without the permission, the error names the hook and the action."""
    aws.account.denied = {"autoscaling:CompleteLifecycleAction"}
    with pytest.raises(Unavailable, match="the lifecycle hook drain of gateway can't be completed") as refused:
        complete_hook(HOOK, read_target(aws.environment), aws.environment)
    assert "autoscaling:CompleteLifecycleAction" in refused.value.hint


def test_no_instance(aws: Cloud) -> None:
    """Outside of EC2, the error says so."""
    aws.metadata.enabled = False
    with pytest.raises(Unavailable, match="metadata"):
        read_target(aws.environment)


def test_name_of_a_hook() -> None:
    """The group and the hook are separated by a colon, which no group has in its name."""
    assert parse_hook("my/fleet-1:drain") == Hook("my/fleet-1", "drain")
    for text in ("drain", "gateway:", ":drain", "a:b:c", "gateway:dr ain"):
        with pytest.raises(UsageError):
            parse_hook(text)


def test_secrets_that_need_the_tpm(tmp_path: Path) -> None:
    """Secrets that need the TPM, which the sandbox of the unit hides, do not keep the instance from its drain."""
    layout = Layout(root=tmp_path)
    for path, text in ((layout.environment_file, "HTTPS_PROXY=http://proxy:3128\n"), (layout.secrets, "x")):
        layout.real(path).parent.mkdir(parents=True, exist_ok=True)
        layout.real(path).write_text(text)
    assert observe_variables(layout) == {"HTTPS_PROXY": "http://proxy:3128"}
