"""The installed service on a real systemd, used with systemctl, journalctl and curl."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import pytest
from box import Box, Image, end
from service import BASE, MODEL, OLD_MODEL, UPSTREAM, chat, ctl, key, now, refused, said, state

MakeBox = Callable[..., Box]


def hold_port(box: Box) -> subprocess.Popen[str]:
    """Start a program that listens on port 4000, and wait until it does. Give it to `end`."""
    code = "import socket, time; s = socket.create_server(('127.0.0.1', 4000)); print('held'); time.sleep(600)"
    holder = box.popen(("python3", "-u", "-c", code))
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def wait_for_failure(box: Box) -> None:
    box.wait_until(lambda: state(box)["ActiveState"] == "failed", 60, "the service has failed")


# --- a sound service ---


def test_healthy_run(installed_box: Box) -> None:
    """`journalctl -u litellm -p err` is empty after start, verify with its rejected keys, reload, restart and stop.

    After `systemctl stop` the port refuses connections and stays closed, although clients keep connecting. The first
    request after `systemctl start` returns gets 200, each time.
    """
    secret = key(installed_box)
    ctl(installed_box, "verify")
    for verb in ("reload", "restart", "stop"):
        installed_box.systemctl(verb, "litellm")
    assert installed_box.journal("litellm", "--boot", "--priority", "err", "--quiet") == ""
    assert "serving on 127.0.0.1:4000" in installed_box.journal("litellm")

    installed_box.wait_until(lambda: refused(installed_box), 60, "the port is closed")
    assert all(refused(installed_box) for _ in range(5))
    stopped = installed_box.systemctl("is-active", "litellm", "litellm.socket", check=False)
    assert stopped == "inactive\ninactive"
    answers = []
    for _ in range(2):
        installed_box.systemctl("stop", "litellm")
        installed_box.systemctl("start", "litellm")
        answers.append(chat(installed_box, bearer=secret))
    assert answers == [200] * 2


def test_journal_has_no_key(shared_box: Box) -> None:
    """The journal contains neither the gateway's key nor one that a client sent by mistake."""
    ctl(shared_box, "verify")
    chat(shared_box, bearer="sk-sent-by-mistake-0123456789")
    journal = shared_box.journal("litellm")
    assert key(shared_box) not in journal
    assert "sk-sent-by-mistake-0123456789" not in journal


def test_process_is_confined(shared_box: Box) -> None:
    """The service runs as its own user, without capabilities, and cannot gain any."""
    status = shared_box.read(f"/proc/{state(shared_box)['MainPID']}/status")
    values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    user = shared_box.run(("id", "-u", "litellm")).stdout.strip()
    assert values["Uid"].split() == [user] * 4
    assert int(values["CapBnd"], 16) == 0
    assert (values["NoNewPrivs"], values["Seccomp"]) == ("1", "2")


def test_no_key_in_units_or_arguments(shared_box: Box) -> None:
    """Units, D-Bus and command lines show no key, and only root can read the file with the keys."""
    secret = key(shared_box)
    shown = shared_box.run(("systemctl", "show", "litellm.service", "litellm.socket")).stdout
    lines = shared_box.run(("ps", "-e", "-o", "args")).stdout
    units = shared_box.run(("systemctl", "cat", "litellm.service", "litellm.socket")).stdout
    assert secret not in shown + lines + units
    assert shared_box.run(("stat", "-c", "%a %U", "/etc/litellm/litellm.env")).stdout == "600 root\n"


def test_live_figures(shared_box: Box) -> None:
    """`top` shows the workers and their requests without METRICS, and says how to get the rest. Without root, it ends
    in 77 where nothing can be seen.
    """

    def observe_idle() -> dict[str, Any]:
        # A worker counts a request after its answer, and the main process has the count with the next heartbeat.
        shown: dict[str, Any] = json.loads(ctl(shared_box, "top", "--once", "--interval", "0.5", "--json"))
        requests = shown["figures"]["requests"]
        is_idle = requests["total"] >= 1 and not requests["per_second"] and shown["figures"]["inflight"] == 0
        return shown if is_idle else {}

    assert chat(shared_box) == 200
    found = shared_box.wait_until(observe_idle, 60, "top shows the request, and then none")
    workers = json.loads(ctl(shared_box, "status", "--json"))["data"]["runtime"]["workers"]
    assert [each["pid"] for each in found["workers"]] == [each["pid"] for each in workers]
    assert all(each["state"] == "serving" and each["pss_mib"] > 0 for each in found["workers"])
    assert found["figures"]["statuses"] is None
    [note] = found["notes"]
    assert note.endswith("METRICS=127.0.0.1:9400 in .env, then sudo litellmctl install")
    refused = shared_box.run(("/usr/local/bin/litellmctl", "top", "--once"), check=False, user="nobody:nogroup")
    assert (refused.returncode, refused.stdout) == (77, "")
    assert refused.stderr.endswith("Run: sudo litellmctl top\n")


