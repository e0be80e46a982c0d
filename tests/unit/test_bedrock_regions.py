"""Regions and inference profiles, compared with LiteLLM's model map and botocore's regions."""

from __future__ import annotations

import re
from pathlib import Path

import botocore.session
import pytest

from litellm_systemd.bedrock.models import (
    CALLING_REGIONS,
    DESTINATIONS,
    PROFILED,
    PROFILES,
    REGIONS,
    geography,
    looks_like_region,
    parse_bedrock_id,
    partition,
    profile,
    required_profiles,
)
from litellm_systemd.commands.config_files import shipped_config
from litellm_systemd.errors import InputError
from litellm_systemd.gateway.config import lint, localize, profiles_outside_geography
from litellm_systemd.gateway.installed_litellm import ENDED
from litellm_systemd.gateway.snapshot import read_shipped
from litellm_systemd.resources import config_names

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(path for path in CONFIGS.rglob("*.yml") if "bedrock/us.anthropic." in path.read_text())
WITH_MODELS = sorted(region for region in REGIONS if not region.startswith(("cn-", "us-gov-")))
MODEL_ID = re.compile(r"bedrock/([a-z-]+\.anthropic\S+)")


def test_the_regions_are_those_of_botocore() -> None:
    """The table of regions equals that of the installed botocore for EC2."""
    session = botocore.session.get_session()
    partitions = ("aws", "aws-cn", "aws-us-gov")
    assert {region for each in partitions for region in session.get_available_regions("ec2", each)} == REGIONS
    assert all(looks_like_region(region) for region in REGIONS)


def test_partitions_are_those_of_botocore() -> None:
    """The partition of each region is that of botocore."""
    session = botocore.session.get_session()
    names = [name for name in session.get_available_partitions() if session.get_available_regions("ec2", name)]
    regions = [region for name in names for region in session.get_available_regions("ec2", name)]
    assert len(regions) > len(REGIONS)
    assert {region: partition(region) for region in regions} == {
        region: session.get_partition_for_region(region) for region in regions
    }


def test_destinations_of_a_geography() -> None:
    """The destinations of a geography exist, are in one partition, and may call its profiles."""
    for geography_, regions in DESTINATIONS.items():
        assert set(regions) <= REGIONS
        assert len({partition(region) for region in regions}) == 1
        assert all(region.startswith(CALLING_REGIONS.get(geography_, ("",))) for region in regions)
    assert set(CALLING_REGIONS) <= set(DESTINATIONS)


@pytest.mark.parametrize(
    "text", ["mars-1", "us-east", "us_east_1", "US-EAST-1", "us-east-1 ", "", "us-east-1a", "global"]
)
def test_invalid_regions(text: str) -> None:
    """Misspelt regions, availability zones and words are not accepted as regions."""
    assert not looks_like_region(text)
    with pytest.raises(InputError, match="is not an AWS region"):
        geography(text)


@pytest.mark.parametrize(
    ("region", "prefix"),
    [
        ("us-east-1", "us"),
        ("us-west-2", "us"),
        ("ca-central-1", "us"),
        ("eu-central-1", "eu"),
        ("ap-northeast-1", "jp"),
        ("ap-northeast-3", "jp"),
        ("ap-northeast-2", "global"),
        ("ap-southeast-2", "au"),
        ("ap-southeast-4", "au"),
        ("ap-southeast-1", "global"),
        ("ap-south-1", "global"),
        ("sa-east-1", "global"),
        ("us-gov-west-1", "us-gov"),
    ],
)
def test_the_geography_of_a_region(region: str, prefix: str) -> None:
    """Each region calls the profiles that are closest to it."""
    assert geography(region) == prefix


@pytest.mark.parametrize("region", ["cn-north-1", "us-iso-east-1", "us-isob-east-1", "eusc-de-east-1"])
def test_partitions_without_the_models(region: str) -> None:
    """China and the isolated and sovereign partitions are rejected by name and never get profiles of others."""
    with pytest.raises(InputError, match=region):
        geography(region)


def test_a_model_that_is_missing_in_govcloud() -> None:
    """GovCloud never gets a global profile: a model that is not available there is an error that names it."""
    assert profile("anthropic.claude-sonnet-5-5", "us-gov-west-1") == "us-gov.anthropic.claude-sonnet-5-5"
    with pytest.raises(InputError, match="claude-sonnet-4-6 is not available in us-gov-west-1"):
        profile("anthropic.claude-sonnet-4-6", "us-gov-west-1")


