"""Releases on a real systemd: upgrade, rollback, prune, a release that does not start, a missing Python."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from box import Bind, Box, BoxError, Image
from load import LONG_PAUSE, loaded
from other_release import copy_broken_release
from packaging.utils import parse_wheel_filename
from service import BASE, MODEL, chat, ctl, key, state
from tests.bundle import WHEELS
from tests.wheels import reversion, stand_in

from litellm_systemd.releases.requirements_lock import parse_lock, pinned_version
from litellm_systemd.releases.source import find_source

MakeBox = Callable[..., Box]
#: A working litellm-systemd, one that does not start, and another LiteLLM.
GOOD, BROKEN, LITELLM = "0.1.1", "0.1.2", "1.108.99"
#: A configuration that needs a package which the release does not have.
SENTRY = f"""\
model_list: [{{model_name: {MODEL}, litellm_params: {{model: litellm-systemd-demo/{MODEL}}}}}]
litellm_settings:
  callbacks: [prometheus]
  failure_callback: [sentry]
  custom_provider_map: [{{provider: litellm-systemd-demo, custom_handler: litellm_systemd.demo.provider.demo_model}}]
  drop_params: true
  disable_hf_tokenizer_download: true
general_settings: {{master_key: os.environ/LITELLM_MASTER_KEY}}
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels that replaces a package index together with those of the bundle.

    The lock is for all Pythons and machines, and so the packages that this one doesn't need are there in name.
    """
    folder, source = tmp_path_factory.mktemp("index"), find_source()
    ours = source.origin.prepare(tmp_path_factory.mktemp("scratch")).wheel
    reversion(ours, folder, GOOD)
    [litellm] = WHEELS.glob(f"litellm-{pinned_version(source.lock, 'litellm')}-*.whl")
    reversion(litellm, folder, LITELLM)
    here = {tuple(map(str, parse_wheel_filename(path.name)[:2])) for path in WHEELS.glob("*.whl")}
    for pin in parse_lock(source.lock):
        if (pin.name, pin.version) not in here:
            stand_in(folder, pin)
    return folder


@pytest.fixture
def upgrading(install_environment: dict[str, str]) -> dict[str, str]:
    """Variables with which the folders and uv's cache stand in for a package index."""
    search = f"{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {**install_environment, "PATH": search, "PIP_FIND_LINKS": "/srv/index /srv/wheels"}


@pytest.fixture
def box_with_index(make_box: MakeBox, installed_image: Image, index: Path, upgrading: dict[str, str]) -> Box:
    """A box with the service running, the wheels below /srv, and a separate file system at /opt/litellm-systemd."""
    box = make_box(installed_image, binds=(Bind(index, Path("/srv/index")), Bind(WHEELS, Path("/srv/wheels"))))
    script = 'mount -t tmpfs -o mode=0755 tmpfs /mnt && cp -a "$0/." /mnt && mount --bind /mnt "$0"'
    box.run(("sh", "-c", script, "/opt/litellm-systemd"), timeout=300)
    # uv prefers what its cache knows of an index to a folder, even if the cache does not have the package.
    box.run((f"{sys.prefix}/bin/uv", "cache", "clean", "sentry-sdk"), env=upgrading)
    return box


def releases(box: Box) -> dict[str, dict[str, Any]]:
    """The releases, as the version of this package, that of LiteLLM if it is not the lock's, and the additions."""
    found = json.loads(ctl(box, "releases", "list", "--json"))["data"]["releases"]
    names = ((row["version"], *[LITELLM] * (row["litellm"] == LITELLM), *row["additions"]) for row in found)
    return {" ".join(name): row for name, row in zip(names, found, strict=True)}


def current(box: Box) -> str:
    [version] = [version for version, row in releases(box).items() if row["current"]]
    return version


def upgrade(box: Box, environment: dict[str, str], *arguments: str) -> CompletedProcess[str]:
    return box.run(("/usr/local/bin/litellmctl", "upgrade", *arguments), env=environment, check=False, timeout=400)


