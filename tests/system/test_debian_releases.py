"""Other Debian releases: the mirror for debootstrap, and the installed service with their systemd."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import images
import pytest
from box import Box, Image
from host_binds import python_binds, releases_bind
from service import ctl, runtime
from test_verify import nothing_left

DROP_INS = "/etc/systemd/system/litellm.service.d"

DEB822 = """\
# a comment
Types: deb
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""
ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb [signed-by=/usr/share/keyrings/x.gpg] http://old.example/debian bookworm main # deb http://no.example/debian
deb http://ubuntu.example/ubuntu jammy main
"""


@pytest.mark.parametrize(
    ("name", "text", "mirrors"),
    [
        ("sources.list.d/debian.sources", DEB822, ["http://mirror.example/debian/"]),
        ("sources.list.d/debian.sources", DEB822.replace("Types", "Enabled: no\nTypes", 1), []),
        ("sources.list.d/debian.sources.disabled", DEB822, []),
        ("sources.list", ONE_LINE, ["http://old.example/debian"]),
        ("sources.list.d/more.list", ONE_LINE, ["http://old.example/debian"]),
    ],
)
def test_mirrors_of_apt(tmp_path: Path, name: str, text: str, mirrors: list[str]) -> None:
    """Only an enabled source of Debian's main archive is a mirror, in either format."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    assert list(images.apt_mirrors(tmp_path)) == mirrors


def test_a_list_of_mirrors(tmp_path: Path) -> None:
    """If a source names a file with mirrors, as in cloud images, the first of them is used."""
    (tmp_path / "mirrors.list").write_text(
        "http://first.example/debian\nhttp://second.example/debian\n", encoding="utf-8"
    )
    text = f"deb mirror+file:{tmp_path}/mirrors.list bookworm main\n"
    (tmp_path / "sources.list").write_text(text, encoding="utf-8")
    assert list(images.apt_mirrors(tmp_path)) == ["http://first.example/debian"]


def test_the_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root folders are below the user's XDG cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert images.tree("trixie").parent == tmp_path / "litellm-systemd-tests"


@pytest.mark.parametrize(("suite", "systemd"), [("bullseye", "247"), ("trixie", "257")])
def test_on_another_systemd(
    make_box: Callable[..., Box],
    debian_image: Callable[[str], Image],
    installed_image: Image,
    tmp_path: Path,
    suite: str,
    systemd: str,
) -> None:
    """On the oldest and the newest systemd an install serves, reloads, proves every fallback on a throwaway unit, and
    is healthy for doctor, which reports a drop-in that disables the sandbox.
    """
    box = make_box(debian_image(suite), binds=(*python_binds(tmp_path), releases_bind(installed_image)))
    assert box.systemctl("--version").split()[1] == systemd
    (program,) = box.run(("sh", "-c", "echo /opt/litellm-systemd/releases/*/bin/litellmctl")).stdout.split()
    box.write("/root/.env", "NUM_WORKERS=1\n", 0o600)
    box.run((program, "install", "--env-file", "/root/.env", "-c", "demo.yml", "--no-verify"), timeout=300)
    fallbacks = json.loads(ctl(box, "verify", "--fallbacks", "--json"))
    assert (fallbacks["ok"], fallbacks["data"]["links"]) == (True, 12), fallbacks
    assert nothing_left(box)
    box.systemctl("reload", "litellm")
    assert runtime(box)["generation"] == 2
    assert found_by_doctor(box) == []
    box.run(("sh", "-c", f"mkdir -p {DROP_INS} && printf '[Service]\\nUser=root\\n' >{DROP_INS}/mine.conf"))
    box.systemctl("daemon-reload")
    assert found_by_doctor(box) == ["unit-root"]


def found_by_doctor(box: Box) -> list[str]:
    report = json.loads(ctl(box, "doctor", "--json", check=False))
    return [finding["id"] for finding in report["data"]["findings"]]
