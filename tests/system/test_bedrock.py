"""The three ways to Amazon Bedrock, and the other variables for AWS, on a real systemd with AWS on loopback.

The gateway is installed by its own verbs, from the example of .env and the shipped configurations as they are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
from aws import API, METADATA_6, TOOLS, chats, complete, control_fakes, leave_ec2, point_service, start_aws
from box import Box, Image, Namespaces
from host_binds import releases_bind
from load import loaded
from service import MODEL, ctl, processes, set_env, state
from tests.bundle import own_bundle
from tests.fakes import API_KEY, USER
from tests.refusal_models import SHOWN, build_config, build_scripts

from litellm_systemd.bedrock.refusals import REFUSALS

MakeBox = Callable[..., Box]
KEYS = f"AWS_ACCESS_KEY_ID={USER.access_key}\nAWS_SECRET_ACCESS_KEY={USER.secret_key}\n"
ROTATIONS = 10


@pytest.fixture(scope="module")
def instance(namespaces: Namespaces, idle_image: Image, measured: dict[str, Any]) -> Iterator[Box]:
    """An EC2 instance with a role, whose gateway calls the fakes; shared by the tests that install their own
    settings.
    """
    with Box(namespaces, idle_image, **measured) as opened:
        start_aws(opened)
        point_service(opened)
        yield opened


def fresh(box: Box, *arguments: str, **environment: str) -> str:
    """litellmctl of the checkout's venv, as on a host without an installation."""
    argv = (f"{sys.prefix}/bin/litellmctl", *arguments)
    given = {"HOME": "/root", "UV_CACHE_DIR": "/var/tmp/uv", **TOOLS, **environment}
    return box.run(argv, env=given, cwd="/root", timeout=600).stdout


def verified(box: Box, *options: str) -> None:
    """`litellmctl verify` passes every check."""
    report = json.loads(ctl(box, "verify", "--json", *options))
    assert [check for check in report["checks"] if check["outcome"] != "ok"] == []


def set_env_at_rest(box: Box, text: str, *options: str) -> None:
    """Install that .env while the service is stopped: one start instead of those of a standby and the service."""
    ctl(box, "stop")
    set_env(box, text, *options)


def keys_of(requests: list[dict[str, Any]]) -> set[str]:
    assert requests, "no model was called"
    assert {one["status"] for one in requests} == {200}
    return {one["key"] for one in requests}


def traces(box: Box, words: list[str]) -> str:
    """Where any of these texts occurs: files of the installation, environments of its processes, its journal."""
    box.write("/run/words", "\n".join(words))
    folders = "/etc/litellm /etc/systemd /var/lib/litellm /var/lib/litellm-systemd /run/litellm /var/cache/litellm"
    environments = " ".join(f"/proc/{pid}/environ" for pid in processes(box))
    search = f"grep -rlaF --devices=skip -f /run/words {folders} /root/.env {environments} 2>/dev/null"
    found = box.run(("sh", "-c", search), check=False).stdout
    return found + "".join(
        line for line in box.journal("litellm").splitlines() if any(word in line for word in words)
    )


# --- the three ways ---


def test_iam_role_without_edits(make_box: MakeBox, installed_image: Image) -> None:
    """On EC2 with a role, init and install without an edit give a verified service that has no key."""
    box = make_box(binds=(releases_bind(installed_image),))
    start_aws(box, region="us-east-2")
    point_service(box)
    fresh(box, "init")
    fresh(box, "install", "--bundle", str(own_bundle()))
    verified(box, "--all-models")
    issued = control_fakes(box, "metadata")["issued"]
    assert keys_of(chats(box)) <= set(issued)
    assert traces(box, [*issued, USER.access_key]) == ""
    assert "us.anthropic.claude-sonnet-5-5" in box.run(("cat", "/etc/litellm/configs/shared/models.yml")).stdout


def test_access_key_on_ec2(instance: Box) -> None:
    """With a key pair in .env the role is not used, and the region is still that of the instance."""
    fresh(instance, "init", "--force")
    script = "sed -i 's/^CONFIG_FILE=.*/CONFIG_FILE=access_key_config.yml/' /root/.env"
    instance.run(("sh", "-c", script))
    example = instance.run(("cat", "/root/.env")).stdout
    example = example.replace("#AWS_ACCESS_KEY_ID=", f"AWS_ACCESS_KEY_ID={USER.access_key}")
    example = example.replace("#AWS_SECRET_ACCESS_KEY=", f"AWS_SECRET_ACCESS_KEY={USER.secret_key}")
    instance.write("/root/.env", example, 0o600)
    before = len(chats(instance))
    ctl(instance, "stop")
    ctl(instance, "install", "--env-file", "/root/.env", env=TOOLS)
    verified(instance, "--all-models")
    assert keys_of(chats(instance, before)) == {USER.access_key}


def test_access_key_on_a_pc(idle_box: Box) -> None:
    """On a PC, `init --from-profile cline` takes key pair and region from ~/.aws, and the service uses them."""
    box = idle_box
    start_aws(box)
    leave_ec2(box)
    point_service(box)
    box.run(("mkdir", "-p", "/root/.aws"))
    box.write("/root/.aws/credentials", USER.profile("cline", "us-east-1"), 0o600)
    fresh(box, "init", "--from-profile", "cline")
    ctl(box, "install", "--env-file", "/root/.env", env=TOOLS)
    verified(box, "--all-models")
    assert keys_of(chats(box)) == {USER.access_key}


