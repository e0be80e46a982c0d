"""A host that an earlier version installed: upgrade, reload, roll back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import earlier_version
from box import Bind
from box_images import renew_litellm
from load import LONG_PAUSE, loaded
from service import chat, ctl, state
from tests.bundle import own_bundle
from tests.skipping import refuse

from conftest import MakeBox

SEARCH = f"{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_upgrade_reload_and_rollback(make_box: MakeBox, install_environment: dict[str, str]) -> None:
    """A host of the earlier version upgrades, reloads and rolls back without a failed request, and keeps its
    settings. The upgrade reports what the new LiteLLM changes.
    """
    if not earlier_version.BUNDLE.exists():
        refuse(f"{earlier_version.BUNDLE} does not exist. To make it, run: ./scripts/test.sh --setup")
    new = own_bundle()
    box = make_box(binds=(Bind(earlier_version.FOLDER, Path("/srv/earlier")), Bind(new, Path("/srv/new.tar"))))
    environment = {**install_environment, "PATH": SEARCH}
    settings = (
        "LITELLM_MASTER_KEY=sk-upgrade-from-earlier\nLAME_DUCK_TIMEOUT=2\nJSON_LOGS=yes\nCONFIG_FILE=demo.yml\n"
    )
    box.write("/srv/.env", settings)
    # Not with quickstart.sh, which would make a venv for this one command.
    install = (sys.executable, "-m", "litellm_systemd", "install", "--no-verify", "--env-file", "/srv/.env")
    earlier = {**environment, "PYTHONPATH": "/srv/earlier/package"}
    box.run((*install, "--bundle", "/srv/earlier/bundle.tar"), env=earlier, cwd="/srv", timeout=600)
    installed = box.read("/opt/litellm-systemd/current/release.json")

    with loaded(box, clients=4, pause=LONG_PAUSE) as load:
        done = box.run(
            ("/usr/local/bin/litellmctl", "upgrade", "--from", "/srv/new.tar"),
            env=environment,
            check=False,
            timeout=400,
        )
        assert (done.returncode, "New in LiteLLM 1.108.1: " in done.stdout) == (0, True), done.stdout + done.stderr
        assert box.read("/opt/litellm-systemd/current/release.json") != installed
        assert chat(box) == 200
        box.run(("systemctl", "reload", "litellm"), timeout=120)
        renew_litellm(box)
        assert json.loads(ctl(box, "doctor", "--json", check=False))["data"]["findings"] == []
        assert ctl(box, "diff", "--json")
        environ = Path("/proc", state(box)["MainPID"], "environ")
        assert "LAME_DUCK_TIMEOUT=2" in box.run(("cat", str(environ))).stdout

        # The earlier release lacks the demo model, and an edited configuration stays: the rollback is undone.
        upgraded, demo = box.read("/opt/litellm-systemd/current/release.json"), "/etc/litellm/configs/demo.yml"
        shipped = box.read(demo)
        # Without the included file, which that release doesn't know either.
        box.write(demo, shipped.replace("include:\n  - shared/routing.yml", "#"), 0o640, "root:litellm")
        refused = box.run(("/usr/local/bin/litellmctl", "rollback"), env=environment, check=False, timeout=400)
        assert refused.returncode != 0
        assert "demo_model" in refused.stderr, refused.stderr
        assert (box.read("/opt/litellm-systemd/current/release.json"), chat(box)) == (upgraded, 200)
        box.write(demo, shipped, 0o640, "root:litellm")

        ctl(box, "rollback")
        assert box.read("/opt/litellm-systemd/current/release.json") == installed
        assert (state(box)["ActiveState"], chat(box)) == ("active", 200)
        box.run(("systemctl", "reload", "litellm"), timeout=120)
    assert load.failed == []
    assert load.answered > 0
