"""The models that a configuration serves: ids, regions and end of life."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from litellm_systemd.bedrock.models import REGIONS
from litellm_systemd.commands.config_files import shipped_config
from litellm_systemd.gateway.config import Severity, parse_config, read_config
from litellm_systemd.gateway.models import ServedModel, build_served, end_findings, ends_by_name

SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.yml"))
TODAY = date(2026, 11, 24)


def serve(*entries: str, more: str = "", environ: dict[str, str] | None = None) -> tuple[ServedModel, ...]:
    """The models of a configuration with these entries of `litellm_params`."""
    models = "".join(
        f"  - {{model_name: m{index}, litellm_params: {{{entry}}}}}\n" for index, entry in enumerate(entries)
    )
    return build_served(parse_config(f"model_list:\n{models}{more}", "c.yml"), environ or {})


@pytest.mark.parametrize(
    ("entry", "more", "environ", "region"),
    [
        ("model: bedrock/amazon.nova-lite-v1:0", "", {}, None),
        ("model: bedrock/amazon.nova-lite-v1:0", "", {"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
        ("model: bedrock/eu-west-3/amazon.nova-lite-v1:0", "", {"AWS_REGION_NAME": "eu-west-1"}, "eu-west-3"),
        ("model: bedrock/eu-west-3/amazon.nova-lite-v1:0, aws_region_name: sa-east-1", "", {}, "sa-east-1"),
        ("model: bedrock/x, aws_region_name: os.environ/WHERE", "", {"WHERE": "us-west-2"}, "us-west-2"),
        (
            "model: bedrock/amazon.nova-lite-v1:0",
            "environment_variables: {AWS_REGION_NAME: us-east-2}\n",
            {"AWS_REGION_NAME": "eu-west-1"},
            "us-east-2",
        ),
    ],
)
def test_the_region_of_a_model(entry: str, more: str, environ: dict[str, str], region: str | None) -> None:
    """The region is the one that LiteLLM uses: the model's parameter, else that in its id, else the environment."""
    assert [each.region for each in serve(entry, more=more, environ=environ)] == [region]


def test_models_that_do_not_call_bedrock() -> None:
    """Models of other providers and mocked models do not call Bedrock; one behind a reference does."""
    entries = (
        "model: openai/gpt-4o, api_key: k",
        "model: bedrock/amazon.nova-lite-v1:0, mock_response: hello",
        "model: os.environ/MODEL",
    )
    environ = {"MODEL": "bedrock/amazon.nova-lite-v1:0"}
    assert [each.is_called for each in serve(*entries, environ=environ)] == [False, False, True]


@pytest.mark.parametrize(
    ("model", "today", "expected"),
    [
        ("us.anthropic.claude-3-7-sonnet-20250219-v1:0", TODAY, ("model-ended", Severity.ERROR)),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", TODAY, None),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", date(2027, 1, 7), None),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", date(2027, 1, 8), ("model-ends", Severity.WARNING)),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", date(2027, 4, 7), ("model-ends", Severity.WARNING)),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", date(2027, 4, 8), ("model-ended", Severity.ERROR)),
        ("us.anthropic.claude-sonnet-5-5", date(2030, 1, 1), None),
    ],
)
def test_the_end_of_a_model(model: str, today: date, expected: tuple[str, Severity] | None) -> None:
    """A model that has ended is an error, one that ends within 90 days a warning, each with its line."""
    config = parse_config(f"model_list:\n- model_name: m\n  litellm_params:\n    model: bedrock/{model}\n", "c.yml")
    found = list(end_findings(config, build_served(config, {}), today))
    assert [(finding.code, finding.severity) for finding in found] == ([expected] if expected else [])
    assert all(finding.where.startswith("c.yml:4") for finding in found)
    known = frozenset({model.removeprefix("us.")})
    again = list(end_findings(config, build_served(config, {}), today, known=known))
    assert [finding.severity for finding in again] == [Severity.WARNING] * len(found)


def test_a_mocked_model_never_ends() -> None:
    """A mocked model calls no provider, so it cannot end."""
    model = "bedrock/anthropic.claude-opus-4-20250514-v1:0"
    text = f"model_list: [{{model_name: m, litellm_params: {{model: '{model}', mock_response: x}}}}]"
    config = parse_config(text, "c.yml")
    assert list(end_findings(config, build_served(config, {}), TODAY)) == []


def test_the_end_of_a_name_is_its_first() -> None:
    """A name with several models ends with the first of them; mocked ones, and those without an end, do not count."""
    later = ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "us.anthropic.claude-3-7-sonnet-20250219-v1:0")
    named = [f"  - {{model_name: a, litellm_params: {{model: bedrock/{model}}}}}\n" for model in later]
    mocked = f"  - {{model_name: b, litellm_params: {{model: bedrock/{later[1]}, mock_response: hi}}}}\n"
    served = build_served(parse_config(f"model_list:\n{''.join(named)}{mocked}", "c.yml"), {})
    ends = sorted(each.life.ends for each in served if each.is_called and each.life.ends)
    assert len(ends) == 2
    assert ends_by_name(served) == ends_by_name(served[::-1]) == {"a": ends[0]}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_shipped_model_ends_soon(path: Path) -> None:
    """No model of a shipped configuration has ended or ends within 90 days, as far as this release knows."""
    config = read_config(path)
    served = build_served(config, {})
    assert served
    assert list(end_findings(config, served, TODAY)) == []


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "ap-northeast-1", "ap-southeast-2", "ap-south-1"])
def test_prompt_caching_falls_back_to_caching_models(region: str) -> None:
    """prompt_caching.yml falls back only to models that cache prompts, in every geography."""
    assert region in REGIONS
    config = shipped_config("prompt_caching.yml", region)
    caching = {each.model.name for each in build_served(config, {}) if each.entry is not None and each.entry.caches}
    aliases = dict((*config.aliases, *config.hidden_aliases))
    assert config.fallbacks
    for fallback in config.fallbacks:
        names = (fallback.model, *fallback.targets)
        assert {aliases.get(name, name) for name in names} <= caching
