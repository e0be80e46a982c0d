"""litellmctl on a real systemd: install, reinstall, switch, failure, uninstall."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from box import Box, BoxError
from service import BASE, UNMEASURED, chat, ctl, key, refused, state, with_model
from tests import every_verb
from tests.files import Files

REPOSITORY = Path(__file__).resolve().parents[2]


def fresh_ctl(box: Box, environment: dict[str, str], *arguments: str, check: bool = True, cwd: str = "/root") -> Any:
    """litellmctl of the checkout's venv, as on a host without an installation."""
    argv = (f"{sys.prefix}/bin/litellmctl", *arguments)
    return box.run(argv, check=check, env=environment, cwd=cwd, timeout=600)


def snapshot(box: Box) -> Files:
    """Every file that an install writes, with mode, owner and content."""
    find = "find /etc/litellm /etc/systemd/system /etc/sysusers.d /etc/tmpfiles.d /usr/local/bin -not -type d"
    script = f"{find} -printf '%p %m %u:%g %l\\n' -exec md5sum {{}} \\;"
    return Files((line, ()) for line in box.run(("sh", "-c", script)).stdout.splitlines())


def write_env(box: Box, text: str, name: str = "/root/.env") -> None:
    box.write(name, text, 0o600)


# --- installing ---


def test_install_starts_and_verifies(shared_box: Box) -> None:
    """`litellmctl install -c demo.yml` gives a service with a user and paths of its own, which passes every check of
    verify: none is skipped, and none is billed.
    """
    # The workshop's users export a key; litellmctl uses that of the installed service instead.
    exported = {"LITELLM_MASTER_KEY": "sk-of-another-gateway"}
    report = json.loads(ctl(shared_box, "verify", "--all-models", "--full", "--json", env=exported))
    assert {check["outcome"] for check in report["checks"]} == {"ok"}, report
    assert report["data"]["billed"]["checks"] == 0
    listing = shared_box.run(
        ("stat", "-c", "%n %a %U:%G", "/etc/litellm", "/etc/litellm/litellm.env", "/etc/litellm/configs/demo.yml")
    ).stdout
    assert listing.splitlines() == [
        "/etc/litellm 750 root:litellm",
        "/etc/litellm/litellm.env 600 root:root",
        "/etc/litellm/configs/demo.yml 640 root:litellm",
    ]
    assert shared_box.run(("readlink", "/etc/litellm/config.yaml")).stdout == "configs/demo.yml\n"


def test_second_install_changes_nothing(shared_box: Box) -> None:
    """A second run plans nothing, writes nothing and restarts nothing."""
    before, files = state(shared_box)["MainPID"], snapshot(shared_box)
    report = json.loads(ctl(shared_box, "install", "--json"))
    assert report["data"]["actions"] == []
    assert report["title"].startswith("nothing to do")
    assert snapshot(shared_box) == files
    assert state(shared_box)["MainPID"] == before


def test_dry_run_writes_nothing(shared_box: Box) -> None:
    """--dry-run lists the steps, writes nothing, and its exit code says whether there are any."""
    files = snapshot(shared_box)
    assert "nothing to do" in ctl(shared_box, "install", "--dry-run")
    write_env(shared_box, "NUM_WORKERS=1\n")
    done = shared_box.run(
        ("/usr/local/bin/litellmctl", "install", "--dry-run", "--env-file", "/root/.env", "--json"), check=False
    )
    assert done.returncode == 2
    actions = json.loads(done.stdout)["data"]["actions"]
    assert actions == [
        "write /etc/litellm/litellm.env (changed)",
        "restart litellm.service (/etc/litellm/litellm.env)",
    ]
    assert snapshot(shared_box) == files