def test_first_curls_of_the_workshop(idle_box: Box) -> None:
    """The workshop's first three commands work unchanged with the workshop's key in .env."""
    idle_box.write("/root/.env", 'LITELLM_MASTER_KEY="sk-litellm-test-key"\n', 0o600)
    ctl(idle_box, "install", "--env-file", "/root/.env", "-c", "demo.yml")
    commands = (
        "export LITELLM_MASTER_KEY=sk-litellm-test-key\n"
        'curl -sf http://localhost:4000/v1/models -H "Authorization: Bearer ${LITELLM_MASTER_KEY}"\n',
        "export LITELLM_MASTER_KEY=sk-litellm-test-key\n"
        "curl -sf -X POST 'http://0.0.0.0:4000/chat/completions' -H 'Content-Type: application/json'"
        ' -H "Authorization: Bearer ${LITELLM_MASTER_KEY}" -d \'{"model": "' + OLD_MODEL + '",'
        ' "messages": [{"role": "user", "content": "what llm are you"}]}\'\n',
    )
    models, answer = (json.loads(idle_box.run(("sh", "-c", command)).stdout) for command in commands)
    assert OLD_MODEL in [model["id"] for model in models["data"]]
    assert answer["choices"][0]["message"]["content"]


# --- stopping and starting ---


def test_disabled_service_stays_off(idle_box: Box) -> None:
    """`litellmctl disable` keeps service and socket off at the next boot, and `enable` enables both again.

    A reload of a service that does not run says how to start it. An enabled service runs after a reboot.
    """
    # `litellmctl disable` ran before this boot: idle_image.
    assert idle_box.systemctl("is-active", "litellm", "litellm.socket", check=False) == "inactive\ninactive"
    done = idle_box.run(("/usr/local/bin/litellmctl", "reload"), check=False)
    assert (done.returncode, "To start it, run: sudo litellmctl start" in done.stderr) == (69, True)
    ctl(idle_box, "enable")
    idle_box.reboot()
    assert idle_box.systemctl("is-active", "litellm", "litellm.socket") == "active\nactive"
    assert chat(idle_box) == 200


def test_drop_in_takes_effect(shared_box: Box) -> None:
    """An administrator's drop-in takes effect, and no install changes it.

    During `systemctl restart` the port stays open and each new request is answered.
    """
    text = "[Service]\nEnvironment=ADDED_BY_ADMIN=1\n"
    shared_box.write("/etc/systemd/system/litellm.service.d/override.conf", text)
    shared_box.systemctl("daemon-reload")
    secret, answers = key(shared_box), []
    restart = shared_box.popen(("systemctl", "restart", "litellm"))
    while restart.poll() is None:
        answers.append(chat(shared_box, bearer=secret))
    assert (restart.returncode, set(answers)) == (0, {200})
    ctl(shared_box, "install")
    environ = shared_box.run(("cat", f"/proc/{state(shared_box)['MainPID']}/environ")).stdout
    assert "ADDED_BY_ADMIN=1" in environ.split("\0")
    assert shared_box.read("/etc/systemd/system/litellm.service.d/override.conf") == text
    shared_box.run(("rm", "/etc/systemd/system/litellm.service.d/override.conf"))
    shared_box.systemctl("daemon-reload")


# --- what goes wrong ---


DEMO = "/etc/litellm/configs/demo.yml"
#: An invalid text and its error; None: the file is removed.
BROKEN: dict[str, tuple[str | None, str]] = {
    "bad YAML": ("model_list: [\n", "configs/demo.yml:2:1"),
    "a missing variable": (
        "model_list:\n  - model_name: m\n    litellm_params: {model: openai/m, api_key: os.environ/NOT_THERE}\n",
        "NOT_THERE",
    ),
    "no models": ("litellm_settings: {}\n", "model_list"),
    "no file": (None, "/etc/litellm/configs/demo.yml doesn't exist"),
}


def break_config(box: Box, config: str | None) -> None:
    box.run(("rm", "-f", DEMO))
    if config is not None:
        box.write(DEMO, config, 0o640, "root:litellm")


