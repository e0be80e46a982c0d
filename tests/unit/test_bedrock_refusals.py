"""The known errors of AWS are complete, distinct, and the same in the program, the fakes and the documentation."""

from __future__ import annotations

import pytest

from litellm_systemd.bedrock.refusals import REFUSALS, find_refusal
from tests.fakes.refusals import SCRIPTED
from tests.refusal_matrix import PAGE, render
from tests.refusal_models import unshown


def test_the_page_is_generated() -> None:
    """docs/bedrock-refusals.md is the output of `python -m tests.refusal_matrix`."""
    assert PAGE.read_text(encoding="utf-8") == render()


def test_errors_are_unique() -> None:
    """Names, causes and remedies are unique, and there are at least 20 errors."""
    assert len({one.name for one in REFUSALS}) == len({one.hint for one in REFUSALS}) == len(REFUSALS) >= 20


def test_each_error_is_returned_by_a_fake() -> None:
    """Every error that verify knows is returned by a fake, and verify knows every error of the fakes."""
    assert unshown() == set()


@pytest.mark.parametrize("name", SCRIPTED)
def test_an_error_is_identified_by_its_message(name: str) -> None:
    """The message alone, with or without LiteLLM's wrapping, identifies the right error and no earlier one."""
    for text in (
        SCRIPTED[name].message,
        f'litellm.RateLimitError: BedrockException - {{"message": "{SCRIPTED[name].message}"}}',
    ):
        found = find_refusal(text)
        assert found is not None
        assert found.name == name
