"""The installed service with a database, and installs that cannot have one."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from contextlib import suppress
from typing import Any

from box import Box, Image
from box_images import DATABASE_URL, start_postgres
from doctor_helpers import doctor, ids, sh
from load import loaded
from service import BASE, MODEL, chat, ctl, key, state, workers
from test_install import snapshot
from tests.bundle import DATABASE_BUNDLE

from conftest import MakeBox

#: Records each question to a name server. The box has no other one.
_NAME_SERVER = """\
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
while True:
    print(server.recv(4096), file=open("/root/questions", "a"), flush=True)
"""


def generate_key(box: Box, **limits: Any) -> str:
    """Let LiteLLM make a virtual key."""
    headers = {"Authorization": f"Bearer {key(box)}"}
    answer = box.http("POST", f"{BASE}/key/generate", body=limits, headers=headers)
    assert answer.status == 200, answer.text
    return str(answer.json()["key"])


def uninstall(box: Box, *options: str) -> str:
    """Uninstall, but put the release back: another build of it would take a minute. Returns the output."""
    releases = "/opt/litellm-systemd/releases"
    box.run(("sh", "-c", f'mkdir /root/kept && cp -a "$(readlink -f {releases}/../current)" /root/kept'), timeout=300)
    output = ctl(box, "uninstall", "--yes", *options)
    box.run(("sh", "-c", f"mkdir -p {releases} && mv /root/kept/* {releases}"))
    return output


def test_key_after_a_restart(make_box: MakeBox, database_image: Image) -> None:
    """A virtual key works after a restart of the service, and only for its model. The service looks up no name, so
    that it downloads nothing, and changes no file of its release.
    """
    box = make_box(database_image)
    virtual = generate_key(box, models=[MODEL])
    box.write("/root/name_server.py", _NAME_SERVER)
    box.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    box.run(("systemd-run", "python3", "/root/name_server.py"))
    box.systemctl("restart", "litellm")
    assert (chat(box, bearer=virtual), chat(box, "demo-slow", bearer=virtual)) == (200, 403)
    assert json.loads(ctl(box, "releases", "verify", "--json"))["ok"]
    assert not box.exists("/root/questions"), box.read("/root/questions")
    # The server above records: the assertion could not fail otherwise.
    box.run(("getent", "hosts", "example.com"), check=False)
    assert box.exists("/root/questions")


def test_postgres_of_the_host(make_box: MakeBox, database_image: Image, measured: dict[str, Any]) -> None:
    """What --with-postgres has set up stays over an install, a boot and an uninstall, and the next install finds its
    keys. No other user can log in.
    """
    box = make_box(database_image, **measured)
    virtual = generate_key(box, models=[MODEL])
    again = ctl(box, "install", "--installed", "--with-postgres", "--no-verify", "--offline", "--json")
    assert json.loads(again)["data"]["actions"] == []
    box.reboot()
    assert chat(box, bearer=virtual) == 200
    psql = ("psql", "--host=/run/postgresql", "--tuples-only", "--no-align", "litellm")
    other = box.run(("runuser", "--user=nobody", "--", *psql, "--username=litellm"), check=False, cwd="/")
    assert "Peer authentication failed" in other.stderr
    assert "dropdb litellm" in uninstall(box)
    count = ("--command", 'SELECT count(*) FROM "LiteLLM_VerificationToken"')
    assert box.run(("runuser", "--user=postgres", "--", *psql, *count), cwd="/").stdout.strip() == "1"
    argv = (f"{sys.prefix}/bin/litellmctl", "install", "--no-verify", "--bundle", str(DATABASE_BUNDLE))
    box.run(argv, env={"HOME": "/root", "UV_CACHE_DIR": "/var/tmp/uv"}, timeout=900)
    assert chat(box, bearer=virtual) == 200


def test_no_engine(make_box: MakeBox, installed_image: Image) -> None:
    """An install that cannot get Prisma's query engine fails with one error, and changes nothing."""
    box = make_box(installed_image)
    start_postgres(box)
    box.write("/root/.env", f"DATABASE_URL={DATABASE_URL}\n", 0o600)
    before, process = snapshot(box), state(box)["MainPID"]
    argv = ("litellmctl", "install", "--env-file", "/root/.env")
    failed = box.run(argv, check=False, env={"PRISMA_ENGINES_MIRROR": "http://127.0.0.1:9"}, timeout=300)
    assert failed.returncode == 69, failed.stderr
    assert "Prisma's query engine cannot be downloaded: http://127.0.0.1:9/all_commits/" in failed.stderr
    assert "--prisma-engine" in failed.stderr
    box.write("/root/engine", "#!/bin/sh\necho cannot find libssl.so.3 >&2; exit 127\n", 0o755)
    failed = box.run((*argv, "--prisma-engine", "/root/engine"), check=False, timeout=300)
    assert failed.returncode == 78, failed.stderr
    assert "does not run on this host" in failed.stderr
    assert (snapshot(box), state(box)["MainPID"]) == (before, process)


