"""verify on a real systemd: the workshop's commands, fallbacks on a throwaway unit, and the timer."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import jsonschema
from box import Box
from service import BASE, ctl, key, now, said, set_env, state

from litellm_systemd.releases.requirements_lock import pinned_version
from litellm_systemd.releases.source import current_lock

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "verify.schema.json").read_text(encoding="utf-8"))
LITELLM = pinned_version(current_lock(), "litellm")
SEED_KEY = "sk-litellm-test-key"
MODEL = "bedrock-converse-us-claude-3-7-sonnet-v1"
#: The commands of the workshop's document, unchanged.
SEED = {
    "list": """\
export LITELLM_MASTER_KEY=sk-litellm-test-key
curl http://localhost:4000/v1/models \\
  -H "Authorization: Bearer ${LITELLM_MASTER_KEY}"
""",
    "list again": """\
export LITELLM_MASTER_KEY=sk-litellm-test-key

# モデル一覧の取得
curl http://localhost:4000/v1/models \\
  -H "Authorization: Bearer ${LITELLM_MASTER_KEY}"
""",
    "chat": """\
export LITELLM_MASTER_KEY=sk-litellm-test-key
curl -X POST 'http://0.0.0.0:4000/chat/completions' \\
-H 'Content-Type: application/json' \\
-H "Authorization: Bearer ${LITELLM_MASTER_KEY}" \\
-d '{
      "model": "bedrock-converse-us-claude-3-7-sonnet-v1",
      "messages": [
        {
          "role": "user",
          "content": "what llm are you"
        }
      ]
    }'
""",
    "fallback": """\
