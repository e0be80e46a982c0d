"""rotate-key: a new master key, with a time in which the service accepts the old one too."""

from __future__ import annotations

import json
from typing import Any

from box import Image
from load import loaded
from service import chat, ctl, key, set_up, state, status_text

from conftest import MakeBox

OLD = "sk-the-first-key-0123456789abcdef0123456789"
CHOSEN = "sk-a-key-of-my-own-0123456789abcdef01234567"
ENV = "/root/.env"


def test_rotate_key(make_box: MakeBox, idle_image: Image, measured: dict[str, Any]) -> None:
    """Clients with the old key lose no request during the overlap, which survives a reload and an install. Without
    an overlap the old keys are refused at once. The .env gets the new key, which is printed nowhere, and an install
    refuses an old one.
    """
    idle_box = make_box(idle_image, **measured)
    set_up(idle_box, f"NUM_WORKERS=2\nLITELLM_MASTER_KEY={OLD}  # mine\n")
    with loaded(idle_box, streams=4) as load:
        output = ctl(idle_box, "rotate-key", "--overlap", "10m", "-e", ENV)
        new = key(idle_box)
        assert (chat(idle_box, bearer=OLD), chat(idle_box, bearer=new)) == (200, 200)
        assert "the old key is accepted until 2" in output
        assert f"{ENV}:2: LITELLM_MASTER_KEY is the new key now" in output
        assert OLD not in output
        assert new not in output
        assert idle_box.read(ENV) == f"NUM_WORKERS=2\nLITELLM_MASTER_KEY={new}  # mine\n"
        assert "the old master key is accepted until 2" in status_text(idle_box)
        idle_box.systemctl("reload", "litellm")
        assert json.loads(ctl(idle_box, "install", "-e", ENV, "--no-verify", "--json"))["data"]["changed"] is False
        assert chat(idle_box, bearer=OLD) == 200
    assert load.failed == []
    assert (load.whole, len(load.streamed)) == (4, 4)

    ctl(idle_box, "rotate-key", "--overlap", "0", "--key-file", "-", input=CHOSEN)
    assert [chat(idle_box, bearer=each) for each in (OLD, new, CHOSEN)] == [401, 401, 200]
    assert "old master key" not in status_text(idle_box)
    before = state(idle_box)
    idle_box.write(ENV, f"LITELLM_MASTER_KEY={new}\n", 0o600)
    done = idle_box.run(("litellmctl", "install", "-e", ENV), check=False)
    assert (done.returncode, state(idle_box)) == (78, before)
    assert f"{ENV}:1: LITELLM_MASTER_KEY is an old key, which 'litellmctl rotate-key' has replaced" in done.stderr
