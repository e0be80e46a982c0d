"""The refusals of AWS: complete, told apart, and the same in the program, the fakes and the docs."""

from __future__ import annotations

import pytest

from litellm_systemd.bedrock.refusals import REFUSALS, find_refusal
from tests.fakes.refusals import SCRIPTED
from tests.refusal_matrix import PAGE, render
from tests.refusal_models import unshown


def test_the_page_is_that_of_the_program() -> None:
    """docs/bedrock-refusals.md lists what verify knows; `python -m tests.refusal_matrix` writes it again."""
    assert PAGE.read_text(encoding="utf-8") == render()


def test_each_has_a_message_of_its_own() -> None:
    """No two refusals share a name, a cause or a remedy that says all, and there are twenty at the least."""
    assert len({one.name for one in REFUSALS}) == len({one.hint for one in REFUSALS}) == len(REFUSALS) >= 20


def test_each_is_shown_by_a_fake() -> None:
    """Whatever verify knows of, a fake really answers; whatever a fake answers, verify knows."""
    assert unshown() == set()


@pytest.mark.parametrize("name", SCRIPTED)
def test_the_words_of_aws_tell_which_it_is(name: str) -> None:
    """The message alone, as LiteLLM wraps it or not, leads to the right one and to no other before it."""
    for text in (
        SCRIPTED[name].message,
        f'litellm.RateLimitError: BedrockException - {{"message": "{SCRIPTED[name].message}"}}',
    ):
        found = find_refusal(text)
        assert found is not None
        assert found.name == name