def test_each_profile_is_in_litellms_model_map() -> None:
    """LiteLLM's map contains every id that `localize` can write, as a chat model that caches prompts."""
    known = read_shipped().models
    ids = {f"{prefix}.{model}" for model, prefixes in PROFILES.items() for prefix in prefixes}
    assert ids - known.keys() == set()
    assert all(known[name]["mode"] == "chat" and known[name]["supports_prompt_caching"] for name in ids)


def test_profiles_of_models_without_on_demand() -> None:
    """Each profile in the remedy for a model that needs one exists, and the region can call it."""
    known = read_shipped().models
    for model, prefixes in PROFILED.items():
        assert model in known or not model.startswith(("anthropic.", "amazon.", "meta.", "deepseek."))
        assert model not in ENDED
        assert set(prefixes) >= PROFILES.get(model, frozenset()) - {"us-gov"}
        for region in WITH_MODELS:
            found = parse_bedrock_id(f"bedrock/{model}")
            profiles = required_profiles(found, region) if found is not None else None
            for each in profiles or ():
                prefix = each.partition(".")[0]
                assert prefix == "global" or region.startswith(CALLING_REGIONS[prefix])
            if "global" in prefixes and profiles is not None:
                assert profiles


@pytest.mark.slow
@pytest.mark.parametrize("region", WITH_MODELS)
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_file_fits_every_region(path: Path, region: str) -> None:
    """After localization, every model id exists and can be called from the region, and nothing else has changed."""
    text = path.read_text()
    local = localize(text, region)
    ids, before = MODEL_ID.findall(local), MODEL_ID.findall(text)
    assert ids
    assert set(ids) <= read_shipped().models.keys()
    assert {each.split(".", 1)[0] for each in ids} <= {geography(region), "global"}
    assert [each.split(".", 1)[1] for each in ids] == [each.split(".", 1)[1] for each in before]
    assert MODEL_ID.sub("", local) == MODEL_ID.sub("", text)


@pytest.mark.parametrize("region", WITH_MODELS)
@pytest.mark.parametrize("name", config_names())
def test_a_shipped_configuration_passes_the_linter_in_every_region(name: str, region: str) -> None:
    """With its variables in the environment, no shipped configuration has a finding in any region."""
    environ = {"LITELLM_MASTER_KEY": "sk-good", "AWS_REGION_NAME": region}
    if name == "access_key_config.yml":
        environ |= {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "x"}
    assert lint(shipped_config(name, region), environ) == ()


@pytest.mark.parametrize("region", WITH_MODELS)
def test_localizing_twice_equals_localizing_once(region: str) -> None:
    """A file that was localized for one region can be localized for another."""
    text = SHIPPED[0].read_text()
    for first in ("us-east-1", "ap-northeast-1", "sa-east-1"):
        assert localize(localize(text, first), region) == localize(text, region)


def test_similar_ids_are_not_rewritten() -> None:
    """A longer id, another model and a word in a comment are not rewritten."""
    text = "# us.east\nus.anthropic.claude-sonnet-4-6-v2 us.anthropic.claude-opus-5 x.us.anthropic.claude-sonnet"
    assert localize(text, "eu-west-1") == text


def test_profiles_outside_the_geography() -> None:
    """In Japan, Sonnet 5.5 has only a global profile, which is reported; elsewhere nothing is."""
    text = "us.anthropic.claude-sonnet-5-5 us.anthropic.claude-sonnet-4-6"
    tokyo = localize(text, "ap-northeast-1")
    assert tokyo == "global.anthropic.claude-sonnet-5-5 jp.anthropic.claude-sonnet-4-6"
    assert profiles_outside_geography(tokyo, "ap-northeast-1") == ("global.anthropic.claude-sonnet-5-5",)
    assert profiles_outside_geography(localize(text, "eu-west-1"), "eu-west-1") == ()
    assert profiles_outside_geography(localize(text, "sa-east-1"), "sa-east-1") == ()


def test_localized_profiles_pass_the_linter() -> None:
    """The rule against unavailable profiles accepts everything that `localize` writes."""
    for region in sorted(REGIONS):
        if not region.startswith("cn-") and geography(region) != "global":
            assert region.startswith(CALLING_REGIONS[geography(region)])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_bedrock_model_that_is_shipped_can_be_localized(path: Path) -> None:
    """Every Bedrock model of the shipped files is in the table of profiles."""
    for name in MODEL_ID.findall(path.read_text()):
        prefix, model = name.split(".", 1)
        assert prefix == "us"
        assert model in PROFILES
