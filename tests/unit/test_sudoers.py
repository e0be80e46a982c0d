"""Whether sudo finds litellmctl."""

from __future__ import annotations

from pathlib import Path

import pytest

from litellm_systemd.host.layout import Layout
from litellm_systemd.host.sudoers import sudo_misses_command

AMAZON = "Defaults   !visiblepw\nDefaults    secure_path = /sbin:/bin:/usr/sbin:/usr/bin\n"
DEBIAN = 'Defaults\tsecure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"\n'


@pytest.mark.parametrize(
    ("sudoers", "more", "misses"),
    [
        (None, {}, False),
        ("root ALL=(ALL) ALL\n", {}, False),
        (AMAZON, {}, True),
        (DEBIAN, {}, False),
        ("# " + AMAZON.splitlines()[1], {}, False),
        (AMAZON, {"10-path": DEBIAN}, False),
        (DEBIAN, {"10-path": AMAZON}, True),
        (DEBIAN, {"10.path": AMAZON, "path~": AMAZON}, False),
        (AMAZON, {"path": "Defaults !secure_path\n"}, False),
        ("Defaults env_reset, secure_path=/bin:\\\n/usr/bin, mail_badpass\n", {}, True),
        ("Defaults:admin secure_path=/bin\n", {}, False),
    ],
)
def test_secure_path(tmp_path: Path, sudoers: str | None, more: dict[str, str], misses: bool) -> None:
    """The last `secure_path` for all users decides whether sudo needs a link."""
    (tmp_path / "etc/sudoers.d").mkdir(parents=True)
    (tmp_path / "usr/bin").mkdir(parents=True)
    if sudoers is not None:
        (tmp_path / "etc/sudoers").write_text(sudoers, encoding="utf-8")
    for name, text in more.items():
        (tmp_path / "etc/sudoers.d" / name).write_text(text, encoding="utf-8")
    assert sudo_misses_command(Layout(tmp_path)) is misses
