"""Bedrock ids in configurations, and their entries in LiteLLM's model map."""

from __future__ import annotations

from datetime import date

import pytest

from litellm_systemd.bedrock.models import GEOGRAPHIES, BedrockId, IdKind, parse_bedrock_id
from litellm_systemd.gateway.installed_litellm import ENDED, MapEntry, find_entry
from litellm_systemd.gateway.snapshot import read_shipped

SONNET = "anthropic.claude-sonnet-4-6"
NOVA = "amazon.nova-lite-v1:0"
PROFILE_ARN = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{SONNET}"
OWN_ARN = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/a1b2c3d4e5f6"
MODEL_ARN = f"arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/{SONNET}"
IMPORTED_ARN = "arn:aws:bedrock:us-east-1:123456789012:imported-model/r4c4kewx2s0n"


def find(called: str, region: str | None = None) -> MapEntry | None:
    found = parse_bedrock_id(called)
    assert found is not None
    return find_entry(found, region)


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        (f"bedrock/{SONNET}", BedrockId(SONNET, IdKind.MODEL, None, None, SONNET)),
        (f"bedrock_converse/{SONNET}", BedrockId(SONNET, IdKind.MODEL, None, None, SONNET)),
        (f"bedrock/converse/us.{SONNET}", BedrockId(f"us.{SONNET}", IdKind.PROFILE, None, "us", SONNET)),
        (f"bedrock/invoke/us-gov.{SONNET}", BedrockId(f"us-gov.{SONNET}", IdKind.PROFILE, None, "us-gov", SONNET)),
        (f"bedrock/us-west-2/{SONNET}", BedrockId(SONNET, IdKind.MODEL, "us-west-2", None, SONNET)),
        (f"bedrock/converse/eu-west-3/{SONNET}", BedrockId(SONNET, IdKind.MODEL, "eu-west-3", None, SONNET)),
        (f"bedrock/{NOVA}:51k", BedrockId(f"{NOVA}:51k", IdKind.MODEL, None, None, NOVA)),
        (f"bedrock/us.{SONNET}[1m]", BedrockId(f"us.{SONNET}[1m]", IdKind.PROFILE, None, "us", SONNET)),
        (f"bedrock/converse/{PROFILE_ARN}", BedrockId(PROFILE_ARN, IdKind.PROFILE, "us-east-1", "us", SONNET)),
        (f"bedrock/{MODEL_ARN}", BedrockId(MODEL_ARN, IdKind.MODEL, "us-gov-west-1", None, SONNET)),
        (f"bedrock/{OWN_ARN}", BedrockId(OWN_ARN, IdKind.APPLICATION_PROFILE, "eu-west-1")),
        (f"bedrock/llama/{IMPORTED_ARN}", BedrockId(IMPORTED_ARN, IdKind.OTHER, "us-east-1")),
        ("bedrock/agent/AGENT/ALIAS", BedrockId("ALIAS", IdKind.OTHER_SERVICE)),
    ],
)
def test_parsing_an_id(called: str, expected: BedrockId) -> None:
    """Routes, regions, ARNs and LiteLLM's suffixes are separated from the model's id."""
    assert parse_bedrock_id(called) == expected


@pytest.mark.parametrize(
    "called", ["openai/gpt-4o", "gpt-4o", SONNET, "bedrock", "bedrock/", f"bedrock_mantle/{SONNET}"]
)
def test_models_that_are_not_on_bedrock(called: str) -> None:
    """A model of another provider, or without a provider, has no Bedrock id."""
    assert parse_bedrock_id(called) is None


def test_model_id_replaces_the_id() -> None:
    """`model_id` is the id that is called, and the model's name still identifies the foundation model."""
    found = parse_bedrock_id(f"bedrock/converse/{SONNET}", OWN_ARN)
    assert found == BedrockId(OWN_ARN, IdKind.APPLICATION_PROFILE, "eu-west-1", None, SONNET)
    assert parse_bedrock_id(f"bedrock/{SONNET}", "") == parse_bedrock_id(f"bedrock/{SONNET}")


def test_the_geographies_are_those_of_the_map() -> None:
    """Every prefix of a profile in LiteLLM's map is known, and none is the name of a vendor."""
    names = [key.split(".") for key in read_shipped().models if "/" not in key]
    makers = {parts[-2] for parts in names if len(parts) > 1}
    prefixed = {parts[0] for parts in names if len(parts) > 2 and parts[1] in makers and parts[0] not in makers}
    assert prefixed <= GEOGRAPHIES
    assert not GEOGRAPHIES & makers


def test_entries_of_the_map() -> None:
    """Limits and prompt caching are those of LiteLLM's map, for every form of the id."""
    expected = read_shipped().models[SONNET]
    for called in (f"bedrock/converse/us.{SONNET}", f"bedrock/us-east-1/{SONNET}", f"bedrock/{PROFILE_ARN}"):
        entry = find(called)
        assert entry is not None
        assert (entry.context, entry.output) == (expected["max_input_tokens"], expected["max_output_tokens"])
        assert entry.caches is True


def test_a_model_that_does_not_cache() -> None:
    """Models without prompt caching, and those that accept no cache points, are distinguished from others."""
    for called in ("bedrock/meta.llama3-1-8b-instruct-v1:0", "bedrock/moonshotai.kimi-k3"):
        entry = find(called)
        assert entry is not None
        assert entry.caches is False


def test_models_without_an_entry() -> None:
    """A model that the map does not contain, or whose id names no model, has no entry."""
    assert find("bedrock/anthropic.claude-of-tomorrow") is None
    assert find(f"bedrock/{OWN_ARN}") is None


@pytest.mark.parametrize(
    ("called", "ends"),
    [
        ("bedrock/converse/us.anthropic.claude-sonnet-4-20250514-v1:0", date(2026, 10, 14)),
        ("bedrock/converse/us.anthropic.claude-sonnet-4-5-20250929-v1:0", date(2027, 4, 8)),
        ("bedrock/converse/us.anthropic.claude-3-7-sonnet-20250219-v1:0", date(2026, 4, 28)),
        (f"bedrock/converse/us.{SONNET}", None),
        # The map dates this one profile, and neither the model nor any other profile of it.
        ("bedrock/converse/eu.anthropic.claude-haiku-4-5-20251001-v1:0", None),
        # GovCloud keeps models longer, so dates of other regions do not apply there.
        ("bedrock/converse/us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0", None),
    ],
)
def test_the_end_date_of_a_model(called: str, ends: date | None) -> None:
    """The end date is that of the model itself, from the map or from our table."""
    entry = find(called)
    assert entry is not None
    assert entry.ends == ends


def test_the_table_of_ended_models_is_needed() -> None:
    """LiteLLM's map still has no date for each model of our table; otherwise the entry can be removed."""
    assert [name for name in ENDED if read_shipped().models.get(name, {}).get("deprecation_date")] == []


def test_a_damaged_entry_of_the_map() -> None:
    """Values of the map that are no dates or numbers are ignored."""
    found = parse_bedrock_id(f"bedrock/{SONNET}")
    assert found is not None
    damaged = {SONNET: {"deprecation_date": "soon", "max_input_tokens": "many"}}
    assert find_entry(found, None, damaged) == MapEntry(SONNET, caches=False)
