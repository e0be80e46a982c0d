"""docs/linter.md against the linter: a section for each code, with an example that has it and one that hasn't."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from litellm_systemd import gateway
from litellm_systemd.env.settings import parse_dotenv
from litellm_systemd.gateway.config import ConfigError, lint, parse_config

TEXT = (Path(__file__).parents[2] / "docs/linter.md").read_text()
SECTIONS = {section.partition("\n")[0]: section for section in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]}
MODELS = """\
model_list:
  - {model_name: a, litellm_params: {model: openai/gpt-4o}}
  - {model_name: b, litellm_params: {model: openai/gpt-4o-mini}}
"""
SOUND = {"AWS_REGION_NAME": "us-east-1", "OPENAI_API_KEY": "x", "ONE": "x", "TWO": "x"}
#: What a rule is written as in the source: the code is the first text of the call.
RULE = re.compile(r"\b(?:error|warning|make|config_error|_wrong|_unset\(config\))\(\s*(?:document, )?\"([a-z-]+)\"")


def codes() -> set[str]:
    """Every code that the linter's source gives out. That a model ends is told by the day, and not by `lint`."""
    sources = sorted(path for path in Path(gateway.__file__).parent.glob("*.py") if path.stem != "served_models")
    return {code for path in sources for code in RULE.findall(path.read_text())}


def block(kind: str, text: str) -> str | None:
    """The first fenced block of a kind in a part of a section."""
    found = re.search(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return None if found is None else found[1]


def found_in(text: str | None, environment: str | None) -> set[str]:
    """The codes that the linter gives for an example, with models and a sound environment where it has none."""
    config = text or MODELS
    if text and not re.search(r"^(model_list|include):", text, re.MULTILINE):
        config = MODELS + text
    given = SOUND if environment is None else dict(parse_dotenv(environment, ".env").values)
    try:
        return {each.code for each in lint(parse_config(config, "f.yml"), {"LITELLM_MASTER_KEY": "sk-good", **given})}
    except ConfigError as error:
        return {each.code for each in error.findings}


def test_each_code_has_a_section() -> None:
    """The codes that the linter gives out and the sections of docs/linter.md are the same."""
    assert sorted(SECTIONS) == sorted(codes())
    assert len(SECTIONS) > 30


@pytest.mark.parametrize("code", SECTIONS)
def test_the_example_of_a_section_has_its_mistake(code: str) -> None:
    """The first example of each section gives the finding that the section is about."""
    wrong = SECTIONS[code].partition("\nRight:")[0]
    assert code in found_in(block("yaml", wrong), block("dotenv", wrong))


@pytest.mark.parametrize("code", SECTIONS)
def test_the_remedy_of_a_section_passes(code: str) -> None:
    """The second example of each section, or the first with the variables of the second, has no finding at all."""
    wrong, parted, right = SECTIONS[code].partition("\nRight:")
    assert parted
    text, environment = block("yaml", right), block("dotenv", right)
    if text is not None or environment is not None:
        assert found_in(text or block("yaml", wrong), environment) == set()
