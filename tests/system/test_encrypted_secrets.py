"""install --encrypt-secrets on a real systemd: secrets at rest are readable with the key of the host only."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from box import Box
from doctor_helpers import INSTALLED, doctor, ids
from service import chat, ctl, set_env, state
from test_transaction import STRIDE, attempts, kill_at_steps, mend_start, refuse_start
from tests.canaries import forms

SECRETS, ENVIRONMENT = "/etc/litellm/litellm.secrets", "/etc/litellm/litellm.env"
STATE, START = "/var/lib/litellm-systemd", "/dev/shm/start"
KEY, OTHER, NEW = "sk-canary-5f0c1d8e7a", "canary/of+OpenAI=73b1e9", "sk-canary-after-the-rotation-02c4"
ENV = f"LITELLM_MASTER_KEY={KEY}\nOPENAI_API_KEY={OTHER}\nNUM_WORKERS=1\nMINE=1\n"
#: Copies of the environment file that earlier runs may have left: of a failed attempt, and of an edited file.
COPIES = (
    f"{STATE}/failed/20260101T000000Z/etc-litellm-litellm.env",
    "/etc/litellm/edited/etc-litellm-litellm.env.1a2b3c4d",
)


def holders(box: Box, *secrets: str) -> set[str]:
    """The files with one of the secrets, in any encoding, and the command lines and environments of processes.

    What systemd passes to the running service is left out: it is in memory, for the service alone.
    """
    patterns = "\n".join(sorted(form for secret in secrets for form in forms(secret)))
    # Only files that the test wrote: the packages in /opt are hundreds of megabytes.
    script = f"""cat >/dev/shm/patterns; journalctl --sync
        {{ find /etc /var /run /opt /root /tmp /home -type f -cnewer {START} -not -path '/run/credentials/*' -print0
          printf '%s\\0' /proc/[0-9]*/cmdline /proc/[0-9]*/environ; }} |
        xargs -0 grep --files-with-matches --binary --no-messages -F -f /dev/shm/patterns | sort -u
        rm /dev/shm/patterns"""
    return set(box.run(("sh", "-c", script), input=patterns).stdout.split())


def test_secrets_are_encrypted_and_back(idle_box: Box) -> None:
    """--encrypt-secrets leaves no copy of a secret in clear text, also after a failed try, and every verb works.

    A changed key reaches the service, a lost host key is found by doctor, and --no-encrypt-secrets loses nothing.
    """
    box = idle_box
    box.write(START, "")
    set_env(box, ENV, "--no-start")
    for path in COPIES:
        box.write(path, box.read(ENVIRONMENT), 0o600)
    box.run(("rm", "/root/.env"))

    refuse_start(box)
    box.write(ENVIRONMENT, f'{box.read(ENVIRONMENT)}REFUSE="1"\n', 0o600)
    before, earlier = box.read(ENVIRONMENT), attempts(box)
    assert box.run((INSTALLED, "install", "--encrypt-secrets"), check=False, timeout=300).returncode == 69
    assert box.read(ENVIRONMENT) == before
    assert not box.exists(SECRETS)
    [attempt] = attempts(box) - earlier
    assert KEY not in box.read(f"{STATE}/failed/{attempt}/etc-litellm-litellm.env")
    mend_start(box)

    output = ctl(box, "install", "--encrypt-secrets", "--verify-every", "1h", "--no-verify")
    assert SECRETS in output
    assert holders(box, KEY, OTHER) == set()
    assert 'MINE="1"' in box.read(ENVIRONMENT)
    box.systemctl("start", "litellm-verify.service")
    assert KEY in ctl(box, "client", "curl", "--show-key")
    report = doctor(box, program=INSTALLED)
    assert ids(report) == []
    environ = {each["id"]: each["outcome"] for each in report["data"]["checks"]}
    assert environ["environment-stale"] == "ok"
    box.systemctl("reload", "litellm")
    assert chat(box, bearer=KEY) == 200
    assert json.loads(ctl(box, "install", "--no-verify", "--json"))["data"]["actions"] == []

    # A new key: the standby and the restarted service get the new credential.
    set_env(box, ENV.replace(KEY, NEW))
    assert holders(box, KEY, NEW, OTHER) == {"/root/.env"}
    box.run(("rm", "/root/.env"))
    assert chat(box, bearer=NEW) == 200

    host_key = "/var/lib/systemd/credential.secret"
    box.run(("mv", host_key, f"{host_key}.away"))
    report = doctor(box, program=INSTALLED)
    assert ids(report) == ["environment-undecryptable"]
    refused = box.run((INSTALLED, "verify"), check=False)
    assert (refused.returncode, SECRETS in refused.stderr) == (69, True)

    # The remedy, while systemd starts the service again and again: a standby next to it would not survive that.
    box.run(("systemctl", "restart", "litellm"), check=False)
    box.wait_until(lambda: state(box)["ActiveState"] == "activating", 60, "systemd starts the service again")
    box.run(("rm", SECRETS))
    set_env(box, ENV.replace(KEY, NEW), "--no-encrypt-secrets")
    box.run(("rm", "/root/.env"))
    box.run(("mv", f"{host_key}.away", host_key))
    assert chat(box, bearer=NEW) == 200
    assert all(line.split("=", 1)[1] in box.read(ENVIRONMENT) for line in ENV.replace(KEY, NEW).splitlines())
    assert not box.exists(SECRETS)
    found = holders(box, NEW, OTHER)
    assert {str(PurePosixPath(path).parent) for path in found - {ENVIRONMENT}} == {f"{STATE}/pristine"} | {
        str(PurePosixPath(path).parent) for path in found if path.startswith("/proc/")
    }
    assert holders(box, KEY) == set()


def test_killed_encryption_converges(idle_box: Box) -> None:
    """An install that encrypts the secrets, or writes them back, and is killed at any step reaches the same state."""
    box = idle_box
    set_env(box, ENV, "--no-start")
    box.write(START, "")
    command = ["install", "--installed", "--no-start"]
    # No two encryptions of the same secrets are equal, and neither are their digests.
    ignored = (SECRETS, f"{STATE}/manifest.json", f"{STATE}/pristine")
    directions = ([*command, "--encrypt-secrets"], [*command, "--no-encrypt-secrets"])
    results = kill_at_steps(box, *directions, stride=STRIDE, alternate=STRIDE > 1, ignored=ignored)
    assert [result["wrong"] for result in results] == [[], []]
    assert all(result["kills"] * STRIDE > 10 for result in results)
    ctl(box, *directions[1])
    assert not box.exists(SECRETS)
    box.run(("rm", "/root/.env"))
    ctl(box, *directions[0])
    assert holders(box, KEY, OTHER) == set()