def test_changed_env_is_applied(installed_box: Box) -> None:
    """A changed .env restarts the service with it; key, port and variables that a later run does not name stay."""
    before = key(installed_box)
    write_env(installed_box, "NUM_WORKERS=1\nPORT=4010\nMINE='a $b'\n")
    ctl(installed_box, "install", "--env-file", "/root/.env", "--no-verify")
    assert key(installed_box) == before
    assert refused(installed_box)
    assert installed_box.http("GET", "http://127.0.0.1:4010/health/readiness").status == 200
    environ = installed_box.run(("cat", f"/proc/{state(installed_box)['MainPID']}/environ")).stdout.split("\0")
    assert "MINE=a $b" in environ
    assert len(installed_box.run(("pgrep", "-P", state(installed_box)["MainPID"])).stdout.split()) == 1

    files = snapshot(installed_box)
    report = json.loads(ctl(installed_box, "install", "--no-verify", "--json", cwd="/"))
    assert report["data"]["actions"] == []
    assert snapshot(installed_box) == files


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        pytest.param("PORT=http\n", 78, ".env:1: PORT=http", id="a bad value"),
        pytest.param("A='open\n", 78, ".env:1: not an assignment", id="a quote that isn't closed"),
        pytest.param("LITELLM_MASTER_KEY=sk-1234\n", 78, "sk-1234", id="the tutorial's key"),
        pytest.param("HOST=0.0.0.0\nLITELLM_MASTER_KEY=sk-litellm-test-key\n", 78, "0.0.0.0", id="example key"),
        pytest.param("CONFIG_FILE=demmo.yml\n", 64, "Did you mean demo.yml?", id="a misspelt configuration"),
        pytest.param("CONFIG_FILE=iam_role_config.yml\n", 78, "AWS_REGION_NAME", id="no region"),
    ],
)
def test_invalid_env_changes_nothing(shared_box: Box, text: str, code: int, said: str) -> None:
    """An invalid .env is one error with the remedy; nothing changes and the service continues."""
    files, before = snapshot(shared_box), state(shared_box)["MainPID"]
    write_env(shared_box, text)
    done = shared_box.run(
        ("/usr/local/bin/litellmctl", "install", "--env-file", "/root/.env"),
        check=False,
        env={"AWS_EC2_METADATA_DISABLED": "true"},
    )
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert snapshot(shared_box) == files
    assert state(shared_box)["MainPID"] == before


OLD_FORMS = """\
# The workshop's .env
export POSTGRES_USER="litellm"
POSTGRES_PASSWORD='pass word'
POSTGRES_DB=litellm
DATABASE_URL="postgresql://${POSTGRES_USER}:secret@db:5432/${POSTGRES_DB}"
AWS_ACCESS_KEY_ID=""
AWS_SECRET_ACCESS_KEY=""
AWS_REGION_NAME="us-east-1"
LITELLM_MASTER_KEY="sk-litellm-test-key"   # the example key
OPENAI_API_BASE=http://localhost:4000
SERVE_OPENAI_SWAGGER=True
UI_USERNAME=admin
UI_PASSWORD=admin
STORE_MODEL_IN_DB=True
CONFIG_FILE=iam_role_config.yml
"""


def test_old_env_forms(idle_box: Box) -> None:
    """The workshop's .env is refused for the database of its compose file, with the command that sets one up. Without
    that line it installs and serves, also with BOM and CRLF.
    """
    write_env(idle_box, OLD_FORMS)
    argv = ("/usr/local/bin/litellmctl", "install", "--env-file", "/root/.env", "--no-verify", "--offline")
    done = idle_box.run(argv, check=False)
    assert (done.returncode, "install --with-postgres" in done.stderr) == (78, True), done.stderr
    forms = "".join(line for line in OLD_FORMS.splitlines(True) if not line.startswith("DATABASE_URL"))
    write_env(idle_box, forms)
    said = ctl(idle_box, "install", "--env-file", "/root/.env", "--no-verify", "--offline")
    assert "the example key sk-litellm-test-key" in said
    models = idle_box.http("GET", f"{BASE}/v1/models", headers={"Authorization": "Bearer sk-litellm-test-key"})
    assert "bedrock-converse-us-claude-3-7-sonnet-v1" in [model["id"] for model in models.json()["data"]]
    environ = idle_box.run(("cat", f"/proc/{state(idle_box)['MainPID']}/environ")).stdout.split("\0")
    assert "POSTGRES_PASSWORD=pass word" in environ
    assert not [entry for entry in environ if entry.startswith("AWS_ACCESS_KEY_ID=")]
    write_env(idle_box, "\ufeff" + forms.replace("\n", "\r\n"))
    again = ctl(idle_box, "install", "--env-file", "/root/.env", "--no-verify", "--offline", "--json")
    assert json.loads(again)["data"]["actions"] == []


