"""configs/env.example, which users copy to .env."""

from __future__ import annotations

import re
from pathlib import Path

from litellm_systemd.env import variables
from litellm_systemd.env.settings import build_settings, parse_dotenv, read_dotenv

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLE = CONFIGS / "env.example"
TEXT = EXAMPLE.read_text()


def test_an_unchanged_copy_is_accepted() -> None:
    """An unchanged copy gives a generated key, loopback, port 4000 and the default configuration."""
    settings = build_settings(read_dotenv(EXAMPLE), installed={}, new_key=lambda: "sk-made")
    assert settings.generated_key == "sk-made"
    assert (settings.host, settings.port) == ("127.0.0.1", 4000)
    assert settings.config == "iam_role_config.yml"
    assert not [name for name in settings.environment if name.startswith("AWS_")]
    assert settings.warnings == ()


def test_every_commented_line_is_valid() -> None:
    """With each commented assignment enabled, the values are valid, and times are the defaults of the table."""
    values = {
        "AWS_ACCESS_KEY_ID": "ASIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "AWS_SESSION_TOKEN": "y",
        "AWS_CREDENTIAL_EXPIRATION": "2026-01-31T18:00:00Z",
        "AWS_EXTERNAL_ID": "an-id",
    }
    text = re.sub(r"^#([A-Z_]+=)", r"\1", TEXT, flags=re.MULTILINE)
    for name, value in values.items():
        assert f"{name}=\n" in text
        text = text.replace(f"{name}=\n", f"{name}={value}\n")
    settings = build_settings(parse_dotenv(text, ".env"), installed={}, new_key=lambda: "sk-made")
    environment = settings.environment
    assert values.items() <= environment.items()
    assert environment["AWS_ROLE_NAME"].endswith(":role/NAME")
    assert "169.254.169.254" in environment["NO_PROXY"]
    assert environment["AWS_REGION_NAME"] == settings.region == "us-east-1"
    assert (settings.start_timeout, settings.drain_timeout, settings.watchdog_timeout) == (
        variables.START_TIMEOUT.default,
        variables.DRAIN_TIMEOUT.default,
        variables.WATCHDOG_TIMEOUT.default,
    )
    for variable in (variables.LAME_DUCK_TIMEOUT, variables.KEEPALIVE_TIMEOUT):
        assert environment[variable.name] == str(variable.default)


def test_it_names_every_shipped_configuration() -> None:
    """The file names every shipped configuration."""
    assert all(path.name in TEXT for path in CONFIGS.glob("*.yml"))
