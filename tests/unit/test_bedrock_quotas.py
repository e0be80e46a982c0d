"""Match quotas with models by name, and detect quotas that are too small."""

from __future__ import annotations

import pytest

from litellm_systemd.bedrock.models import ENOUGH_TOKENS, Quota, applies_to, is_too_small, parse_bedrock_id

MINUTE = "model inference tokens per minute for"
HAIKU = "anthropic.claude-haiku-4-5-20251001-v1:0"
SONNET = "anthropic.claude-sonnet-4-5-20250929-v1:0"


def quota(name: str, value: float = 0) -> Quota:
    return Quota(name, "L-00000000", value, is_adjustable=True)


def holds(name: str, called: str) -> bool:
    found = parse_bedrock_id(f"bedrock/{called}")
    assert found is not None
    return applies_to(quota(name), found)


@pytest.mark.parametrize(
    ("name", "called"),
    [
        (f"Cross-region {MINUTE} Anthropic Claude Haiku 4.5", f"us.{HAIKU}"),
        (f"Cross-region {MINUTE} Anthropic Claude Sonnet 4.5 V1", f"converse/eu.{SONNET}"),
        (f"Global cross-region {MINUTE} Anthropic Claude Sonnet 4.5 V1", f"global.{SONNET}"),
        (f"Global cross-region {MINUTE} Claude Sonnet 4.5 V1", f"global.{SONNET}"),
        (
            "Cross-Region InvokeModel tokens per minute for Anthropic Claude Sonnet 4.6",
            "us.anthropic.claude-sonnet-4-6",
        ),
        (f"Cross-region {MINUTE} Anthropic Claude Opus 4.6 V1", "us.anthropic.claude-opus-4-6-v1"),
        (f"Cross-region {MINUTE} Anthropic Claude Sonnet 5.5", "jp.anthropic.claude-sonnet-5-5"),
        (f"On-demand {MINUTE} Anthropic Claude 3.5 Sonnet", "anthropic.claude-3-5-sonnet-20240620-v1:0"),
        (f"On-demand {MINUTE} Anthropic Claude 3.5 Sonnet V2", "anthropic.claude-3-5-sonnet-20241022-v2:0"),
        (f"On-demand {MINUTE} Amazon Nova 2 Lite", "amazon.nova-2-lite-v1:0"),
        (f"On-demand {MINUTE} Amazon Nova Pro", "us-east-1/amazon.nova-pro-v1:0:300k"),
        (f"Cross-region {MINUTE} Meta Llama 3.3 70B Instruct", "us.meta.llama3-3-70b-instruct-v1:0"),
        (
            f"Cross-region {MINUTE} Anthropic Claude Haiku 4.5",
            f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{HAIKU}",
        ),
    ],
)
def test_quotas_that_match(name: str, called: str) -> None:
    """A model's quota is identified by AWS's name, with and without vendor, version and date of the id."""
    assert holds(name, called)


@pytest.mark.parametrize(
    ("name", "called"),
    [
        (f"Cross-region {MINUTE} Anthropic Claude Sonnet 4.5 V1 1M Context Length", f"us.{SONNET}"),
        (f"Cross-region {MINUTE} Anthropic Claude Sonnet 4 V1", f"us.{SONNET}"),
        (f"Cross-region {MINUTE} Anthropic Claude Sonnet 4.5 V1", "us.anthropic.claude-sonnet-4-20250514-v1:0"),
        (f"Cross-region {MINUTE} Anthropic Claude Sonnet 45 V1", f"us.{SONNET}"),
        (f"Cross-region {MINUTE} Anthropic Claude Sonnet 4.5 V1", f"global.{SONNET}"),
        (f"Global cross-region {MINUTE} Anthropic Claude Sonnet 4.5 V1", f"us.{SONNET}"),
        (f"Cross-region {MINUTE} Anthropic Claude Sonnet 4.5 V1", SONNET),
        (f"On-demand {MINUTE} Anthropic Claude 3.5 Sonnet", "anthropic.claude-3-5-sonnet-20241022-v2:0"),
        (f"On-demand {MINUTE} Anthropic Claude 3.5 Sonnet V2", "anthropic.claude-3-5-sonnet-20240620-v1:0"),
        (f"On-demand {MINUTE} Amazon Nova Lite", "amazon.nova-2-lite-v1:0"),
        ("Cross-region model inference requests per minute for Anthropic Claude Haiku 4.5", f"us.{HAIKU}"),
        ("Model invocation max tokens per day for Anthropic Claude Haiku 4.5", f"us.{HAIKU}"),
        ("[bedrock-mantle endpoint] Input tokens per minute for Anthropic Claude Haiku 4.5", f"us.{HAIKU}"),
        (
            f"Cross-region {MINUTE} Anthropic Claude Haiku 4.5",
            "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3d4e5f6",
        ),
    ],
)
def test_quotas_that_do_not_match(name: str, called: str) -> None:
    """Quotas of other models, versions, contexts and kinds of calls, and of requests or days, do not match."""
    assert not holds(name, called)


@pytest.mark.parametrize(
    ("value", "context", "small"),
    [
        (0, 1_000_000, True),
        (ENOUGH_TOKENS - 1, 200_000, True),
        (ENOUGH_TOKENS, 200_000, False),
        (20_000, None, True),
        (20_000, 8_192, False),
        (0, 8_192, True),
    ],
)
def test_quotas_that_are_too_small(value: float, context: int | None, small: bool) -> None:
    """An agent needs 100,000 tokens per minute; for a model with a short context, one such prompt is sufficient."""
    assert is_too_small(quota("x", value), context) is small
