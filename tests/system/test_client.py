"""litellmctl client on an installed service, as a user with sudo runs it."""

from __future__ import annotations

import json

from box import Box
from service import key

CTL = "/usr/local/bin/litellmctl"


def write(box: Box, name: str) -> tuple[int, str]:
    """Write the settings of a client for the user ada, as under sudo. Returns the exit code and the output."""
    done = box.run((CTL, "client", name, "--write"), env={"SUDO_USER": "ada"}, cwd="/home/ada", check=False)
    return done.returncode, done.stdout + done.stderr


def test_files_of_the_invoking_user(idle_box: Box) -> None:
    """Under sudo --write gives the calling user private files of their own with the installed key, and root none; a
    second run changes nothing. Without sudo, the user is asked to use it.
    """
    box = idle_box
    box.run(("useradd", "--create-home", "ada"))
    for name, path in (("claude-code", ".claude/settings.json"), ("codex", ".codex/config.toml")):
        code, said = write(box, name)
        assert (code, key(box) in said) == (0, False), said
        folder = path.partition("/")[0]
        found = box.run(("stat", "-c", "%U:%G %a", f"/home/ada/{folder}", f"/home/ada/{path}")).stdout
        assert found == "ada:ada 755\nada:ada 600\n"
        assert key(box) in box.read(f"/home/ada/{path}")
        assert write(box, name)[1].splitlines()[-1] == "nothing to do"
    environment = json.loads(box.read("/home/ada/.claude/settings.json"))["env"]
    assert environment["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4000"
    assert box.run(("grep", "-rl", key(box), "/root/.claude", "/root/.codex"), check=False).stdout == ""
    plain = box.run(("runuser", "-u", "ada", "--", CTL, "client", "codex", "--write"), check=False, cwd="/home/ada")
    assert (plain.returncode, "sudo" in plain.stderr) == (77, True), plain.stderr


def test_no_more_than_the_user_may(idle_box: Box) -> None:
    """--write uses the user's own rights: it follows no link out of the home, and reads and replaces no file that the
    user cannot.
    """
    box = idle_box
    box.run(("useradd", "--create-home", "ada"))
    box.write("/root/settings.json", '{"secret": 1}\n', 0o600)
    box.run(("ln", "-s", "/root", "/home/ada/.claude"))
    code, said = write(box, "claude-code")
    assert (code, "out of the home" in said, "secret" in said) == (73, True, False), said
    box.write("/home/ada/.config/zed/settings.json", '{"secret": 1}\n', 0o600)
    code, said = write(box, "zed")
    assert (code, "Permission denied" in said, "secret" in said) == (77, True, False), said
    box.run(("mkdir", "/home/ada/.continue"))
    assert write(box, "continue")[0] == 1
    assert box.read("/root/settings.json") == '{"secret": 1}\n'
    assert box.run(("ls", "-A", "/home/ada/.continue")).stdout == ""