def test_iam_role_without_ipv4(idle_box: Box) -> None:
    """If the metadata have only an IPv6 address, install and the service find the role there."""
    box = idle_box
    start_aws(box, "--metadata", "127.0.0.1:8900")
    leave_ec2(box)
    point_service(box)
    box.run(("ip", "address", "add", f"{METADATA_6}/128", "dev", "lo", "nodad"))
    proxy = ("/usr/lib/systemd/systemd-socket-proxyd", "127.0.0.1:8900")
    box.run(("systemd-run", "--quiet", "--unit=six", f"--socket-property=ListenStream=[{METADATA_6}]:80", *proxy))
    knock = ("curl", "-sg", "-o", "/dev/null", f"http://[{METADATA_6}]/")
    box.wait_until(lambda: box.run(knock, check=False).returncode == 0, 60, "the metadata answer there")
    mode = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6\n"
    box.write("/root/.env", f"CONFIG_FILE=iam_role_config.yml\n{mode}", 0o600)
    output = ctl(box, "install", "--env-file", "/root/.env", "--no-verify", env=TOOLS)
    assert "The role of the instance is litellm-gateway." in output
    verified(box)
    assert keys_of(chats(box)) <= set(control_fakes(box, "metadata")["issued"])


# --- with the role ---


def use_role(box: Box, further: str = "", config: str = "iam_role_config.yml") -> int:
    """Install with the role of the instance. Returns the number of earlier requests to models."""
    before = len(chats(box))
    set_env_at_rest(box, f"CONFIG_FILE={config}\nAWS_REGION_NAME=us-east-1\n{further}")
    return before


def test_credentials_rotate_under_load(instance: Box) -> None:
    """While the metadata rotate the credentials ten times and the old ones soon expire, no request fails."""
    # botocore renews credentials 15 minutes before their expiry. Here: after two seconds; and each set of
    # credentials really expires twelve seconds after it was created.
    control_fakes(instance, "metadata", lifetime=12, reported_later=15 * 60 + 2 - 12, rotate_every=1.5)
    try:
        before = use_role(instance)
        first = len(control_fakes(instance, "metadata")["issued"])
        with loaded(instance, clients=8, pause=0.2) as load:
            instance.wait_until(
                lambda: len(control_fakes(instance, "metadata")["issued"]) >= first + ROTATIONS,
                120,
                f"{ROTATIONS} rotations",
            )
    finally:
        control_fakes(instance, "metadata", lifetime=6 * 3600, reported_later=None, rotate_every=None)
        control_fakes(instance, "rotate")
    seen = chats(instance, before)
    assert load.failed == []
    assert len({one["key"] for one in seen}) >= ROTATIONS
    assert [one for one in seen if one["status"] != 200] == []
    assert state(instance)["NRestarts"] == "0"


def test_prompt_caching(instance: Box) -> None:
    """With the default configuration a client without cache points gets caching: one write, then reads."""
    use_role(instance)
    messages = [
        {"role": "system", "content": "A manual of many words. " * 400},
        {"role": "user", "content": "Reply with the single word: pong"},
    ]
    usages = [complete(instance, MODEL, messages=messages)["usage"] for _ in range(2)]
    assert usages[0]["cache_creation_input_tokens"] > 1024
    assert usages[1]["prompt_tokens_details"]["cached_tokens"] > 1024
    verified(instance)


def test_another_role(instance: Box) -> None:
    """With AWS_ROLE_NAME, AWS_SESSION_NAME and AWS_EXTERNAL_ID the service calls as that role, with that session."""
    arn = control_fakes(instance, "role", name="models", trusted=["litellm-gateway"], external_id="agreed")["arn"]
    before = use_role(instance, f"AWS_ROLE_NAME={arn}\nAWS_SESSION_NAME=gateway\nAWS_EXTERNAL_ID=agreed\n")
    verified(instance)
    assert {one["arn"].rpartition(":")[2] for one in chats(instance, before)} == {"assumed-role/models/gateway"}


def test_a_bedrock_api_key(instance: Box) -> None:
    """With AWS_BEARER_TOKEN_BEDROCK requests are not signed, and neither the role nor a key pair is used."""
    before = use_role(instance, f"AWS_BEARER_TOKEN_BEDROCK={API_KEY}\n")
    verified(instance)
    assert keys_of(chats(instance, before)) == {"(bearer)"}


def test_a_vpc_endpoint(instance: Box) -> None:
    """With AWS_BEDROCK_RUNTIME_ENDPOINT in .env models are called at that endpoint, not at the region's own."""
    instance.run(("rm", "/etc/systemd/system/litellm.service.d/fakes.conf"))
    instance.systemctl("daemon-reload")
    try:
        before = use_role(instance, f"AWS_BEDROCK_RUNTIME_ENDPOINT={API}\n")
        verified(instance)
        assert keys_of(chats(instance, before))
    finally:
        point_service(instance)


# --- when AWS says no ---


def test_each_refusal_has_its_own_message(instance: Box) -> None:
    """For each error of AWS, `litellmctl verify` reports the cause and remedy of that error and of no other."""
    scripts = {model: asdict(script) for model, script in build_scripts().items()}
    control_fakes(instance, "script", **scripts)
    instance.write("/root/refusals.yml", build_config())
    set_env_at_rest(instance, "AWS_REGION_NAME=us-east-1\n", "-c", "/root/refusals.yml")
    # After the install, which would request the credentials itself.
    control_fakes(instance, "metadata", role=None)
    try:
        report = json.loads(ctl(instance, "verify", "--all-models", "--json", check=False))
    finally:
        control_fakes(instance, "metadata", role="litellm-gateway")
        control_fakes(instance, "script")
    failed = [check for check in report["checks"] if check["outcome"] == "failed"]
    hints = {check["name"].split()[1].rstrip(","): check["hint"] for check in reversed(failed)}
    assert hints == {one.name: one.hint for one in REFUSALS if one.name in SHOWN}