def count_engines(box: Box) -> int:
    """The database engines of the service: the stand-in is Node.js."""
    return int(box.run(("pgrep", "--count", "--full", "prisma_engine.js"), check=False).stdout)


def count_paid(box: Box, virtual: str) -> int:
    """The requests that LiteLLM has put down to a key."""
    digest = hashlib.sha256(virtual.encode()).hexdigest()
    query = f"""select count(*) from "LiteLLM_SpendLogs" where api_key = '{digest}' and status = 'success'"""
    psql = ("psql", "--tuples-only", "--no-align", "--command", query, "litellm")
    return int(box.run(("runuser", "--user", "litellm", "--", *psql), cwd="/").stdout)


def test_restarts(make_box: MakeBox, database_image: Image) -> None:
    """`litellmctl restart` fails no chat with a virtual key and loses no spend; a killed service leaves no engine."""
    box = make_box(database_image)
    virtual = generate_key(box, models=[MODEL])
    with loaded(box, clients=4, bearer=virtual) as load:
        ctl(box, "restart")
    assert load.failed == []
    box.wait_until(lambda: count_paid(box, virtual) == load.answered, 120, "each chat is paid for")
    engines = len(workers(box))
    box.wait_until(lambda: count_engines(box) == engines, 60, "each worker has one engine")
    box.systemctl("kill", "--signal=SIGKILL", "--kill-who=main", "litellm")

    def serves() -> bool:
        with suppress(OSError):  # a worker dies a moment after its main process
            return chat(box, bearer=virtual) == 200
        return False

    box.wait_until(serves, 120, "the service is back")
    box.wait_until(lambda: count_engines(box) == engines, 60, "no other engine runs")


def test_keys_in_a_terminal(make_box: MakeBox, database_image: Image) -> None:
    """root creates, rotates and revokes keys, which no log has; verify proves one; others need sudo."""
    box = make_box(database_image)
    first = json.loads(ctl(box, "key", "create", "ci", "--models", MODEL, "--json"))["data"]["key"]["key"]
    assert (chat(box, bearer=first), chat(box, "demo-slow", bearer=first)) == (200, 403)
    text = ctl(box, "key", "rotate", "ci", "--overlap", "10m")
    second = (re.findall(r"sk-\S+", text) or [""])[0]
    assert (chat(box, bearer=first), chat(box, bearer=second)) == (200, 200), text
    checks = json.loads(ctl(box, "verify", "--json"))["checks"]
    found = {each["name"]: each["outcome"] for each in checks if each["name"].startswith("virtual key")}
    assert (len(found), set(found.values())) == (5, {"ok"}), found
    assert "ci (rotated " in ctl(box, "spend")
    assert ctl(box, "key", "revoke", "ci", "--yes").splitlines()[-1] == "revoked key ci"
    journal = box.run(("journalctl", "--no-pager", "-o", "cat")).stdout
    assert [each for each in (first, second) if each in journal] == []
    for user, code, hint in (("nobody:nogroup", 77, "sudo"), ("root:root", 69, "sudo litellmctl start")):
        done = box.run(("/usr/local/bin/litellmctl", "key", "list"), user=user, cwd="/", check=False)
        assert (done.returncode, hint in done.stderr) == (code, True), done
        box.systemctl("stop", "litellm.socket", "litellm.service")


def test_doctor_names_a_stopped_postgres(make_box: MakeBox, database_image: Image) -> None:
    """A healthy service with a database has no finding. If its PostgreSQL is stopped or masked, doctor reports that
    first and alone, `status` since when, and after the remedy the service uses the database again.
    """
    box = make_box(database_image)
    assert ids(doctor(box)) == []
    unit = box.run(("systemctl", "list-units", "--plain", "--no-legend", "postgresql@*")).stdout.split()[0]
    for damage, is_down in (("stop", "inactive"), ("mask --runtime --now", "masked")):
        sh(box, f"systemctl {damage} {unit}")
        wait_for_line(box, is_down=True)
        report = doctor(box)
        assert ids(report) == ["database-down"], report["data"]
        found = report["data"]["findings"][0]
        assert f"{unit} is {is_down}; " in found["seen"]
        assert "(since " in ctl(box, "status", check=False)
        sh(box, found["mend"].replace("sudo ", ""))
        wait_for_line(box, is_down=False)
    # What LiteLLM logged meanwhile stays a warning of the journal.
    assert set(ids(doctor(box))) <= {"journal-litellm"}
    generate_key(box)


def wait_for_line(box: Box, *, is_down: bool) -> None:
    """Wait until the status line has the outage, or has it no more."""
    argv = ("systemctl", "show", "litellm", "--property=StatusText")
    box.wait_until(
        lambda: ("the database cannot be used: " in box.run(argv).stdout) == is_down, 60, "the status line"
    )