def test_install_needs_root(shared_box: Box) -> None:
    """Without root there is one error that names sudo, and nothing changes."""
    files = snapshot(shared_box)
    argv = ("/usr/local/bin/litellmctl", "install", "-c", "demo.yml")
    done = shared_box.run(argv, user="nobody:nogroup", check=False)
    assert (done.returncode, "sudo" in done.stderr) == (77, True)
    assert snapshot(shared_box) == files


def test_occupied_port_is_reported_before_a_change(box: Box, install_environment: dict[str, str]) -> None:
    """If the port is occupied on a new host, install names the process and leaves nothing behind."""
    script = (
        "import socket,time; s=socket.create_server(('127.0.0.1',4000)); print('held',flush=True); time.sleep(600)"
    )
    holder = box.popen(("python3", "-c", script))
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    done = fresh_ctl(box, install_environment, "install", "-c", "demo.yml", check=False)
    assert (done.returncode, "cannot listen on 127.0.0.1:4000: python3" in done.stderr) == (69, True), done.stderr
    assert not box.exists("/etc/litellm")
    assert not box.exists("/opt/litellm-systemd")


def test_first_install_without_env(box: Box, install_environment: dict[str, str]) -> None:
    """Without .env, options and an earlier install, the error says how to create a .env."""
    done = fresh_ctl(box, install_environment, "install", check=False)
    assert (done.returncode, "litellmctl init" in done.stderr) == (66, True)


def test_home_python_is_refused(shared_box: Box) -> None:
    """A Python below /home, which the sandbox hides from the service, is refused with the remedy."""
    before, name = snapshot(shared_box), Path(sys.executable).resolve().name
    script = (
        f"mkdir -p /home/dev/python/bin /home/dev/python/lib && cp /usr/bin/{name} /home/dev/python/bin/"
        f" && cp -a /usr/lib/{name} /home/dev/python/lib/"
        f" && /home/dev/python/bin/{name} -m venv --without-pip /srv/venv"
    )
    shared_box.run(("sh", "-c", script))
    code = "from litellm_systemd.cli import run_command; raise SystemExit(run_command(['install', '-c', 'demo.yml']))"
    packages = {"PYTHONPATH": f"/opt/litellm-systemd/current/lib/{name}/site-packages"}
    done = shared_box.run(("/srv/venv/bin/python", "-c", code), check=False, env=packages)
    assert (done.returncode, "is in a home folder" in done.stderr) == (69, True), done.stderr
    assert snapshot(shared_box) == before


# --- switching ---


def test_config_use_is_a_reload(shared_box: Box) -> None:
    """`config use` switches with a reload: the same main process serves the models of the other configuration."""
    before = state(shared_box)["MainPID"]
    other = with_model(shared_box.read("/etc/litellm/configs/demo.yml"), "another-model")
    shared_box.write("/root/mine.yml", other)
    ctl(shared_box, "config", "use", "./mine.yml", cwd="/root")
    assert state(shared_box)["MainPID"] == before
    assert chat(shared_box, "another-model") == 200
    assert "mine.yml" in ctl(shared_box, "config", "list")
    ctl(shared_box, "config", "use", "demo")
    assert chat(shared_box) == 200


def denied(box: Box) -> str:
    return box.show("litellm.service", "IPAddressDeny").get("IPAddressDeny", "")