def served(box: Box) -> str:
    """The version of LiteLLM in a response of the service."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    answer = box.http(
        "POST", f"{BASE}/v1/chat/completions", body=body, headers={"Authorization": f"Bearer {key(box)}"}
    )
    return answer.headers["x-litellm-version"]


def metrics(box: Box) -> tuple[int, int]:
    """The status of /metrics without and with the key."""
    bearer = {"Authorization": f"Bearer {key(box)}"}
    answers = [box.http("GET", f"{BASE}/metrics/", headers=headers) for headers in ({}, bearer)]
    assert "litellm_" in answers[1].text
    # Each connection may reach another worker: all of them count together.
    texts = [box.http("GET", f"{BASE}/metrics/", headers=bearer).text for _ in range(8)]
    counts = [
        sum(map(float, re.findall(r"^litellm_proxy_total_requests_metric_total.* (\S+)$", text, re.M)))
        for text in texts
    ]
    assert counts == sorted(counts)
    assert counts[0] > 0
    return answers[0].status, answers[1].status


def test_upgrades_and_rollbacks_under_load(box_with_index: Box, upgrading: dict[str, str]) -> None:
    """While clients chat, upgrade switches to a new release and to another LiteLLM, and rollback to the one that it
    names: no request fails. A release that does not start leaves the old one running; an unavailable or existing
    version changes nothing. An install adds the package that a new configuration needs to the release, and upgrades
    and rollbacks keep it. The releases may be on another file system than the rest.
    """
    box, shipped = box_with_index, served(box_with_index)
    with loaded(box, clients=4, pause=LONG_PAUSE) as load:
        copy_broken_release(box, releases(box)["0.1.0"]["identifier"], BROKEN)
        done = box.run(("/usr/local/bin/litellmctl", "rollback", BROKEN), check=False, timeout=400)
        assert (done.returncode != 0, "litellm-standby.service" in done.stderr) == (True, True), done.stderr
        assert (current(box), state(box)["ActiveState"], chat(box)) == ("0.1.0", "active", 200)

        before = state(box)["MainPID"]
        missing = upgrade(box, upgrading, "0.9.9")
        assert (missing.returncode, "PIP_INDEX_URL" in missing.stderr) == (71, True), missing.stderr
        assert state(box)["MainPID"] == before

        box.write("/root/sentry.yml", SENTRY)
        argv = ("/usr/local/bin/litellmctl", "install", "-c", "/root/sentry.yml", "--no-verify")
        done = box.run(argv, env=upgrading, check=False, timeout=400)
        assert (done.returncode, current(box)) == (0, "0.1.0 sentry"), done.stderr
        assert "Added to the release: the group sentry" in done.stderr + done.stdout
        assert metrics(box) == (401, 200)

        done = upgrade(box, upgrading, GOOD)
        kept = f"{GOOD} sentry"
        assert (done.returncode, "takes over" in done.stderr, current(box)) == (0, True, kept), done.stderr
        before = state(box)["MainPID"]
        again = upgrade(box, upgrading, "--from", f"/srv/index/litellm_systemd-{GOOD}-py3-none-any.whl", "--json")
        assert json.loads(again.stdout)["data"]["changed"] is False
        assert state(box)["MainPID"] == before

        done = upgrade(box, upgrading, "--litellm", LITELLM)
        assert (done.returncode, current(box), served(box)) == (
            0,
            f"{GOOD} {LITELLM} sentry",
            LITELLM,
        ), done.stderr
        ctl(box, "rollback", releases(box)["0.1.0"]["identifier"])
        assert (current(box), served(box), metrics(box)) == ("0.1.0 sentry", shipped, (401, 200))
    assert load.failed == []
    assert load.answered > 0
    assert_pruned(box)


def assert_pruned(box: Box) -> None:
    """prune removes every release except the one in use, after the standby of the last restart has drained."""
    found = releases(box)
    others = {row["identifier"] for version, row in found.items() if version != "0.1.0 sentry"}
    assert len(others) == 4
    box.wait_until(lambda: not any(row["in_use"] for row in releases(box).values() if not row["current"]), 60, "idle")
    removed = json.loads(ctl(box, "releases", "prune", "--keep", "0", "--json"))["data"]["removed"]
    assert set(removed) == others
    assert (set(releases(box)), chat(box)) == ({"0.1.0 sentry"}, 200)
    assert json.loads(ctl(box, "doctor", "--json", check=False))["data"]["findings"] == []


def test_missing_python(idle_box: Box) -> None:
    """If an upgrade of the system removed the release's Python, litellmctl reports that with the remedy."""
    python = "/opt/litellm-systemd/current/bin/python"
    idle_box.run(("ln", "-sfn", "/usr/bin/python3.99", python))
    done = idle_box.run(("/usr/local/bin/litellmctl", "status"), check=False)
    assert (done.returncode, done.stdout) == (69, "")
    assert "/usr/bin/python3.99 no longer exists" in done.stderr
    assert "litellmctl install" in done.stderr
    elsewhere = idle_box.run((f"{sys.prefix}/bin/litellmctl", "status", "--json"), check=False)
    assert "cannot start again" in json.loads(elsewhere.stdout)["notes"][0]
    with pytest.raises(BoxError, match="69"):
        ctl(idle_box, "rollback")
