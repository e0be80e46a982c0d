"""AWS in a box: the fakes as a service of their own, and what points the installed gateway at them."""

from __future__ import annotations

import json
import sys
from typing import Any

from box import Box
from box_images import REPOSITORY
from service import BASE, key

API = "http://127.0.0.1:8800"
METADATA = "169.254.169.254"
METADATA_6 = "fd00:ec2::254"
#: For litellmctl itself, which asks STS and Bedrock's control plane.
TOOLS = {"AWS_ENDPOINT_URL_STS": API, "AWS_ENDPOINT_URL_BEDROCK": API}
#: For the service, beside what its .env says: the addresses that it would find by itself on EC2 are those of AWS. And
#: boto3 gives the metadata one second, once, which is little where two boxes share two cores.
_DROP_IN = f"""\
[Service]
Environment=AWS_BEDROCK_RUNTIME_ENDPOINT={API}
Environment=AWS_ENDPOINT_URL_STS={API}
Environment=AWS_METADATA_SERVICE_TIMEOUT=10 AWS_METADATA_SERVICE_NUM_ATTEMPTS=2
"""


def start_aws(box: Box, *options: str, region: str = "us-east-1") -> None:
    """Make the box an EC2 instance: the metadata at its own address, and the services of AWS on loopback."""
    box.run(("ip", "address", "add", f"{METADATA}/32", "dev", "lo"))
    command = (sys.executable, "-m", "tests.fakes", "--metadata", f"{METADATA}:80", "--region", region, *options)
    # PYTHONDONTWRITEBYTECODE: two boxes may see the same checkout.
    unit = ("--unit=fakes", f"--working-directory={REPOSITORY}", "--setenv=PYTHONDONTWRITEBYTECODE=1")
    box.run(("systemd-run", "--quiet", *unit, *command))

    def answers() -> bool:
        try:
            return box.http("GET", f"{API}/-/seen").status == 200
        except OSError:
            return False

    box.wait_until(answers, 120, "the fakes of AWS answer")


def leave_ec2(box: Box) -> None:
    """Make it a PC: nothing has the address of the metadata, and no route leads there."""
    box.run(("ip", "address", "del", f"{METADATA}/32", "dev", "lo"))


def point_service(box: Box) -> None:
    """Let the service call the fakes, by a drop-in, so that its .env stays as a user has it."""
    box.run(("mkdir", "-p", "/etc/systemd/system/litellm.service.d"))
    box.write("/etc/systemd/system/litellm.service.d/fakes.conf", _DROP_IN)
    box.systemctl("daemon-reload")


def tell(box: Box, name: str, /, **given: Any) -> Any:
    """Steer the fakes, or ask them: see `tests.fakes.__main__`."""
    answer = box.http("POST", f"{API}/-/{name}", body=given)
    assert answer.status == 200, f"{name}: HTTP {answer.status}"
    return answer.json()


def chats(box: Box, since: int = 0) -> list[dict[str, Any]]:
    """The requests to models that AWS has seen, from the so-manieth on."""
    return [one for one in tell(box, "seen") if one["target"].startswith("POST /model/")][since:]


def complete(box: Box, model: str, **further: Any) -> dict[str, Any]:
    """A chat's whole answer."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **further}
    headers = {"Authorization": f"Bearer {key(box)}"}
    answer = box.http("POST", f"{BASE}/v1/chat/completions", body=body, headers=headers, timeout=60)
    found: dict[str, Any] = json.loads(answer.body)
    assert answer.status == 200, found
    return found
