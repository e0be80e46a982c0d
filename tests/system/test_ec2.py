"""The user data of configs/cloudformation, run in boxes as cloud-init runs it."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import box_images
import trustme
from aws import API, control_fakes, start_aws
from box import Bind, Box, Image
from host_binds import releases_bind
from service import chat, ctl, state
from tests.bundle import DATABASE_BUNDLE, own_bundle
from tests.certificates import issue_pair
from tests.cloudformation import FLEET, read_stack, user_data
from tests.fakes import ACCOUNT
from tests.fakes.metadata import INSTANCE
from tests.unpacked import require_unpacked, unpacked_environment

from conftest import MakeBox
from litellm_systemd.contract import STANDBY

FAKES = {
    # Each call is a line with its arguments quoted for a shell.
    "cfn-signal": "#!/bin/bash\n(printf '%q ' \"$@\"; echo) >>/srv/signals\n",
    "aws": '#!/bin/bash\necho "$*" >>/srv/aws\n[[ $1 != s3 ]] || cp /srv/archive/source.tar.gz "${@: -1}"\n',
    # It waits, so that the signal does not hide the reason.
    "sleep": "#!/bin/bash\n",
}
DEMO = "/etc/litellm/configs/demo.yml"
ROUTING = "/etc/litellm/configs/shared/routing.yml"
LOG = "/var/log/litellm-user-data.log"


def make_archive(folder: Path, bundle: Path) -> str:
    """The archive that docs/ec2.md describes: the tracked files below one folder, and a bundle. Returns its
    SHA-256.
    """
    root = box_images.REPOSITORY
    listed = subprocess.run(("git", "ls-files", "-z"), cwd=root, capture_output=True, text=True, check=True).stdout
    path = folder / "source.tar.gz"
    # What takes room is compressed already.
    with tarfile.open(path, "w:gz", compresslevel=0) as archive:
        for name in filter(None, listed.split("\0")):
            if (root / name).is_file():
                archive.add(root / name, f"litellm-systemd/{name}")
        archive.add(bundle, "litellm-systemd/litellm-systemd-0.1.0.tar")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_fakes(box: Box, **more: str) -> None:
    """The programs of Amazon Linux and of AWS that the user data call."""
    for name, text in {**FAKES, **more}.items():
        box.write(f"/srv/fakes/{name}", text, 0o755)
    # pip takes a minute for what uv installs in seconds; test_scripts.py has the one without uv.
    box.run(("ln", "-s", f"{sys.prefix}/bin/uv", "/srv/fakes/uv"))


def values(digest: str) -> dict[str, str]:
    return {"SourceUrl": "s3://bucket/source.tar.gz", "SourceSha256": digest, "Configuration": "demo.yml"}


def boot_once(box: Box, script: str) -> tuple[int, str, list[list[str]]]:
    """Run the user data. Returns its exit code, its console output, and the arguments of each signal."""
    box.write("/srv/user-data", script, 0o700)
    box.run(("rm", "-f", "/srv/signals"))
    # cloud-init sets no HOME.
    argv = ("env", "-i", "PATH=/srv/fakes:/usr/sbin:/usr/bin:/sbin:/bin", "/srv/user-data")
    done = box.run(argv, timeout=1200, check=False)
    sent = [shlex.split(line) for line in box.read("/srv/signals").splitlines()]
    return done.returncode, done.stdout + done.stderr, sent


def signals(code: int, reason: str) -> list[list[str]]:
    """The two signals that end user data: with the reason for people, and the one that counts at an update."""
    head = ["--exit-code", str(code)]
    region = ["--region", "eu-central-1"]
    return [
        [*head, "--reason", reason, *region, "<Handle>"],
        [*head, *region, "--stack", "gateway", "--resource", "Instance"],
    ]


def test_user_data(make_box: MakeBox, installed_image: Image, tmp_path: Path) -> None:
    """The script signals success after verify has passed; for a wrong archive or a failing model it signals failure
    with the reason.
    """
    # test_images.py has an archive whose release is built.
    wrong, script = (
        user_data(read_stack(values(digest), "eu-central-1"))
        for digest in ("0" * 64, make_archive(tmp_path, own_bundle()))
    )
    box = make_box(binds=(Bind(tmp_path, Path("/srv/archive")), releases_bind(installed_image)))
    write_fakes(box)

    code, console, sent = boot_once(box, wrong)
    reason = sent[0][3]
    assert reason.startswith("checking s3://bucket/source.tar.gz failed: ")
    assert (code, sent, console) == (1, signals(1, reason), f"litellm-systemd: {reason}\n")
    assert not box.exists("/usr/local/src/litellm-systemd")

    code, console, sent = boot_once(box, script)
    assert (code, sent) == (0, signals(0, "litellmctl verify passed")), box.read(LOG)
    assert " checks passed" in box.read(LOG)
    assert box.show("litellm.service", "ActiveState") == {"ActiveState": "active"}
    # A user who may read the console of an instance need not have access to the gateway.
    assert console == "litellm-systemd: litellmctl verify passed\n"
    modes = box.run(("stat", "--format=%a", LOG, "/usr/local/src/litellm-systemd/.env")).stdout
    assert modes == "600\n600\n"
    assert "eu-central-1" in box.read("/etc/litellm/litellm.env")

    # An install keeps an edit, so the same user data now gets a service whose models fail.
    failing = "model: openai/x\n      api_key: none\n      mock_response: litellm.RateLimitError"
    edited = re.sub("model: litellm-systemd-demo/.*", failing, box.read(DEMO))
    box.write(DEMO, edited, 0o640, "root:litellm")
    box.run(("sed", "-i", "s/num_retries: 2/num_retries: 0/", ROUTING))
    box.run(("systemctl", "reload", "litellm.service"), timeout=240)
    code, console, sent = boot_once(box, script)
    reason = sent[0][3]
    assert reason.startswith("verifying failed: FAILED chat claude-sonnet-5-5 (/chat/completions)")
    assert "HTTP 429" in reason
    assert (code, sent, console) == (1, signals(1, reason), f"litellm-systemd: {reason}\n")


DATABASE, CACHE = "gateway.c1.eu-central-1.rds.amazonaws.com", "master.gateway.c1.euc1.cache.amazonaws.com"
SECRETS = {name: f"sk-canary-of-the-{name}-0123456789abcdef" for name in ("master", "salt", "database", "cache")}
AUTHORITY = "/usr/local/share/ca-certificates/aws.crt"
AGENT = "/opt/aws/amazon-cloudwatch-agent"
FLEET_FAKES = {
    # The certificates of RDS.
    "curl": f'#!/bin/bash\nwhile [[ $1 != -o ]]; do shift; done\ncp {AUTHORITY} "$2"\n',
    "dnf": f"#!/bin/bash\nmkdir -p {AGENT}/bin {AGENT}/etc\ncp /srv/fakes/ctl {AGENT}/bin/{AGENT[9:]}-ctl\n",
    "ctl": f'#!/bin/bash\necho "$*" >{AGENT}/called\n',
}
REDIS = """\
port 0
tls-port 6379
tls-cert-file /srv/tls/crt
tls-key-file /srv/tls/key
tls-auth-clients no
save ""
"""
#: The region's endpoints are on loopback, and no client needs the delay.
ENDPOINTS = "".join(f"AWS_ENDPOINT_URL_{name}={API}\n" for name in ("SECRETS_MANAGER", "AUTO_SCALING"))


def fleet_user_data(digest: str) -> str:
    arn = f"arn:aws:secretsmanager:eu-central-1:{ACCOUNT}:secret:"
    named = {"MasterKey": "master", "SaltKey": "salt", "DatabasePassword": "database", "CacheToken": "cache"}
    given = {
        **values(digest),
        **{resource: f"{arn}{name}-a1B2c3" for resource, name in named.items()},
        "Database.Endpoint.Address": DATABASE,
        "Cache.PrimaryEndPoint.Address": CACHE,
    }
    text = user_data(read_stack(given, "eu-central-1", FLEET))
    assert text.count("DEREGISTRATION_DELAY=30\n") == text.count("\nEND\n") == 1
    return text.replace("DEREGISTRATION_DELAY=30\n", "DEREGISTRATION_DELAY=1\n").replace(
        "\nEND\n", f"\n{ENDPOINTS}END\n"
    )


def start_services(box: Box) -> None:
    """AWS, PostgreSQL and Redis under the names that the stack gives them, both with TLS and a password."""
    start_aws(box, region="eu-central-1")
    control_fakes(box, "secrets", values=SECRETS)
    authority = trustme.CA()
    box.write(AUTHORITY, authority.cert_pem.bytes().decode())
    box.run(("update-ca-certificates",))
    box.run(("mkdir", "-p", "/etc/pki/tls/certs"))
    box.write("/etc/hosts", f"127.0.0.1 localhost {DATABASE} {CACHE}\n::1 localhost\n")
    pair = issue_pair(authority, DATABASE, CACHE)
    for path, text in (("/srv/tls/crt", pair.certificate), ("/srv/tls/key", pair.key)):
        box.write(path, text, 0o600, "postgres:postgres")
    for statement in (
        f"ALTER ROLE litellm PASSWORD '{SECRETS['database']}'",
        "ALTER SYSTEM SET ssl_cert_file = '/srv/tls/crt'",
        "ALTER SYSTEM SET ssl_key_file = '/srv/tls/key'",
        "ALTER SYSTEM SET ssl = on",
        "SELECT pg_reload_conf()",
    ):
        box.run(("runuser", "--user=postgres", "--", "psql", "--command", statement), cwd="/")
    box.write("/srv/redis.conf", f"{REDIS}requirepass {SECRETS['cache']}\n")
    program = require_unpacked("redis", "redis-check-rdb")
    environment = (f"--setenv={name}={value}" for name, value in unpacked_environment("redis").items())
    # The program is a server if that is its name.
    run = ("bash", "-c", f"exec -a redis-server {program} /srv/redis.conf")
    box.run(("systemd-run", "--unit=redis", *environment, *run))


def run_standby(box: Box) -> None:
    box.run(("systemd-run", "--quiet", f"--unit={STANDBY}", "/bin/sleep", "infinity"))


def await_standby_end(box: Box) -> None:
    box.wait_until(lambda: box.show(STANDBY, "ActiveState")["ActiveState"] == "inactive", 60, "the standby stops")


def test_user_data_of_the_fleet(make_box: MakeBox, database_image: Image, tmp_path: Path) -> None:
    """An instance of the fleet serves with the keys, the database and the Redis of all others, stores none of their
    secrets, and is drained before its group terminates it. If the archive is a wrong one, the instance is given up.
    """
    digest = make_archive(tmp_path, DATABASE_BUNDLE)
    box = make_box(database_image, binds=(Bind(tmp_path, Path("/srv/archive")),))
    write_fakes(box, **FLEET_FAKES)
    start_services(box)
    # The image has an installation, whose salt key is another one: docs/database.md.
    box.run(("rm", "/etc/litellm/salt.env"))
    box.write("/var/lib/cloud/data/instance-id", f"{INSTANCE}\n")

    def calls() -> list[str]:
        return [line for line in box.read("/srv/aws").splitlines() if line.startswith("autoscaling")]

    hook = (
        "autoscaling complete-lifecycle-action --region eu-central-1 --auto-scaling-group-name gateway"
        f" --lifecycle-hook-name launch --instance-id {INSTANCE} --lifecycle-action-result"
    )
    stack = ["--region", "eu-central-1", "--stack", "gateway", "--resource", "Group"]
    code, console, sent = boot_once(box, fleet_user_data("0" * 64))
    assert (code, sent, calls()) == (1, [["--exit-code", "1", *stack]], [f"{hook} ABANDON"]), console

    code, console, sent = boot_once(box, fleet_user_data(digest))
    assert (code, sent) == (0, [["--exit-code", "0", *stack]]), box.read(LOG)
    assert calls()[1:] == [f"{hook} CONTINUE"]
    assert console == "litellm-systemd: litellmctl verify passed\n"
    assert chat(box, bearer=SECRETS["master"]) == 200
    stored = box.run(("grep", "-rlaE", "|".join(SECRETS.values()), "/etc", "/opt", "/var/lib/litellm"), check=False)
    assert stored.stdout == ""
    assert "=aws-secretsmanager:arn:" in box.read("/etc/litellm/salt.env").replace('"', "")
    # Keys are in the database of all instances, and limits in their Redis.
    virtual = json.loads(ctl(box, "key", "create", "ann", "--json"))["data"]["key"]["key"]
    assert chat(box, bearer=virtual) == 200
    redis = ("--tls", "-h", CACHE, "-a", SECRETS["cache"], "--no-auth-warning", "client", "list")
    program = require_unpacked("redis", "redis-cli")
    assert "name=" in box.run((program, *redis), env=unpacked_environment("redis")).stdout
    assert "/litellm/gateway/journal" in box.read(f"{AGENT}/etc/litellm.json")
    assert "fleet: gateway}" in box.read(f"{AGENT}/etc/litellm-prometheus.yml")
    assert f"file:{AGENT}/etc/litellm.json" in box.read(f"{AGENT}/called")

    # An instance of the warm pool boots again.
    box.run(("env", "-i", "PATH=/srv/fakes:/usr/bin:/bin", "/var/lib/cloud/scripts/per-boot/litellm"), timeout=300)
    assert calls()[2:] == [f"{hook} CONTINUE"]

    # The group terminates the instance: the drain begins, and the hook is completed when it waits. A standby that a
    # restart has left stops as well, and one that it starts after the drain.
    run_standby(box)
    control_fakes(box, "metadata", target_state="Terminated")
    box.wait_until(lambda: state(box)["ActiveState"] == "inactive", 120, "the service is drained")
    await_standby_end(box)
    run_standby(box)
    await_standby_end(box)
    assert control_fakes(box, "hooks", waiting=["gateway:drain"]) == []
    box.wait_until(
        lambda: control_fakes(box, "hooks") == [f"gateway:drain {INSTANCE} CONTINUE"], 60, "the hook is completed"
    )
    unit = "litellm-lifecycle@gateway:drain.service"
    box.wait_until(lambda: box.show(unit, "ActiveState")["ActiveState"] == "inactive", 60, "the unit ends")
    assert box.show(unit, "Result")["Result"] == "success"
