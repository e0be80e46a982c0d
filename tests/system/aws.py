"""AWS in a box: the fakes as a service, and the settings that make the gateway use them."""

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
#: For litellmctl itself, which queries STS and Bedrock's control plane.
TOOLS = {"AWS_ENDPOINT_URL_STS": API, "AWS_ENDPOINT_URL_BEDROCK": API}
#: For the service, in addition to its .env: by default it would use the addresses of AWS. boto3 waits one second for
#: the metadata, once, which is too short if two boxes share two cores.
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
    # PYTHONDONTWRITEBYTECODE: two boxes may share the checkout.
    unit = ("--unit=fakes", f"--working-directory={REPOSITORY}", "--setenv=PYTHONDONTWRITEBYTECODE=1")
    box.run(("systemd-run", "--quiet", *unit, *command))

    def answers() -> bool:
        try:
            return box.http("GET", f"{API}/-/seen").status == 200
        except OSError:
            return False

    box.wait_until(answers, 120, "the fakes of AWS answer")


def leave_ec2(box: Box) -> None:
    """Make the box a PC: the address of the metadata is removed, and no route leads there."""
    box.run(("ip", "address", "del", f"{METADATA}/32", "dev", "lo"))


def point_service(box: Box) -> None:
    """Make the service call the fakes with a drop-in, so that its .env stays unchanged."""
    box.run(("mkdir", "-p", "/etc/systemd/system/litellm.service.d"))
    box.write("/etc/systemd/system/litellm.service.d/fakes.conf", _DROP_IN)
    box.systemctl("daemon-reload")


def control_fakes(box: Box, name: str, /, **given: Any) -> Any:
    """Change the fakes or query them: see `tests.fakes.__main__`."""
    answer = box.http("POST", f"{API}/-/{name}", body=given)
    assert answer.status == 200, f"{name}: HTTP {answer.status}"
    return answer.json()


def chats(box: Box, since: int = 0) -> list[dict[str, Any]]:
    """The requests to models that AWS has received, from number `since` on."""
    return [one for one in control_fakes(box, "seen") if one["target"].startswith("POST /model/")][since:]


def complete(box: Box, model: str, **further: Any) -> dict[str, Any]:
    """The complete response of a chat."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **further}
    headers = {"Authorization": f"Bearer {key(box)}"}
    answer = box.http("POST", f"{BASE}/v1/chat/completions", body=body, headers=headers, timeout=60)
    found: dict[str, Any] = json.loads(answer.body)
    assert answer.status == 200, found
    return found
