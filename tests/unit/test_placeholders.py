"""Values of `.env` files that stand for a key which was never written."""

from __future__ import annotations

import pytest

from litellm_systemd.env.placeholders import is_known_key, is_placeholder
from litellm_systemd.env.settings import build_settings, parse_dotenv
from litellm_systemd.errors import InputError

PLACEHOLDERS = (
    *(
        "CHANGE-ME",
        "changeme",
        "change_me_in_production",
        "sk-gateway-change-in-production",
        "REPLACE_ME",
        "replace-me",
    ),
    *("sk-replace-with-a-long-random-string", "fillme", "insert-key-here", "put your key here", "secret-goes-here"),
    *("your-key", "your_api_key", "YOUR_API_KEY", "sk-your-openai-key", "zai_your_actual_key_here", "yourApiKey"),
    *("<random>", "<your-api-key>", "sk-<generate-something-long>", "sk-litellm-<32-char-random>", "{{ API_KEY }}"),
    *("[API_KEY]", "sk-...", "sk-ant-...", "sk-ant-api03-...", "nvapi-...", "AIzaSy...", "sk-abc...xyz", "5.....A"),
    *("xxxx", "sk-xxxx", "sk-proj-XXXXXXXXXXXXXXXX", "hf_xxxxx", "****", "AKIAXXXXXXXXXXXXXXXX", "my-secret-key"),
    "sk-00000000000000000000",
    *("sk-my-master-key-1234", "api_key", "TODO", "placeholder", "$OPENAI_KEY", "sk-$(openssl rand -hex 32)"),
    *("os.environ/OPENAI_API_KEY", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    *("https://<resource>.openai.azure.com", "https://your-resource.openai.azure.com/", "to-be-set"),
)
KEYS = (
    # For servers that need no key.
    *("none", "None", "null", "not-needed", "no-key", "no-key-required", "sk-no-key-required", "dummy", "fake-key"),
    *("EMPTY", "anything", "ollama", "lm-studio", "local", "unused", "sk-1234", "n/a", "test", "user_provided"),
    # Keys and other values.
    *("sk-4f9c2b7e81d05a36", "sk-proj-Zx81_kQ-2vN", "sk-ant-api03-Qw7-x", "AIzaSyB1-c3D4", "AKIAQ3EGRZ7XKD5MPLEA"),
    *(
        "correct horse battery staple",
        "p.s.w.d",
        "x-ray-91",
        "https://example.openai.azure.com/",
        "http://[::1]:4000",
    ),
    *('{"type": "service_account", "project_id": "x"}', "-----BEGIN CERTIFICATE-----\nMII...\n", "yours-truly-81"),
)


@pytest.mark.parametrize("value", PLACEHOLDERS)
def test_placeholder(value: str) -> None:
    """A value that an example shows in place of a key is recognized, whatever prefix of a provider it has."""
    assert is_placeholder(value)


@pytest.mark.parametrize("value", KEYS)
def test_no_placeholder(value: str) -> None:
    """Neither a key nor a dummy for a server that needs none counts as a placeholder."""
    assert not is_placeholder(value)


@pytest.mark.parametrize(
    "key", ["sk-CHANGE-ME", "<random>", "sk-12345", "sk-1234567890abcdef", "sk-admin", "password"]
)
def test_a_master_key_that_everyone_knows_is_refused(key: str) -> None:
    """A .env with a placeholder or a key of tutorials as master key is refused with its line, before any change."""
    assert is_known_key(key)
    dotenv = parse_dotenv(f"# first\nLITELLM_MASTER_KEY={key}\n", ".env")
    with pytest.raises(InputError, match=r"\.env:2: LITELLM_MASTER_KEY is a placeholder") as caught:
        build_settings(dotenv, installed={}, new_key=str)
    assert "a strong key is generated" in caught.value.hint
    assert key not in caught.value.message
