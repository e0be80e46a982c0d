"""AWS credentials from a user's ~/.aws to the service, and the checks of install before a change, on a real
systemd.
"""

from __future__ import annotations

import json
import shlex
import sys
from datetime import datetime, timedelta, timezone
from typing import Any

from box import Box
from box_images import REPOSITORY
from service import ctl, state
from test_install import snapshot, write_env
from tests.fakes import USER

API = "http://127.0.0.1:8800"
#: Makes boto3 use the fakes; the instance metadata have their real address.
ENVIRONMENT = {"AWS_ENDPOINT_URL_STS": API}


def start_fakes(box: Box, *options: str) -> None:
    """AWS on loopback, with the metadata at EC2's address."""
    box.run(("ip", "address", "add", "169.254.169.254/32", "dev", "lo"))
    python = f"{shlex.quote(sys.executable)} -m tests.fakes --api 127.0.0.1:8800 --metadata 169.254.169.254:80"
    unit = ("systemd-run", "--unit=fakes", f"--working-directory={REPOSITORY}", "--setenv=PYTHONDONTWRITEBYTECODE=1")
    box.run((*unit, *shlex.split(python), *options))
    box.wait_until(
        lambda: box.run(("curl", "-sf", f"{API}/-/seen"), check=False).returncode == 0, 120, "the fakes answer"
    )


def control(box: Box, name: str, **given: Any) -> Any:
    return box.http("POST", f"{API}/-/{name}", body=given).json()


def install(box: Box, *arguments: str) -> tuple[int, str]:
    argv = ("/usr/local/bin/litellmctl", "install", "--env-file", "/root/.env", "--no-verify", *arguments)
    done = box.run(argv, check=False, env=ENVIRONMENT, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_a_key_of_the_invoking_user(idle_box: Box) -> None:
    """Under sudo the key is read from the home of the invoking user, AWS is queried, and the service uses the key; a
    key that AWS no longer knows changes nothing.
    """
    box = idle_box
    start_fakes(box)
    box.run(("useradd", "--create-home", "ada"))
    box.write("/home/ada/.aws/credentials", USER.profile("cline", "us-east-1"), 0o600, "ada:ada")
    argv = ("/usr/local/bin/litellmctl", "init", "--from-profile", "cline")
    made = box.run(argv, env={**ENVIRONMENT, "SUDO_USER": "ada"}, cwd="/home/ada").stdout
    assert f"The AWS key belongs to {USER.arn}." in made
    assert box.run(("stat", "-c", "%U %a", "/home/ada/.env")).stdout == "ada 600\n"
    box.run(("cp", "/home/ada/.env", "/root/.env"))
    code, said = install(box)
    assert (code, USER.arn in said) == (0, True), said
    assert state(box)["ActiveState"] == "active"
    before, pid = snapshot(box), state(box)["MainPID"]
    write_env(box, box.read("/root/.env").replace(USER.access_key, "AKIAIOSFODNN7EXAMPLE"))
    code, said = install(box)
    assert (code, "AWS doesn't know the access key AKIA…MPLE" in said) == (78, True), said
    assert snapshot(box) == before
    assert state(box)["MainPID"] == pid


def test_the_role_of_the_instance(idle_box: Box) -> None:
    """On an instance without a role install reports that and changes nothing; with a role, a .env without AWS
    variables is enough, and the service's environment has no key.
    """
    box = idle_box
    start_fakes(box, "--no-role")
    write_env(box, "CONFIG_FILE=iam_role_config.yml\n")
    before = snapshot(box)
    code, said = install(box)
    assert (code, "this EC2 instance has no IAM role" in said) == (69, True), said
    assert "--dry-run" not in said
    code, said = install(box, "--dry-run", "--region", "us-east-1")
    assert (code, "The credentials were not checked with AWS" in said) == (2, True), said
    assert snapshot(box) == before
    control(box, "metadata", role="gateway")
    code, said = install(box)
    assert (code, "The role of the instance is gateway." in said) == (0, True), said
    environ = box.run(("cat", f"/proc/{state(box)['MainPID']}/environ")).stdout.split("\0")
    assert "AWS_REGION_NAME=us-east-1" in environ
    assert not [entry for entry in environ if entry.startswith(("AWS_ACCESS_KEY_ID=", "AWS_SESSION_TOKEN="))]


def test_status_warns_of_the_expiry(idle_box: Box) -> None:
    """status warns in the last hour of a temporary key, and fails after its expiry."""
    box = idle_box
    pair = f"AWS_ACCESS_KEY_ID=ASIAIOSFODNN7EXAMPLE\nAWS_SECRET_ACCESS_KEY={USER.secret_key}\n"
    for minutes, code, outcome in ((30, 0, "warning"), (-1, 1, "failed")):
        end = datetime.now(timezone.utc) + timedelta(minutes=minutes)
        write_env(
            box, f"{pair}AWS_SESSION_TOKEN=token\nAWS_CREDENTIAL_EXPIRATION={end.isoformat()}\nCONFIG_FILE=demo.yml\n"
        )
        ctl(box, "stop")  # one start is faster than those of a standby and the service
        assert install(box, "--offline")[0] == 0
        report = json.loads(ctl(box, "status", "--json", check=False))
        assert [(check["name"], check["outcome"]) for check in report["checks"]] == [("AWS credentials", outcome)]
        assert report["exit_code"] == code
