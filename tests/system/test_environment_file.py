"""The EnvironmentFile that install writes, read by a service that the real systemd started."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from box import Box, Image, Namespaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from litellm_systemd.env.dotenv import check_assignment
from litellm_systemd.env.environment_file import read_environment_text
from litellm_systemd.env.settings import Dotenv, build_settings, parse_dotenv
from litellm_systemd.errors import InputError
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.install.render import render_environment

UNIT = """[Unit]
StartLimitIntervalSec=0
[Service]
Type=oneshot
EnvironmentFile=/etc/dump.env
ExecStart=/bin/sh -c 'cat /proc/self/environ >/run/dump'
"""

HOSTILE = [
    "'",
    '"',
    "\\",
    "$",
    "${X}",
    "$(x)",
    "`x`",
    "%",
    "%n",
    "#",
    " #",
    ";",
    "\n",
    "\t",
    " ",
    "=",
    "é",
    "漢",
    "😀",
]
NAMES = st.from_regex(r"X[A-Za-z0-9_]{0,12}", fullmatch=True)
VALUES = st.lists(st.sampled_from([*HOSTILE, "a", "-", "\\n"]) | st.text(max_size=4), max_size=12).map("".join)


@pytest.fixture(scope="module")
def dump(namespaces: Namespaces, host_image: Image) -> Iterator[Box]:
    """A box with a service that records its environment."""
    with Box(namespaces, host_image) as opened:
        opened.write("/etc/systemd/system/dump.service", UNIT)
        opened.systemctl("daemon-reload")
        yield opened


def carried(box: Box, text: str) -> dict[str, str]:
    """The variables that a service gets from an EnvironmentFile with this text; none if it cannot start."""
    # As base64 on the way in and out: pipes in text mode would turn carriage returns into newlines.
    packed = base64.b64encode(text.encode()).decode()
    script = "base64 -d >/etc/dump.env; : >/run/dump; systemctl start dump.service; base64 /run/dump"
    dumped = base64.b64decode(box.run(("sh", "-c", script), input=packed).stdout).decode()
    pairs = (entry.split("=", 1) for entry in dumped.split("\0") if entry)
    return {name: value for name, value in pairs if name.startswith("X")}


def accepted(value: str) -> bool:
    try:
        check_assignment("X", value, "test")
    except InputError:
        return False
    return True


@given(st.dictionaries(NAMES, VALUES.filter(accepted), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_service_gets_the_mapping(dump: Box, environment: dict[str, str]) -> None:
    """A service gets exactly the mapping that python-dotenv read, whatever the values are."""
    asked = build_settings(Dotenv(".env", environment), installed={}, new_key=lambda: "sk-made")
    assert carried(dump, render_environment(asked.environment)) == environment


@given(st.text(st.sampled_from("XYZ=ab \t\"'\\$#;\n")))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_edits_are_read_as_systemd_reads_them(dump: Box, text: str) -> None:
    """A file that was edited by hand is read as systemd reads it."""
    found = read_environment_text(text, Systemctl(Layout()).version()).values
    ours = {name: value for name, value in found.items() if name.startswith("X")}
    assert carried(dump, text) == ours


@pytest.mark.parametrize(
    "value",
    [
        "",
        " leading",
        "trailing ",
        "\n\n",
        "a\nb\n",
        "\t",
        'a"b',
        "a'b",
        "a\\",
        "$HOME",
        "100%",
        "# no comment",
        "ü" * 40_000,
    ],
)
def test_known_traps(dump: Box, value: str) -> None:
    """Values that other installers get wrong arrive unchanged, one of them with 80 kB."""
    asked = build_settings(Dotenv(".env", {"XA": value, "XB": "next"}), installed={}, new_key=lambda: "sk-made")
    assert carried(dump, render_environment(asked.environment)) == {"XA": value, "XB": "next"}


DOTENV = """
export XA="two words" # comment
XB='$literal'
XC="${XD_MISSING:-fallback} and ${XA}"
XE="line one
line two"
XF=
"""


def test_dotenv_file_reaches_the_service(dump: Box) -> None:
    """A .env in every syntax of python-dotenv reaches the service as python-dotenv reads it."""
    dotenv = parse_dotenv(DOTENV, ".env")
    asked = build_settings(dotenv, installed={}, new_key=lambda: "sk-made")
    wanted: dict[str, Any] = {
        "XA": "two words",
        "XB": "$literal",
        "XC": "fallback and two words",
        "XE": "line one\nline two",
        "XF": "",
    }
    assert carried(dump, render_environment(asked.environment)) == wanted


@pytest.mark.parametrize("value", ["\ufdd0", "a\uffff", "\U0001fffe"])
def test_refused_values_would_be_lost(dump: Box, value: str) -> None:
    """systemd drops each value that the installer refuses by name, or does not start the service with it."""
    assert not accepted(value)
    assert carried(dump, f'XA="{value}"\nXB="next"\n').get("XA") != value
