"""systemd's EnvironmentFile grammar. tests/system/test_environment_file.py compares it with the real systemd."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litellm_systemd.env.dotenv import check_assignment, quote, render_assignments
from litellm_systemd.env.environment_file import parse_environment_file, read_environment_bytes, read_environment_text
from litellm_systemd.errors import InputError

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
VALUES = st.text(st.sampled_from("ab \t\n\"'\\$`%#;=&|é漢😀{}~!*?<>()[]") | st.characters(codec="utf-8"))


def carried(value: str) -> bool:
    try:
        check_assignment("X", value, "test")
    except InputError:
        return False
    return True


@pytest.mark.slow
@given(st.dictionaries(NAMES, VALUES.filter(carried)))
def test_round_trip(environment: dict[str, str]) -> None:
    """An environment that is written for systemd is parsed to the same environment."""
    assert parse_environment_file(render_assignments(environment)) == environment


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    """Any text is parsed without an error or an endless loop."""
    assert isinstance(parse_environment_file(text), dict)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("A=1\n", {"A": "1"}, id="plain"),
        pytest.param("  A = two words  \n", {"A": "two words"}, id="spaces around name and value"),
        pytest.param("export A=1\nB=2\n", {"B": "2"}, id="export makes an invalid name"),
        pytest.param("A=v # c\n", {"A": "v # c"}, id="no comment after a value"),
        pytest.param("# c\n; d\nA=1\n", {"A": "1"}, id="comments"),
        pytest.param('A=\'it"s\' "$x"\n', {"A": 'it"s$x'}, id="quoted parts are joined"),
        pytest.param('A="a\\\nb"\n', {"A": "ab"}, id="an escaped newline is removed"),
        pytest.param('A="\\n"\n', {"A": "\\n"}, id="no escapes as in C"),
        pytest.param("A=a\\ b\\ \n", {"A": "a b "}, id="an escaped space stays"),
        pytest.param("A=b\\\nc\n", {"A": "bc"}, id="a bare value continues after a backslash"),
        pytest.param("A=x'y'\n", {"A": "x'y'"}, id="a quote inside a bare value is literal"),
        pytest.param("A=\nB=1\n", {"A": "", "B": "1"}, id="empty"),
        pytest.param("junk\nA=1\n", {"A": "1"}, id="a line without an equals sign"),
        pytest.param("A=1\nA=2\n", {"A": "2"}, id="the last one wins"),
        pytest.param("A='unclosed", {"A": "unclosed"}, id="an unclosed quote ends with the file"),
        pytest.param("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}, id="CRLF"),
    ],
)
def test_grammar(text: str, expected: dict[str, str]) -> None:
    """A manually edited EnvironmentFile is parsed as systemd parses it."""
    assert parse_environment_file(text) == expected


def test_quote_is_readable() -> None:
    """A plain value is readable in the file."""
    assert quote("us-east-1") == '"us-east-1"'


@pytest.mark.parametrize("value", ["\0", "\ud800", "\ufdd0", "\uffff", "\U0001fffe"])
def test_not_text(value: str) -> None:
    """NUL, a surrogate or a noncharacter, which systemd rejects, is refused with the name of the variable."""
    with pytest.raises(InputError, match="X contains a character that systemd rejects"):
        check_assignment("X", value, "test")


@pytest.mark.parametrize(
    ("text", "line", "said", "lost"),
    [
        ('A="1\nPORT="4000"\nB=2\n', 1, "A has no closing quote and goes on to line 2; PORT", ("PORT",)),
        ("B=2\n\nA='1\nPORT=4000\n", 3, "A has no closing quote", ("PORT",)),
        ('A="1', 1, "A has no closing quote", ()),
        ("A=C:\\\nPORT=4000\n", 1, "A ends with a backslash", ("PORT",)),
        ("# C:\\\nPORT=4000\n", 1, "the comment ends with a backslash", ("PORT",)),
        ("B=2\nexport A=1\n", 2, "'export' makes the name of A invalid", ("A",)),
        ("\ufeffA=1\n", 1, "a byte order mark makes the name of A invalid", ("A",)),
        ("B=2\n\u00a0A=1\n", 2, "a character that is not ASCII makes the name of A invalid", ("A",)),
        ("B=2\nA\u200b=1\n", 2, "a character that is not ASCII makes the name of A invalid", ("A",)),
        ("MY-KEY=1\n", 1, "'MY-KEY' is not a valid name", ()),
        ("A=1\njunk\n", 2, "not an assignment", ()),
        ("A=1\nA=2\n", 2, "A is set again, and overrides line 1", ()),
    ],
)
def test_faults(text: str, line: int, said: str, lost: tuple[str, ...]) -> None:
    """A line that systemd reads differently from how it looks is found, with the variables that are lost."""
    (fault,) = read_environment_text(text, 253).faults
    assert (fault.line, fault.lost, fault.is_harmful) == (line, lost, bool(lost))
    assert said in fault.text


def test_unclosed_quote_in_the_last_line() -> None:
    """An unclosed quote in the last line adds the end of the line to the value: no client sends such a key."""
    found = read_environment_text('B=2\nKEY="sk-1\n')
    (fault,) = found.faults
    assert (found.values["KEY"], fault.line, fault.lost, fault.is_harmful) == ("sk-1\n", 2, (), True)


@pytest.mark.parametrize(("systemd", "values", "lost"), [(253, {}, [("PORT",)]), (254, {"PORT": "4000"}, [])])
def test_backslash_after_a_comment(systemd: int, values: dict[str, str], lost: list[tuple[str, ...]]) -> None:
    """A backslash at the end of a comment hides the next line before systemd 254, and has no meaning since then."""
    found, _ = read_environment_bytes(b"# C:\\\nPORT=4000\n", lambda: systemd)
    assert (found.values, [fault.lost for fault in found.faults]) == (values, lost)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("A = 'x'\r\nB=2\r\n", id="spaces and CRLF"),
        pytest.param('A="{\n  \\"a\\": 1\n}"\nB=1\n', id="a value with several lines"),
        pytest.param('A="one\nB=2\n"\nC=1\n', id="an assignment as a part of a value"),
        pytest.param("A=1\nA=1\n", id="the same twice"),
        pytest.param("A='it'\"'\"'s'\n", id="joined quotes"),
        pytest.param('A="1\nPORT="4000"\nPORT=1\n', id="set again after it was lost"),
        pytest.param("# it's \"fine\n\n; so\n", id="quotes in comments"),
    ],
)
def test_no_faults(text: str) -> None:
    """What systemd reads as it looks is no fault."""
    assert read_environment_text(text).faults == ()
