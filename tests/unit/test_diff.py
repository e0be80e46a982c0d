"""Differences between two states of a path."""

from __future__ import annotations

import pytest

from litellm_systemd.env.environment_file import render_assignments
from litellm_systemd.host.diff import MASK, mask, render_diff
from litellm_systemd.host.state import FileState, folder, link

OLD = FileState("/etc/x.yml", b"a: 1\nb: 2\n")


def test_unified_diff() -> None:
    """A change of text is shown as a unified diff that names the path on both sides."""
    new = FileState("/etc/x.yml", b"a: 1\nb: 3\n")
    assert render_diff(OLD, new).splitlines() == [
        "--- /etc/x.yml",
        "+++ /etc/x.yml",
        "@@ -1,2 +1,2 @@",
        " a: 1",
        "-b: 2",
        "+b: 3",
    ]


def test_new_and_gone() -> None:
    """A file that comes or goes is compared with /dev/null, as diff does it."""
    assert render_diff(None, OLD).splitlines()[:2] == ["--- /dev/null", "+++ /etc/x.yml"]
    assert render_diff(OLD, None).splitlines()[:2] == ["--- /etc/x.yml", "+++ /dev/null"]


def test_mode_owner_kind_and_link() -> None:
    """What isn't text is said in words: another mode or owner, another kind, another target."""
    closed = FileState("/etc/x.yml", OLD.content, mode=0o600, group="litellm")
    assert render_diff(OLD, closed) == "/etc/x.yml: mode 0644 root:root, to be mode 0600 root:litellm"
    assert "a folder, to be a file" in render_diff(folder("/etc/x.yml", 0o755), OLD)
    assert render_diff(link("/l", "a"), link("/l", "b")).splitlines()[-2:] == ["-link to a", "+link to b"]


@pytest.mark.parametrize(
    "line",
    [
        'LITELLM_MASTER_KEY="sk-canary"',
        "AWS_SECRET_ACCESS_KEY=sk-canary",
        "AWS_SESSION_TOKEN='sk-canary'",
        "      api_key: sk-canary",
        "      aws_secret_access_key: 'sk-canary'",
        '  "password": "sk-canary"',
        'HTTPS_PROXY="http://me:sk-canary@proxy:3128"',
        'DATABASE_URL="postgresql://llm:sk-canary@db/x"',
    ],
)
def test_secrets_are_masked(line: str) -> None:
    """The value of a name that sounds secret, and a password in an address, don't show; the name does."""
    assert "sk-canary" not in mask(line)
    assert MASK in mask(line)
    assert line.split("=")[0].split(":")[0] in mask(line)


@pytest.mark.parametrize(
    "line",
    ["  api_key: os.environ/MY_KEY", "KeyringMode=private", "  max_tokens: 100", 'PORT="4000"', "  keepalive: 5"],
)
def test_what_is_no_secret_shows(line: str) -> None:
    """References to variables, and settings that only resemble a secret, stay readable."""
    assert mask(line) == line


def test_secret_of_several_lines() -> None:
    """No line of a secret value that goes over several lines shows, and that it changed does."""
    before, after = (
        FileState("/etc/e", render_assignments({"A_KEY": f"BEGIN\ncanary{number}\nEND", "B": "x"}).encode())
        for number in (1, 2)
    )
    text = render_diff(before, after, is_environment=True)
    assert "canary" not in text
    assert [line for line in text.splitlines()[3:] if "A_KEY" in line] == [f"-A_KEY={MASK}", f"+A_KEY={MASK}"]
