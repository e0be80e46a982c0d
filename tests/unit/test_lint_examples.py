"""The linter on the configurations that LiteLLM ships: no false alarm."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

from litellm_systemd.gateway.config import ConfigError, LintFinding, lint, read_config


def example_configurations() -> list[Path]:
    """The YAML files that LiteLLM ships as examples of a configuration, or of a part of one."""
    spec = importlib.util.find_spec("litellm")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "proxy"
    found = [*folder.glob("*.yaml"), *(folder / "example_config_yaml").glob("*.yaml")]
    return sorted([*found, *(folder / "guardrails" / "guardrail_hooks").rglob("example_config.yaml")])


EXAMPLES = example_configurations()
MISTAKES = yaml.safe_load(Path(__file__).with_name("lint_examples.yml").read_text())
VALID = {"LITELLM_MASTER_KEY": "sk-good", "AWS_REGION_NAME": "us-east-1"}


def findings_of(path: Path) -> tuple[str, ...]:
    """The findings of lint for an example, with every referenced variable set, as `code where`."""
    try:
        config = read_config(path)
    except ConfigError as error:
        return tuple(describe(each) for each in error.findings)
    environ = {name: "us-east-1" if "REGION" in name else "x" for _, name in config.references}
    return tuple(describe(each) for each in lint(config, {**VALID, **environ}))


def describe(finding: LintFinding) -> str:
    place = ":".join(str(step) for step in (finding.place.line, finding.place.column) if step is not None)
    return f"{finding.code} {place} {finding.place.key}".strip()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_litellms_own_examples_raise_no_false_alarm(path: Path) -> None:
    """For the configurations that LiteLLM ships, lint reports only what lint_examples.yml gives a reason for."""
    assert sorted(findings_of(path)) == sorted(MISTAKES.get(f"{path.parent.name}/{path.name}", {}))


def test_there_are_examples() -> None:
    """There are examples for the test above, and lint_examples.yml has no unused entry."""
    assert len(EXAMPLES) > 20
    assert MISTAKES.keys() <= {f"{path.parent.name}/{path.name}" for path in EXAMPLES}
