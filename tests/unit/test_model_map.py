"""Ids of models as configurations write them, and what LiteLLM's bundled map says of them."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from litellm_systemd.bedrock.ids import GEOGRAPHIES, BedrockId, IdKind, parse_bedrock_id
from litellm_systemd.gateway.model_map import ENDED, MapEntry, find_entry, read_model_map
from tests.unit.litellm_names import model_map

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
def test_an_id(called: str, expected: BedrockId) -> None:
    """Routes, regions, ARNs and LiteLLM's own suffixes are told from the model's id."""
    assert parse_bedrock_id(called) == expected


@pytest.mark.parametrize(
    "called", ["openai/gpt-4o", "gpt-4o", SONNET, "bedrock", "bedrock/", f"bedrock_mantle/{SONNET}"]
)
def test_what_is_not_on_bedrock(called: str) -> None:
    """A model of another provider, or of none, has no Bedrock id."""
    assert parse_bedrock_id(called) is None


def test_an_id_of_its_own() -> None:
    """`model_id` is what is called, and the model's name still tells what is behind it."""
    found = parse_bedrock_id(f"bedrock/converse/{SONNET}", OWN_ARN)
    assert found == BedrockId(OWN_ARN, IdKind.APPLICATION_PROFILE, "eu-west-1", None, SONNET)
    assert parse_bedrock_id(f"bedrock/{SONNET}", "") == parse_bedrock_id(f"bedrock/{SONNET}")


def test_the_geographies_are_those_of_the_map() -> None:
    """Each prefix of a profile that LiteLLM's map uses is known, and none is the name of a maker of models."""
    names = [key.split(".") for key in model_map() if "/" not in key]
    makers = {parts[-2] for parts in names if len(parts) > 1}
    prefixed = {parts[0] for parts in names if len(parts) > 2 and parts[1] in makers and parts[0] not in makers}
    assert prefixed <= GEOGRAPHIES
    assert not GEOGRAPHIES & makers


def test_what_the_map_says() -> None:
    """Limits and prompt caching are those of LiteLLM's map, whatever way the id is written."""
    expected = model_map()[SONNET]
    for called in (f"bedrock/converse/us.{SONNET}", f"bedrock/us-east-1/{SONNET}", f"bedrock/{PROFILE_ARN}"):
        entry = find(called)
        assert entry is not None
        assert (entry.context, entry.output) == (expected["max_input_tokens"], expected["max_output_tokens"])
        assert entry.caches is True


def test_a_model_that_does_not_cache() -> None:
    """A model without prompt caching, and one that caches but takes no cache points, are told from the others."""
    for called in ("bedrock/meta.llama3-1-8b-instruct-v1:0", "bedrock/moonshotai.kimi-k3"):
        entry = find(called)
        assert entry is not None
        assert entry.caches is False


def test_what_the_map_does_not_have() -> None:
    """Of a model that the map doesn't have, and of one whose id tells nothing, nothing is said."""
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
        # GovCloud keeps models longer: what holds elsewhere doesn't hold there.
        ("bedrock/converse/us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0", None),
    ],
)
def test_when_a_model_ends(called: str, ends: date | None) -> None:
    """The end is the one of the model itself, from the map or from our own table."""
    entry = find(called)
    assert entry is not None
    assert entry.ends == ends


def test_the_table_of_ended_models_is_needed() -> None:
    """Each model of our own table is one of which LiteLLM's map still gives no date: else the map has caught up."""
    assert [name for name in ENDED if model_map().get(name, {}).get("deprecation_date")] == []


@pytest.mark.parametrize("content", [None, "", "[1, 2]", "{broken"])
def test_no_map(content: str | None, tmp_path: Path) -> None:
    """A map that is missing or broken leaves everything unknown, and nothing broken."""
    path = tmp_path / "map.json"
    if content is not None:
        path.write_text(content)
    assert read_model_map(path) == {}
    found = parse_bedrock_id(f"bedrock/{SONNET}")
    assert found is not None
    assert find_entry(found, None, {SONNET: {"deprecation_date": "soon", "max_input_tokens": "many"}}) == MapEntry(
        SONNET, caches=False
    )


def test_the_map_is_read_without_litellm() -> None:
    """Reading the map imports neither LiteLLM nor anything else that is slow."""
    code = (
        "import sys; from litellm_systemd.gateway.model_map import read_model_map; assert read_model_map();"
        "print(sorted({'litellm', 'boto3', 'botocore', 'requests', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
