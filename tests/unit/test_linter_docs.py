"""docs/linter.md has a section for each code of the linter, with an example that causes it and one that passes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from litellm_systemd import gateway
from litellm_systemd.env.settings import parse_dotenv
from litellm_systemd.gateway.config import ConfigError, FileText, GatewayConfig, lint, parse_config, read_config
from litellm_systemd.gateway.environment import hidden_file_findings, profile_findings

TEXT = (Path(__file__).parents[2] / "docs/linter.md").read_text()
SECTIONS = {section.partition("\n")[0]: section for section in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]}
MODELS = """\
model_list:
  - {model_name: a, litellm_params: {model: openai/gpt-4o}}
  - {model_name: b, litellm_params: {model: openai/gpt-4o-mini}}
"""
VALID = {"AWS_REGION_NAME": "us-east-1", "OPENAI_API_KEY": "x", "ONE": "x", "TWO": "x"}
#: The form of a rule in the source: the code is the first string of the call.
RULE = re.compile(
    r"\b(?:error|warning|make|config_error|LintFinding|_wrong|_unset\(config\))"
    r"\(\s*(?:document, |Severity\.\w+, )?\"([a-z-]+)\""
)


def codes() -> set[str]:
    """Every code in the source of the linter, except those for the end of a model, which `lint` does not report."""
    sources = sorted(Path(gateway.__file__).parent.glob("*.py"))
    return {code for path in sources for code in RULE.findall(path.read_text())} - {"model-ends"}


def block(kind: str, text: str) -> str | None:
    """The first fenced block of a kind in a part of a section."""
    found = re.search(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return None if found is None else found[1]


def read(config: str) -> GatewayConfig:
    """An example: one file, or several, each below a comment with its name."""
    parts = re.split(r"^# (\S+\.(?:yml|py))\n", config, flags=re.MULTILINE)
    files = {Path("/docs") / name: FileText(text, name) for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    if not files:
        return parse_config(config, "f.yml")
    first = min(files)
    files[first] = FileText(MODELS + files[first].text, first.name)
    return read_config(first, files.get)


def found_in(text: str | None, environment: str | None) -> set[str]:
    """The codes for an example, which gets default models and a valid environment if it has none."""
    config = text or MODELS
    if text and not re.search(r"^(model_list:|include:|# \S+\.yml$)", text, re.MULTILINE):
        config = MODELS + text
    given = VALID if environment is None else dict(parse_dotenv(environment, ".env").values)
    try:
        gateway_config, environ = read(config), {"LITELLM_MASTER_KEY": "sk-good", **given}
        here = (
            *hidden_file_findings(gateway_config, environ),
            *profile_findings(gateway_config, environ, has_profiles=False),
        )
        return {each.code for each in (*lint(gateway_config, environ), *here)}
    except ConfigError as error:
        return {each.code for each in error.findings}


def test_each_code_has_a_section() -> None:
    """Every code of the linter has a section in docs/linter.md, and every section a code."""
    assert sorted(SECTIONS) == sorted(codes())
    assert len(SECTIONS) > 30


@pytest.mark.parametrize("code", SECTIONS)
def test_the_first_example_has_the_finding(code: str) -> None:
    """The first example of each section causes the finding of the section."""
    wrong = SECTIONS[code].partition("\nRight:")[0]
    assert code in found_in(block("yaml", wrong), block("dotenv", wrong))


@pytest.mark.parametrize("code", SECTIONS)
def test_the_second_example_passes(code: str) -> None:
    """The second example of each section, or the first with the variables of the second, has no finding."""
    wrong, parted, right = SECTIONS[code].partition("\nRight:")
    assert parted
    text, environment = block("yaml", right), block("dotenv", right)
    if text is not None or environment is not None:
        assert found_in(text or block("yaml", wrong), environment) == set()
