"""backup and restore of a gateway with a database, on a real systemd and a real PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from box import Box, Image
from service import BASE, MODEL, chat, ctl, key
from test_database import generate_key, uninstall
from tests.bundle import DATABASE_BUNDLE

from conftest import MakeBox

BACKUP, SALT = "/root/gateway.tar", "/etc/litellm/salt.env"
REFUSE = "/etc/systemd/system/litellm.service.d/refuse.conf"
#: What a restore that failed must not leave.
LEFT = "ls -d /etc/litellm* /opt/litellm-systemd/current /var/lib/litellm 2>/dev/null; getent passwd litellm"


def database(box: Box, query: str) -> str:
    """The answer of the database of the service, or the error."""
    done = box.run(("runuser", "-u", "postgres", "--", "psql", "-Atc", query, "litellm"), check=False, cwd="/")
    return (done.stdout + done.stderr).strip()


def make_fresh(box: Box) -> None:
    """Remove the installation, without the release, and the database."""
    uninstall(box, "--purge")
    for program in ("dropdb", "dropuser"):
        box.run(("runuser", "-u", "postgres", "--", program, "litellm"), cwd="/")


def restore(box: Box, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `restore` of this checkout. uv without the host's cache: only the bundle has packages."""
    argv = (f"{sys.prefix}/bin/litellmctl", "restore", *options, "--bundle", str(DATABASE_BUNDLE))
    return box.run(argv, check=False, env={"HOME": "/root", "UV_CACHE_DIR": "/var/tmp/uv"}, timeout=900)


def test_restored_gateway_knows_its_keys(make_box: MakeBox, database_image: Image, measured: dict[str, Any]) -> None:
    """On a host without the service, its user and its database, a restore brings back everything: a virtual key works
    as before, and the salt key, the master key and stored credentials are the same. A restore that fails, or a
    damaged backup, leaves nothing.
    """
    box = make_box(database_image, **measured)
    virtual, master, salt = generate_key(box, models=[MODEL]), key(box), box.read(SALT)
    credential = {"credential_name": "mine", "credential_values": {"api_key": "sk-provider"}, "credential_info": {}}
    headers = {"Authorization": f"Bearer {master}"}
    assert box.http("POST", f"{BASE}/credentials", body=credential, headers=headers).status == 200
    stored = database(box, 'SELECT credential_values FROM "LiteLLM_CredentialsTable"')
    assert stored
    assert "sk-provider" not in stored
    box.write("/root/.env", "LITELLM_SALT_KEY=sk-another-key-0123456789abcdef\n", 0o600)
    refused = box.run(("litellmctl", "install", "--env-file", "/root/.env"), check=False)
    assert (refused.returncode, "not the installed key" in refused.stderr) == (78, True)

    output = ctl(box, "backup", BACKUP)
    assert not [each for each in (virtual, master, salt) if each in output]
    assert box.run(("stat", "-c", "%a", BACKUP)).stdout.strip() == "600"
    assert box.run(("litellmctl", "restore", BACKUP), check=False).returncode == 73
    make_fresh(box)
    assert box.run(("sh", "-c", LEFT), check=False).stdout == ""

    box.run(("sh", "-c", f"head -c -20000 {BACKUP} >/root/damaged.tar"))
    assert restore(box, "/root/damaged.tar").returncode == 78
    box.write(REFUSE, "[Service]\nExecStartPre=/bin/false\n")
    failed = restore(box, BACKUP, "--no-verify")
    assert (failed.returncode, "All changes were undone" in failed.stderr) == (69, True)
    assert box.run(("sh", "-c", LEFT), check=False).stdout == ""
    assert 'database "litellm" does not exist' in database(box, "SELECT 1")
    box.run(("rm", REFUSE))

    done = restore(box, BACKUP, "--no-spend")
    assert done.returncode == 0, done.stderr
    assert (key(box), box.read(SALT)) == (master, salt)
    assert (chat(box, bearer=virtual), chat(box, "demo-slow", bearer=virtual)) == (200, 403)
    assert database(box, 'SELECT credential_values FROM "LiteLLM_CredentialsTable"') == stored
    assert json.loads(ctl(box, "install", "--installed", "--no-verify", "--json"))["data"]["actions"] == []
