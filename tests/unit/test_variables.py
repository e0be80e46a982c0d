"""The table of variables: install and the runtime read it in the same way, and the documentation is derived
from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litellm_systemd.env.__main__ import render_example, render_page
from litellm_systemd.env.dotenv import Dotenv
from litellm_systemd.env.settings import Settings, build_settings
from litellm_systemd.env.variables import RUNTIME_VARIABLES, SECRET_NAMES, TABLE, Section, install_checks
from litellm_systemd.errors import InputError
from litellm_systemd.host.layout import Layout
from litellm_systemd.install.render import render_service
from litellm_systemd.runtime.options import Options, read_options

ROOT = Path(__file__).parents[2]
NAMES = [name for each in TABLE for name in each.names]
CHECKED_BY_INSTALL_ALONE = {name for names, _ in install_checks() for name in names}

# systemd rejects NUL, surrogates and noncharacters, so they never reach the runtime.
CARRIED = st.characters(min_codepoint=1, max_codepoint=0xD7FF)
NUMBERS = st.one_of(
    st.integers(-10, 2_000_000_000).map(str),
    st.floats().map(str),
    st.decimals(0, 100_000, places=2).map(str),
    st.from_regex(r"[0-9٠-٩+._eE-]{1,12}", fullmatch=True),
)
WORDS = st.sampled_from(
    ["true", "TRUE", "on", "Off", "yes", "no", "0", "1", "ja", "INFO", "warn", "nan", "inf", "abc", "600", "2.5"]
)
HOSTS = st.one_of(
    st.ip_addresses().map(str),
    st.sampled_from(["localhost", "*", "[::1]", "::", "0.0.0.0", "gateway.example", "fe80::1%eth0", "::1%a\nb"]),
)
SPACE = st.sampled_from(["", " ", "\t", "\n", "\u00a0", "\x1c"])
VALUES = st.builds(
    lambda before, value, after: f"{before}{value}{after}",
    SPACE,
    st.one_of(st.text(CARRIED, max_size=20), NUMBERS, WORDS, HOSTS),
    SPACE,
)


def install(values: dict[str, str]) -> Settings | InputError:
    """The settings, or the refusal of install."""
    lines = {name: number for number, name in enumerate(values, 1)}
    try:
        return build_settings(Dotenv(".env", values, lines), installed={}, new_key=lambda: "sk-made")
    except InputError as error:
        return error


def runtime(values: Mapping[str, str]) -> Options | InputError:
    """The options, or the refusal of the runtime."""
    try:
        return read_options(Path("/etc/c.yaml"), values)
    except InputError as error:
        return error


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30)
@given(value=VALUES)
def test_install_and_runtime_agree(name: str, value: str) -> None:
    """Install accepts a value exactly if the runtime does, except for the variables that only install checks."""
    found, options = install({name: value}), runtime({name: value})
    if name in CHECKED_BY_INSTALL_ALONE:
        assert isinstance(options, Options)
    else:
        assert isinstance(found, Settings) == isinstance(options, Options)


#: Of the variables of a load balancer, install alone checks how they fit together.
INDEPENDENT = [each.name for each in RUNTIME_VARIABLES if each.section is not Section.LOAD_BALANCER]


@given(values=st.dictionaries(st.sampled_from(INDEPENDENT), VALUES, min_size=1))
def test_they_agree_on_several_variables(values: dict[str, str]) -> None:
    """Install and the runtime read the same from several variables, or refuse them for the same reason; install adds
    the file and line.
    """
    found, options = install(values), runtime(values)
    if isinstance(found, Settings):
        assert options == runtime(found.environment)
        assert isinstance(options, Options)
        for field in ("host", "port", "start_timeout", "drain_timeout", "watchdog_timeout"):
            assert getattr(found, field) == getattr(options, field)
        assert found.workers in (None, options.workers)
    else:
        assert isinstance(options, InputError)
        name = re.split(r"\W", options.message, maxsplit=1)[0]  # the value of a secret is not in the message
        assert found.message == f".env:{list(values).index(name) + 1}: {options.message}"
        assert found.hint == options.hint


@pytest.mark.parametrize(
    ("name", "value", "is_accepted"),
    [
        ("KEEPALIVE_TIMEOUT", "abc", False),
        ("LAME_DUCK_TIMEOUT", "abc", False),
        ("JSON_LOGS", "on", True),
        ("ACCESS_LOG", "ja", False),
        ("NUM_WORKERS", "600", True),
        ("START_TIMEOUT", "2", True),
        ("DRAIN_TIMEOUT", "0", True),
        ("LAME_DUCK_TIMEOUT", "1.5", True),
        ("LAME_DUCK_TIMEOUT", "100000", True),
        ("HOST", " ", True),
        ("HOST", "gateway.example", False),
        ("PORT", "0", False),
        ("PORT", "٤٠٠٠", False),
        ("PORT", "00000000004000", True),
        ("START_TIMEOUT", "1_000", False),
        ("START_TIMEOUT", "٣٠", False),
        ("START_TIMEOUT", "+30", False),
        ("START_TIMEOUT", "nan", False),
        ("DRAIN_TIMEOUT", "-0", False),
        ("DRAIN_TIMEOUT", ".5", True),
        ("DRAIN_TIMEOUT", "9" * 400, False),
        ("HOST", "[::1]", True),
        ("HOST", "[::1", False),
        ("HOST", "]127.0.0.1[", False),
        ("HOST", "fe80::1%eth0", False),
        ("LITELLM_LOG", "info", True),
        ("LITELLM_LOG", " INFO", False),
    ],
)
def test_both_sides(name: str, value: str, is_accepted: bool) -> None:
    """Each value on which the two sides once disagreed, or might, is accepted by both or refused by both."""
    assert isinstance(install({name: value}), Settings) == is_accepted
    assert isinstance(runtime({name: value}), Options) == is_accepted


@pytest.mark.parametrize(
    ("env", "lines"),
    [
        ({}, {"TimeoutStartSec=195", "TimeoutStopSec=630", "WatchdogSec=30"}),
        ({"DRAIN_TIMEOUT": "0"}, {"TimeoutStopSec=30"}),
        ({"DRAIN_TIMEOUT": "60", "DEREGISTRATION_DELAY": "45"}, {"TimeoutStopSec=135"}),
        (
            {"DRAIN_TIMEOUT": "0.5", "START_TIMEOUT": "2.5", "WATCHDOG_TIMEOUT": "2.25"},
            {"TimeoutStartSec=18", "TimeoutStopSec=31", "WatchdogSec=3"},
        ),
    ],
)
def test_systemd_waits_longer(env: dict[str, str], lines: set[str]) -> None:
    """systemd's limits exceed the service's own: whole seconds, never zero, which would mean no limit."""
    found = install(env)
    assert isinstance(found, Settings)
    assert lines <= set(render_service(Layout(), found, 257, "1").splitlines())


def test_secrets_are_not_shown_in_refusals() -> None:
    """No message about a refused secret contains its value."""
    values = [{name: value} for name in sorted(SECRET_NAMES) for value in ("s3cret value'", " s3cret")]
    refusals = [(name, error) for each in values for name in each if isinstance(error := install(each), InputError)]
    assert not [name for name, error in refusals if "s3cret" in error.message + error.hint]
    assert {"LITELLM_MASTER_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_BEARER_TOKEN_BEDROCK"} <= set(dict(refusals))


@pytest.mark.parametrize("name", ["LITELLM_LOG", "NUM_WORKERS", "HOST"])
def test_a_value_that_contains_other_variables_is_shown_without_them(name: str) -> None:
    """A refusal of a value that an unclosed quote continues is one line, without the secret that follows."""
    refused = install({name: 'x y\nLITELLM_MASTER_KEY="sk-s3cret\n'})
    assert isinstance(refused, InputError)
    assert f"{name}=x y … is" in refused.message
    assert "s3cret" not in refused.message
    assert "\n" not in refused.message


@pytest.mark.parametrize(
    ("path", "text"), [("configs/env.example", render_example()), ("docs/variables.md", render_page())]
)
def test_documentation_follows_the_table(path: str, text: str) -> None:
    """The files are the output of `python -m litellm_systemd.env`."""
    assert (ROOT / path).read_text(encoding="utf-8") == text


def test_every_variable_of_aws_in_the_code_is_in_the_table() -> None:
    """No module reads an AWS variable that the table does not define."""
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "installer").rglob("*.py"))
    found = {name for text in texts for name in re.findall(r'"(AWS_[A-Z0-9_]+)"', text)}
    assert "AWS_CONFIG_FILE" in found
    assert found <= set(NAMES)