def test_switched_configuration_survives_a_rerun(idle_box: Box) -> None:
    """A configuration that was selected with -c stays active when install runs again with the old .env. The unit
    denies the instance metadata until a configuration needs them.
    """
    write_env(idle_box, "CONFIG_FILE=demo.yml\nAWS_REGION_NAME=eu-central-1\n")
    ctl(idle_box, "install", "--env-file", "/root/.env", "--no-start")
    assert {"169.254.169.254/32", "fd00:ec2::254/128"} <= set(denied(idle_box).split())
    ctl(idle_box, "restart", "-c", "prompt_caching.yml")
    assert denied(idle_box) == ""
    assert "nothing differs" in ctl(idle_box, "diff")
    ctl(idle_box, "install", "--env-file", "/root/.env", "--no-verify", "--offline")
    assert idle_box.run(("readlink", "/etc/litellm/config.yaml")).stdout == "configs/prompt_caching.yml\n"


def test_an_ended_model_is_refused_once(idle_box: Box) -> None:
    """`config use` refuses a model past its end of life; once allowed, reload and install continue with a warning."""
    write_env(idle_box, "AWS_REGION_NAME=us-east-1\n")
    ctl(idle_box, "install", "--env-file", "/root/.env", "--no-verify")
    ended = "bedrock/us.anthropic.claude-3-7-sonnet-20250219-v1:0"
    entry = f"  - model_name: old\n    litellm_params:\n      model: {ended}\n"
    demo = idle_box.read("/etc/litellm/configs/demo.yml")
    idle_box.write("/root/old.yml", demo.replace("model_list:\n", f"model_list:\n{entry}"))
    refused = idle_box.run(("litellmctl", "config", "use", "./old.yml"), check=False, cwd="/root")
    assert refused.returncode == 78
    assert "--allow-eol" in refused.stderr
    assert idle_box.run(("readlink", "/etc/litellm/config.yaml")).stdout == "configs/demo.yml\n"
    for arguments in (
        ["config", "use", "./old.yml", "--allow-eol"],
        ["reload"],
        ["install", "--no-spend", "--offline"],
    ):
        assert "which Bedrock ended on 2026-04-28" in ctl(idle_box, *arguments, cwd="/root")
    assert idle_box.run(("readlink", "/etc/litellm/config.yaml")).stdout == "configs/old.yml\n"


def test_region_is_written_into_the_configuration(idle_box: Box) -> None:
    """The installed configuration calls the inference profiles of the region in .env."""
    write_env(idle_box, "AWS_REGION_NAME=eu-central-1\n")
    ctl(idle_box, "install", "--env-file", "/root/.env", "-c", "iam_role_config.yml", "--no-start", "--offline")
    text = idle_box.read("/etc/litellm/configs/shared/models.yml")
    assert "bedrock/eu.anthropic." in text
    assert "bedrock/us.anthropic." not in text


def test_edited_configuration_survives(shared_box: Box) -> None:
    """Install keeps a configuration that was edited in /etc/litellm/configs, and reports that."""
    path = "/etc/litellm/configs/demo.yml"
    shipped = shared_box.read(path)
    edited = f"{shipped}# mine\n"
    shared_box.write(path, edited, 0o640, "root:litellm")
    assert f"{path} was edited here" in ctl(shared_box, "install", "--no-verify")
    assert shared_box.read(path) == edited
    shared_box.write(path, shipped, 0o640, "root:litellm")


# --- looking ---


def test_status(shared_box: Box) -> None:
    """`status` shows the state and the configuration of the service, for people and as JSON, and its exit code says
    that it runs. (For a stopped one: test_a_stopped_service.)
    """
    report = json.loads(ctl(shared_box, "status", "--json"))
    assert (report["data"]["active"], report["data"]["config"]) == ("active", "demo.yml")
    assert report["data"]["listen"].startswith("127.0.0.1:4000")
    versions = {name: importlib.metadata.version(name) for name in ("litellm", "litellm-systemd")}
    assert (report["data"]["litellm"], report["data"]["version"]) == tuple(versions.values())
    runtime = report["data"]["runtime"]
    assert (runtime["state"], report["data"]["backlog"]) == ("serving", 0)
    main = state(shared_box)["MainPID"]
    workers = {str(worker["pid"]) for worker in runtime["workers"]}
    assert workers == set(shared_box.run(("pgrep", "-P", main)).stdout.split())
    assert all(worker["pss_mib"] > 0 for worker in runtime["workers"])
    ctl(shared_box, "reload")
    text = ctl(shared_box, "status")
    assert "serving on 127.0.0.1:4000" in text
    [generation] = [line.split()[1] for line in text.splitlines() if line.split()[:1] == ["generation"]]
    assert int(generation) == runtime["generation"] + 1


