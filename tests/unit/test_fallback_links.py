"""The links of fallback chains, and the request that tests each of them."""

from __future__ import annotations

from typing import Any

import pytest

from litellm_systemd.commands.config_files import shipped_config
from litellm_systemd.gateway.config import parse_config
from litellm_systemd.resources import config_names
from litellm_systemd.verify.steps import build_failing, build_links

MODELS = "".join(f"  - {{model_name: {name}, litellm_params: {{model: openai/{name}}}}}\n" for name in "abcd")


def links(settings: str) -> list[Any]:
    return list(build_links(parse_config(f"model_list:\n{MODELS}{settings}\n", "test.yml")))


def test_each_target_of_each_chain_is_a_link() -> None:
    """Each target of each kind of chain is a link, in both sections in which LiteLLM reads fallbacks."""
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


def test_a_hidden_alias_with_the_chain_of_its_model_has_no_links() -> None:
    """The chain of a hidden alias is tested if it differs from the one of its model."""
    found = links(
        "router_settings:\n"
        "  model_group_alias: {same: {model: a, hidden: true}, other: {model: a, hidden: true}, listed: a}\n"
        "  fallbacks: [{a: [b]}, {same: [b]}, {other: [c]}, {listed: [b]}]"
    )
    assert [link.name for link in found] == [
        "fallback 1 of a: b",
        "fallback 1 of other: c",
        "fallback 1 of listed: b",
    ]


def test_the_first_link_uses_the_configured_chain() -> None:
    """The first target is tested with only the parameter that simulates the failure of that kind of chain."""
    found = links(
        "router_settings: {fallbacks: [{a: [b]}], context_window_fallbacks: [{a: [b]}],"
        " content_policy_fallbacks: [{a: [b]}]}"
    )
    assert [build_failing(link) for link in found] == [
        {"mock_testing_fallbacks": True},
        {"mock_testing_context_fallbacks": True},
        {"mock_testing_content_policy_fallbacks": True},
    ]


def test_a_later_link_makes_the_earlier_targets_fail() -> None:
    """For the third target, the request makes the first and the second fail, in the order of the chain."""
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


def test_the_default_chain_is_tested_with_a_model_without_its_own() -> None:
    """default_fallbacks, and a chain for `*`, are tested with the first model that has no chain of its own."""
    found = links("litellm_settings: {fallbacks: [{a: [b]}], default_fallbacks: [b, c]}")
    assert [(link.name, link.asked) for link in found[1:]] == [
        ("default fallback 1 of *: b", "d"),
        ("default fallback 2 of *: c", "d"),
    ]
    assert build_failing(found[2])["fallbacks"][0]["d"][-1] == {"model": "c", "mock_testing_fallbacks": False}


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ("litellm_settings: {default_fallbacks: [a, b, c, d]}", "every model has its own chain"),
        ("router_settings: {fallbacks: [{a: [a]}]}", "the model that failed"),
        ("router_settings: {fallbacks: [{a: [b, b]}]}", "no model twice"),
        ("router_settings: {fallbacks: [{a: ['bedrock/*']}]}", "a pattern"),
    ],
)
def test_a_link_that_cannot_be_tested_says_why(settings: str, word: str) -> None:
    """A link that LiteLLM would never use, or that names no single model, is reported and not tested."""
    assert word in links(settings)[-1].obstacle


def test_all_links_of_shipped_configurations_can_be_tested() -> None:
    """`verify --fallbacks` can test every fallback of the shipped configurations."""
    found = [link for name in config_names() for link in build_links(shipped_config(name))]
    assert found
    assert {link.obstacle for link in found} == {""}