def test_invalid_configuration_exits_with_one_line(idle_box: Box) -> None:
    """An invalid configuration exits with 78 and one line, without a restart loop.

    After a repair, `systemctl start` starts the service.
    """
    good = idle_box.read(DEMO)
    for name, (config, words) in BROKEN.items():
        start = now(idle_box)
        break_config(idle_box, config)
        idle_box.run(("systemctl", "restart", "litellm"), check=False)
        wait_for_failure(idle_box)
        lines = said(idle_box, "err", start)
        assert (len(lines), words in "".join(lines)) == (1, True), (name, lines)
        assert state(idle_box)["ExecMainStatus"] == "78", name
        idle_box.wait_until(lambda: refused(idle_box), 60, "the port is closed")
        assert state(idle_box)["NRestarts"] == "0", name
    break_config(idle_box, good)
    idle_box.systemctl("start", "litellm")
    assert chat(idle_box) == 200


def test_invalid_configuration_fails_the_reload(shared_box: Box) -> None:
    """A reload with an invalid configuration fails, and the service continues unchanged."""
    before, good = state(shared_box)["MainPID"], shared_box.read(DEMO)
    break_config(shared_box, "model_list: [\n")
    assert shared_box.run(("systemctl", "reload", "litellm"), check=False).returncode != 0
    done = shared_box.run(("/usr/local/bin/litellmctl", "reload"), check=False)
    assert done.returncode == 69
    assert "this isn't YAML" in done.stderr
    assert chat(shared_box) == 200
    assert state(shared_box)["MainPID"] == before
    break_config(shared_box, good)
    shared_box.systemctl("reload", "litellm")


def test_occupied_port_names_the_process(idle_box: Box) -> None:
    """An occupied port is an error that names the process, and the service listens nowhere else."""
    holder = hold_port(idle_box)
    done = idle_box.run(("/usr/local/bin/litellmctl", "start"), check=False)
    assert done.returncode == 69
    assert "cannot listen on 127.0.0.1:4000: python3" in done.stderr
    listening = idle_box.run(("ss", "-Hltnp")).stdout
    assert {line.split()[3] for line in listening.splitlines()} == {"127.0.0.1:4000", UPSTREAM}
    end(holder)


def test_wrong_key_is_refused(shared_box: Box) -> None:
    """A request with a wrong key or none gets no answer from a model."""
    assert chat(shared_box, bearer="sk-wrong") >= 400
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    assert shared_box.http("POST", f"{BASE}/v1/chat/completions", body=body).status == 401


OWN = "/tmp/own"


def test_other_user_reads_no_secret(shared_box: Box) -> None:
    """Another user of the host can read neither keys nor configurations, and the error says to use sudo."""
    assert shared_box.run(("ls", "/etc/litellm"), user="nobody:nogroup", check=False).returncode != 0
    for verb in (("verify",), ("client", "codex", "-c", "./own.yml")):
        done = shared_box.run(("/usr/local/bin/litellmctl", *verb), user="nobody:nogroup", check=False)
        assert (done.returncode, "sudo" in done.stderr) == (77, True)


def test_other_user_runs_a_gateway(shared_box: Box) -> None:
    """Another user can run a gateway with a .env of their own next to the service, except on its port."""
    shared_box.run(("install", "-d", "-o", "daemon", OWN))
    shared_box.write(f"{OWN}/mine.env", "CONFIG_FILE=demo.yml\nPORT=4000\n", 0o644)
    argv = ("/usr/local/bin/litellmctl", "run", "-e", f"{OWN}/mine.env")
    done = shared_box.run(argv, user="daemon:daemon", check=False, env={"HOME": OWN}, cwd=OWN)
    assert (done.returncode, "cannot listen on 127.0.0.1:4000" in done.stderr) == (69, True), done.stderr
    done = shared_box.run(argv[:2], user="daemon:daemon", check=False, env={"HOME": OWN}, cwd=OWN)
    assert (done.returncode, "litellmctl run -e FILE" in done.stderr) == (77, True), done.stderr


def test_answers_are_streamed(shared_box: Box) -> None:
    """A streamed answer arrives as server-sent events and ends with [DONE]."""
    connection = shared_box.http_connection("127.0.0.1", 4000, timeout=120)
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"Authorization": f"Bearer {key(shared_box)}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        text = connection.getresponse().read().decode()
    except HTTPException as error:  # pragma: no cover - the message is worth more than the traceback
        pytest.fail(f"the stream broke: {error}")
    finally:
        connection.close()
    assert text.rstrip().endswith("data: [DONE]")


def test_other_images_are_unchanged(make_box: MakeBox, host_image: Image) -> None:
    """The content of the golden image is not in a box of the bare host."""
    assert not make_box(host_image).exists("/etc/litellm")
