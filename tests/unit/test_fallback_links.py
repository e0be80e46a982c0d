"""Which links a configuration's fallback chains have, and what a request has to say to try each."""

from __future__ import annotations

from typing import Any

import pytest

from litellm_systemd.gateway.config import parse_config
from litellm_systemd.gateway.fallback_links import build_failing, build_links
from litellm_systemd.resources import config_names, read_config

MODELS = "".join(f"  - {{model_name: {name}, litellm_params: {{model: openai/{name}}}}}\n" for name in "abcd")


def links(settings: str) -> list[Any]:
    return list(build_links(parse_config(f"model_list:\n{MODELS}{settings}\n", "test.yml")))


def test_each_target_of_each_chain_is_a_link() -> None:
    """Chains of every kind count, in both sections where LiteLLM reads them."""
    found = links(
        "router_settings: {fallbacks: [{a: [b, c]}], content_policy_fallbacks: [{c: [d]}]}\n"
        "litellm_settings: {context_window_fallbacks: [{b: [c]}]}"
    )
    assert [link.name for link in found] == [
        "fallback 1 of a: b",
        "fallback 2 of a: c",
        "content policy fallback 1 of c: d",
        "context window fallback 1 of b: c",
    ]
    assert {link.obstacle for link in found} == {""}


def test_the_first_link_leaves_the_chain_to_the_configuration() -> None:
    """The first target is tried with nothing but the parameter that makes the model fail in the chain's way."""
    found = links(
        "router_settings: {fallbacks: [{a: [b]}], context_window_fallbacks: [{a: [b]}],"
        " content_policy_fallbacks: [{a: [b]}]}"
    )
    assert [build_failing(link) for link in found] == [
        {"mock_testing_fallbacks": True},
        {"mock_testing_context_fallbacks": True},
        {"mock_testing_content_policy_fallbacks": True},
    ]


def test_a_later_link_has_the_targets_before_it_fail() -> None:
    """For the third target, the first and the second are asked and made to fail, in the chain's order."""
    third = links("router_settings: {fallbacks: [{a: [b, c, d]}]}")[2]
    assert build_failing(third) == {
        "mock_testing_fallbacks": True,
        "fallbacks": [
            {
                "a": [
                    {"model": "b", "mock_testing_fallbacks": True},
                    {"model": "c", "mock_testing_fallbacks": True},
                    {"model": "d", "mock_testing_fallbacks": False},
                ]
            }
        ],
    }


def test_the_chain_of_all_others_is_tried_with_a_model_that_has_none() -> None:
    """default_fallbacks, and a chain of `*`, are tried with the first model that has no chain of its own."""
    found = links("litellm_settings: {fallbacks: [{a: [b]}], default_fallbacks: [b, c]}")
    assert [(link.name, link.asked) for link in found[1:]] == [
        ("default fallback 1 of *: b", "d"),
        ("default fallback 2 of *: c", "d"),
    ]
    assert build_failing(found[2])["fallbacks"][0]["d"][-1] == {"model": "c", "mock_testing_fallbacks": False}


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ("litellm_settings: {default_fallbacks: [a, b, c, d]}", "every model has a chain"),
        ("router_settings: {fallbacks: [{a: [a]}]}", "the model that failed"),
        ("router_settings: {fallbacks: [{a: [b, b]}]}", "no model twice"),
        ("router_settings: {fallbacks: [{a: ['bedrock/*']}]}", "a pattern"),
    ],
)
def test_what_can_not_be_tried_says_why(settings: str, word: str) -> None:
    """A link that LiteLLM itself would never take, or that names no one model, is told and not tried."""
    assert word in links(settings)[-1].obstacle


def test_the_shipped_configurations_have_no_link_that_can_not_be_tried() -> None:
    """Every fallback that we ship is one that `verify --fallbacks` can prove."""
    found = [link for name in config_names() for link in build_links(parse_config(read_config(name), name))]
    assert found
    assert {link.obstacle for link in found} == {""}
