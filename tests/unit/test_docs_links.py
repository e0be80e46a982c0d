"""Each link between pages of the documentation leads to an existing file, and to an existing heading in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    """A page without its fenced blocks, whose lines are neither links nor headings."""
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors of a page: `<a id=…>`, and the headings as GitHub makes anchors of them."""
    found = set(re.findall(r'<a id="([^"]+)">', text))
    for heading in re.findall(r"^#+ +(.+?) *$", without_code(text), flags=re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (anchor := f"{name}-{number}" if number else name) in found:
            number += 1
        found.add(anchor)
    return found


def broken(page: Path, text: str) -> list[str]:
    """The links of a page to a file or heading of this repository that does not exist."""
    found = []
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "", without_code(text))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Every relative link of a page leads to an existing file, and its anchor to a heading there."""
    assert broken(page, page.read_text()) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    """A link to a missing file, or to a missing heading of this or another page, is found; a URL is skipped."""
    (tmp_path / "other.md").write_text("# One `two`, three\n\n```console\n# a comment\n```\n")
    text = "# Here\n[a](other.md#one-two-three) [b](#here) [c](https://example.org/#x) "
    (tmp_path / "page.md").write_text(text)
    assert broken(tmp_path / "page.md", text) == []
    wrong = ["other.md#a-comment", "gone.md", "#there"]
    assert broken(tmp_path / "page.md", " ".join(f"[x]({link})" for link in wrong)) == wrong
