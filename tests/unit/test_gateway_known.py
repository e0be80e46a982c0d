"""The checked-in names against the installed LiteLLM: a difference means that it moved and the lists must follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from litellm_systemd import gateway_known
from litellm_systemd.gateway_config import lint, read_config
from litellm_systemd.gateway_lint import SECTIONS
from tests.unit import litellm_names

EXAMPLES = litellm_names.example_configurations()


@pytest.mark.parametrize(
    ("known", "derive"),
    [
        pytest.param(gateway_known.TOP_LEVEL - {"include"}, litellm_names.top_level, id="top level"),
        pytest.param(gateway_known.GENERAL, litellm_names.general_settings, id="general_settings"),
        pytest.param(gateway_known.LITELLM, litellm_names.litellm_settings, id="litellm_settings"),
        pytest.param(gateway_known.ROUTER, litellm_names.router_settings, id="router_settings"),
        pytest.param(gateway_known.PROVIDERS, litellm_names.providers, id="providers"),
    ],
)
def test_the_lists_are_litellms_own(known: frozenset[str], derive: Callable[[], frozenset[str]]) -> None:
    """No name of LiteLLM is missing, which would be a false alarm; none is left over, which would be a silence."""
    assert sorted(derive() - known) == []
    assert sorted(known - derive()) == []


def test_what_litellm_includes_is_known() -> None:
    """The key that LiteLLM takes out before all others is known too."""
    assert "include" in gateway_known.TOP_LEVEL
    assert SECTIONS.keys() <= gateway_known.TOP_LEVEL


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_litellms_own_examples_raise_no_false_alarm(path: Path) -> None:
    """The examples that LiteLLM ships use no setting, section or parameter that lint calls unknown or misplaced."""
    found = lint(read_config(path), {"LITELLM_MASTER_KEY": "sk-good", "AWS_REGION_NAME": "us-east-1"})
    alarms = {"unknown-setting", "misspelt-setting", "misplaced-setting", "retired-setting", "unknown-aws-parameter"}
    assert [each for each in found if each.code in alarms or each.code.startswith(("fallback", "alias"))] == []


def test_there_are_examples() -> None:
    """The test above isn't empty."""
    assert len(EXAMPLES) > 15
