"""Finding the mirror that debootstrap is given, in each format that apt reads."""

from __future__ import annotations

from pathlib import Path

import images
import pytest

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
    """A source that names a file with mirrors, as cloud images have it, gives the first of them."""
    (tmp_path / "mirrors.list").write_text(
        "http://first.example/debian\nhttp://second.example/debian\n", encoding="utf-8"
    )
    text = f"deb mirror+file:{tmp_path}/mirrors.list bookworm main\n"
    (tmp_path / "sources.list").write_text(text, encoding="utf-8")
    assert list(images.apt_mirrors(tmp_path)) == ["http://first.example/debian"]


def test_the_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root folders are kept where the user keeps caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert images.tree("trixie").parent == tmp_path / "litellm-systemd-tests"