def test_status_without_root(shared_box: Box) -> None:
    """Another user of the host sees that the service runs, and no secret."""
    argv = ("/usr/local/bin/litellmctl", "status", "--json")
    report = json.loads(shared_box.run(argv, user="nobody:nogroup").stdout)
    assert (report["data"]["active"], report["data"]["runtime"]) == ("active", {})


def test_logs(shared_box: Box) -> None:
    """`logs` shows the service's journal, with the filters of journalctl, and as JSON."""
    assert "serving on" in ctl(shared_box, "logs", "-n", "500", "--since", "yesterday")
    assert "serving on" not in ctl(shared_box, "logs", "-p", "err")
    lines = ctl(shared_box, "logs", "--json", "-n", "5").splitlines()
    assert all("MESSAGE" in json.loads(line) for line in lines)
    for script, code in (("litellmctl logs >/dev/full", 74), ("litellmctl logs | head -n 1 >/dev/null", 0)):
        assert shared_box.run(("bash", "-c", f"set -o pipefail; {script}"), check=False).returncode == code


def test_every_verb_without_root(shared_box: Box) -> None:
    """Without root on an installed host, every verb with every flag ends in a documented exit code with a message,
    and in 74 where its output is lost. Members of the groups systemd-journal and litellm see more.
    """
    for group, logs, listed in (("", 77, 77), ("systemd-journal", 0, 77), ("litellm", 77, 0)):
        number = shared_box.run(("getent", "group", group)).stdout.split(":")[2:3] if group else []
        argv = (*UNMEASURED, "/opt/litellm-systemd/current/bin/python", "-I", every_verb.__file__, "65534", *number)
        runs = json.loads(shared_box.run(argv, timeout=600).stdout)
        assert every_verb.mistakes(runs) == []
        codes = {run["arguments"]: run["code"] for run in runs if run["stdout"] == "pipe"}
        assert (codes["status"], codes["verify"], codes["doctor"], codes["stop"]) == (0, 77, 77, 77)
        assert (codes["logs"], codes["config list"]) == (logs, listed)


def test_a_stopped_service(idle_box: Box) -> None:
    """`status` and `verify` of a stopped service report how to start it; `status` of a failed one has the cause."""
    for verb in ("status", "verify"):
        done = idle_box.run(("/usr/local/bin/litellmctl", verb), check=False)
        assert (done.returncode, "sudo litellmctl start" in done.stdout + done.stderr) == (69, True)
    idle_box.write("/etc/litellm/configs/demo.yml", "model_list: [\n", 0o640, "root:litellm")
    assert idle_box.run(("/usr/local/bin/litellmctl", "start"), check=False).returncode == 69
    last = idle_box.run(("/usr/local/bin/litellmctl", "status"), check=False).stdout.splitlines()[-1]
    assert last.startswith("litellm.service has failed: /etc/litellm/configs/demo.yml:2:1: ")
    assert last.endswith("For the cause, run: sudo litellmctl doctor")


# --- taking away ---


def test_uninstall_asks_for_confirmation(shared_box: Box) -> None:
    """Without --yes uninstall asks for confirmation, and the answer no changes nothing."""
    files = snapshot(shared_box)
    done = shared_box.run(("/usr/local/bin/litellmctl", "uninstall"), input="n\n")
    assert "nothing was changed" in done.stdout
    assert snapshot(shared_box) == files
    assert chat(shared_box) == 200


def test_without_systemd(shared_box: Box) -> None:
    """Without systemd, each verb that needs it reports that, and what works without it."""
    argv = ("unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /run/systemd && litellmctl status")
    with pytest.raises(BoxError, match=r"systemd is not running on this machine"):
        shared_box.run(argv)