export LITELLM_MASTER_KEY=sk-litellm-test-key
curl -X POST 'http://0.0.0.0:4000/chat/completions' \\
-H 'Content-Type: application/json' \\
-H "Authorization: Bearer ${LITELLM_MASTER_KEY}" \\
-d '{
  "model": "bedrock-converse-us-claude-3-7-sonnet-v1",
  "messages": [
    {
      "role": "user",
      "content": "ping"
    }
  ],
  "mock_testing_fallbacks": true
}'
""",
}


def run_seed(box: Box, name: str) -> str:
    return box.run(("bash", "-c", SEED[name])).stdout


def said_by(answer: str) -> str:
    content: str = json.loads(answer)["choices"][0]["message"]["content"]
    return content


def test_the_commands_of_the_workshop(idle_box: Box) -> None:
    """The four commands of the workshop's document work unchanged; the last one, which makes a model fail, works only
    with ALLOW_MOCK_TESTING, which install, status and verify report and which no other machine may reach.
    """
    box = idle_box
    set_env(box, f"LITELLM_MASTER_KEY={SEED_KEY}\n", "-c", "demo.yml")
    assert "mock_testing" in json.loads(run_seed(box, "fallback"))["error"]["message"]
    box.write(
        "/root/open.env", "LITELLM_MASTER_KEY=sk-open-0123456789\nALLOW_MOCK_TESTING=true\nHOST=0.0.0.0\n", 0o600
    )
    refused = box.run(("/usr/local/bin/litellmctl", "install", "--env-file", "/root/open.env"), check=False)
    assert refused.returncode == 78
    assert "/root/open.env:2: ALLOW_MOCK_TESTING=true lets every client" in refused.stderr

    env = f"LITELLM_MASTER_KEY={SEED_KEY}\nALLOW_MOCK_TESTING=true\n"
    box.write("/root/.env", env, 0o600)
    # While stopped: a restart would start it twice.
    ctl(box, "stop")
    installed = ctl(box, "install", "--env-file", "/root/.env", "-c", "demo.yml")
    # Results only: what changed, and no check that passed.
    assert ("Changed: " in installed, "liveliness" in installed) == (True, False), installed
    for name in ("list", "list again"):
        assert MODEL in {row["id"] for row in json.loads(run_seed(box, name))["data"]}
    assert "in place of claude-sonnet-5-5" in said_by(run_seed(box, "chat"))
    assert "in place of claude-sonnet-4-6" in said_by(run_seed(box, "fallback"))
    for output in (installed, ctl(box, "status"), ctl(box, "verify")):
        assert "every client can make models fail" in output
    assert "ALLOW_MOCK_TESTING is on" in box.systemctl("status", "litellm", "--no-pager")
    assert any("ALLOW_MOCK_TESTING=true" in line for line in said(box, "warning"))
    # The file itself is unchanged.
    assert "dangerously" not in box.run(("cat", "/etc/litellm/config.yaml")).stdout


#: Properties of the sandbox and the identity of a unit, as reported by systemd.
SANDBOX = (
    *(
        "User",
        "Group",
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "PrivateUsers",
        "PrivateMounts",
    ),
    *("ProtectProc", "ProcSubset", "NoNewPrivileges", "CapabilityBoundingSet", "AmbientCapabilities"),
    *("SystemCallFilter", "RestrictAddressFamilies", "RestrictNamespaces", "MemoryDenyWriteExecute", "UMask"),
    *("EnvironmentFiles", "ReadWritePaths", "InaccessiblePaths"),
)
LEFT = ("sh", "-c", "ls -d /run/litellm-fallbacks* /run/systemd/system/litellm-fallbacks* 2>/dev/null")


def throwaways(box: Box) -> list[str]:
    listed = ("systemctl", "list-units", "--all", "--plain", "--no-legend", "litellm-fallbacks*")
    return [line.split()[0] for line in box.run(listed).stdout.splitlines()]


def nothing_left(box: Box) -> bool:
    left = box.run(LEFT, check=False).stdout + box.run(("pgrep", "-af", "throwaway"), check=False).stdout
    return not left and throwaways(box) == []


def test_fallbacks_on_a_throwaway_unit(shared_box: Box) -> None:
    """Every fallback of the demo configuration is proven on a unit next to the service, which does not change; the
    unit and its files are removed afterwards, and the reports match the schema, with versions and configuration.
    """
    before = state(shared_box)
    report = json.loads(ctl(shared_box, "verify", "--fallbacks", "--json"))
    texts = (shared_box.read(f"/etc/litellm/configs/{name}") for name in ("demo.yml", "shared/routing.yml"))
    digest = hashlib.sha256("".join(texts).encode()).hexdigest()
    for each in (report, json.loads(ctl(shared_box, "verify", "--no-spend", "--json"))):
        jsonschema.Draft202012Validator(SCHEMA).validate(each)
        assert each["data"]["config"] == {"name": "demo.yml", "sha256": digest, "edited": False}
        assert each["data"]["versions"] == {"litellm_systemd": version("litellm-systemd"), "litellm": LITELLM}
    assert report["ok"], report
    assert len(report["checks"]) == 12
    assert {check["outcome"] for check in report["checks"]} == {"ok"}
    assert "user and sandbox" in report["notes"][0]
    assert nothing_left(shared_box)
    assert state(shared_box) == before
    # The service itself rejects the parameter that was used there.
    answer = shared_box.http(
        "POST",
        f"{BASE}/v1/chat/completions",
        body={"model": MODEL, "messages": [{"role": "user", "content": "x"}], "mock_testing_fallbacks": True},
        headers={"Authorization": f"Bearer {key(shared_box)}"},
    )
    assert answer.status == 400


def test_an_edit_that_is_not_loaded(shared_box: Box) -> None:
    """status and verify name the configuration that the service has loaded, and report a later edit of the file; only
    --fallbacks tests the file. A page and JUnit XML of it can be written to any path.
    """
    box, path = shared_box, "/etc/litellm/configs/demo.yml"
    texts = (box.read(path), box.read("/etc/litellm/configs/shared/routing.yml"))
    loaded = hashlib.sha256("".join(texts).encode()).hexdigest()
    box.run(("sed", "-i", "1i # mine", path))
    note = "demo.yml was edited since the service loaded it: sudo systemctl reload litellm"
    try:
        report = json.loads(ctl(box, "status", "--json"))
        assert (report["data"]["loaded"]["sha256"], report["data"]["loaded"]["edited"]) == (loaded, True)
        assert note in report["notes"]
        report = json.loads(
            ctl(box, "verify", "--no-spend", "--json", "--html", "/root/a.html", "--junit", "/root/a.xml")
        )
        assert report["data"]["config"] == {"name": "demo.yml", "sha256": loaded, "edited": True}
        assert note in report["notes"]
        assert note in box.read("/root/a.html")
        assert note in box.read("/root/a.xml")
        for option in ("--html", "--junit"):
            done = box.run(("/usr/local/bin/litellmctl", "verify", option, "/sys/a"), check=False)
            assert (done.returncode, done.stdout, "/sys/a: Read-only file system" in done.stderr) == (73, "", True)
    finally:
        box.run(("sed", "-i", "1d", path))
    assert json.loads(ctl(box, "status", "--json"))["data"]["loaded"]["edited"] is False


def test_a_kill_leaves_no_throwaway_unit(shared_box: Box) -> None:
    """A litellmctl that gets SIGKILL while its throwaway unit starts or serves leaves no unit, file or process."""
    box = shared_box
    before = state(box)
    for phase in ("activating", "active"):
        script = "/usr/local/bin/litellmctl verify --fallbacks >/dev/null 2>&1 & echo $!"
        pid = box.run(("bash", "-c", script)).stdout.strip()

        def throwaway_is(wanted: str) -> bool:
            return any(box.show(name, "ActiveState")["ActiveState"] == wanted for name in throwaways(box))

        box.wait_until(lambda: throwaway_is("activating"), 240, "a throwaway unit starts")
        if phase == "activating":
            (name,) = throwaways(box)
            assert box.show(name, *SANDBOX) == box.show("litellm.service", *SANDBOX)
        else:
            # A stopped process cannot remove the unit before the test looks.
            box.run(("kill", "-STOP", pid))
            box.wait_until(lambda: throwaway_is("active"), 120, "the throwaway unit serves")
        box.run(("kill", "-KILL", pid), check=False)
        box.wait_until(lambda: nothing_left(box), 120, "nothing is left")
    assert state(box) == before
    assert box.run(("systemctl", "--failed", "--no-legend")).stdout == ""


def test_the_timer(installed_box: Box) -> None:
    """With --verify-every systemd checks the service without cost: a pass prints nothing, and a failure is a failed
    unit and one line in the journal. Later installs keep the timer, it stops with the service, and `off` removes it.
    """
    box = installed_box
    main = state(box)["MainPID"]
    ctl(box, "install", "--verify-every", "15min", "--no-verify")
    assert state(box)["MainPID"] == main
    timer = box.show("litellm-verify.timer", "ActiveState", "UnitFileState", "TimersMonotonic")
    assert (timer["ActiveState"], timer["UnitFileState"]) == ("active", "enabled")
    since = now(box)
    box.systemctl("start", "litellm-verify.service")
    assert check_lines(box, since) == []
    assert "nothing to do" in ctl(box, "install", "--dry-run")
    assert "nothing differs from what was installed" in ctl(box, "diff")

    # The key is changed without a restart.
    box.run(
        (
            "sed",
            "-i",
            "s/^LITELLM_MASTER_KEY=.*/LITELLM_MASTER_KEY=sk-another-key-0123456789/",
            "/etc/litellm/litellm.env",
        )
    )
    since = now(box)
    assert box.run(("systemctl", "start", "litellm-verify.service"), check=False).returncode != 0
    (line,) = check_lines(box, since)
    assert "is unhealthy: 1 of 5 checks failed: models: HTTP 401: Incorrect API key provided." in line
    assert "systemctl restart litellm" in line
    assert box.show("litellm-verify.service", "ActiveState")["ActiveState"] == "failed"

    ctl(box, "stop")
    assert box.show("litellm-verify.timer", "ActiveState")["ActiveState"] == "inactive"
    ctl(box, "start")
    assert box.show("litellm-verify.timer", "ActiveState")["ActiveState"] == "active"
    ctl(box, "install", "--verify-every", "off", "--no-verify")
    left = box.run(("systemctl", "list-units", "--all", "--no-legend", "litellm-verify*"), check=False).stdout
    assert left == ""
    assert box.run(("find", "/etc/systemd/system", "-name", "litellm-verify*")).stdout == ""


def check_lines(box: Box, since: str) -> list[str]:
    """The output of the check itself, without systemd's lines about its unit."""
    return box.journal(None, f"--since={since}", "_SYSTEMD_UNIT=litellm-verify.service").splitlines()
