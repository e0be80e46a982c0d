"""The checked-in names against the installed LiteLLM: if they differ, the lists must be updated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from litellm_systemd.gateway import installed_litellm, known
from litellm_systemd.gateway.config import ConfigError, LintFinding, lint, parse_config, read_config
from litellm_systemd.gateway.installed_litellm import Part, is_known_to_litellm
from litellm_systemd.gateway.lint import SECTIONS
from litellm_systemd.gateway.models import AWS_PARAMS
from tests.unit import litellm_names

EXAMPLES = litellm_names.example_configurations()
MISTAKES = yaml.safe_load(Path(__file__).with_name("lint_examples.yml").read_text())
VALID = {"LITELLM_MASTER_KEY": "sk-good", "AWS_REGION_NAME": "us-east-1"}


@pytest.mark.parametrize(
    ("known", "derive"),
    [
        pytest.param(known.TOP_LEVEL - {"include"}, litellm_names.top_level, id="top level"),
        pytest.param(known.GENERAL, litellm_names.general_settings, id="general_settings"),
        pytest.param(known.LITELLM, litellm_names.litellm_settings, id="litellm_settings"),
        pytest.param(known.ROUTER, litellm_names.router_settings, id="router_settings"),
        pytest.param(known.PROVIDERS, litellm_names.providers, id="providers"),
    ],
)
def test_the_lists_equal_litellms_names(known: frozenset[str], derive: Callable[[], frozenset[str]]) -> None:
    """The lists contain every name of LiteLLM, so correct settings pass, and no other, so mistakes are found."""
    assert sorted(derive() - known) == []
    assert sorted(known - derive()) == []


def test_include_is_known() -> None:
    """`include`, which LiteLLM processes before all other keys, is known too."""
    assert "include" in known.TOP_LEVEL
    assert SECTIONS.keys() <= known.TOP_LEVEL


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


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The source of a LiteLLM with names that gateway.known does not contain."""
    package = tmp_path / "litellm"
    for name, text in NEWER.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "litellm", raising=False)
    clear_caches()
    yield package
    clear_caches()


def clear_caches() -> None:
    """Clear the caches of the search."""
    installed_litellm.find_package.cache_clear()
    is_known_to_litellm.cache_clear()


NEWER = {
    "__init__.py": "raise SystemExit('imported')\n\nnew_switch: bool = False\n",
    "router.py": "class Router:\n    def __init__(\n        self,\n        new_strategy: str = '',\n    ): ...\n",
    "proxy/proxy_server.py": 'class ProxyConfig:\n    def load(self):\n        config.get("new_section", None)\n',
    "proxy/auth/new.py": 'general_settings.get("new_guard", False)\ngeneral_settings.get(\n    "new_limit"\n)\n',
    "proxy/_types.py": "class ConfigGeneralSettings:\n    new_field: bool | None = None\n",
    "types/utils.py": 'class LlmProviders(str, Enum):\n    NEW = "new_provider"\n',
    "llms/openai_like/providers.json": '{\n  "new-json": {}\n}\n',
    "llms/bedrock/base_aws_llm.py": 'region = params.pop("aws_new_parameter", None)\n',
}

OF_A_NEWER_ONE = """\
model_list:
  - {model_name: a, litellm_params: {model: new_provider/x}}
  - {model_name: b, litellm_params: {model: new-json/x}}
  - {model_name: c, litellm_params: {model: bedrock/x, aws_new_parameter: 1}}
new_section: {}
general_settings: {new_guard: 1, new_limit: 2, new_field: 3}
litellm_settings: {new_switch: 1}
router_settings: {new_strategy: 1}
"""


@pytest.mark.usefixtures("newer")
def test_names_of_a_newer_litellm_are_accepted() -> None:
    """Names that the installed LiteLLM defines are accepted without importing it, even if the lists are older."""
    assert lint(parse_config(OF_A_NEWER_ONE, "f.yml"), VALID) == ()


@pytest.mark.usefixtures("newer")
def test_a_newer_litellm_accepts_nothing_else() -> None:
    """A name that a newer LiteLLM defines in another section, or not at all, is still reported."""
    text = OF_A_NEWER_ONE.replace("{new_switch: 1}", "{new_guard: 1}").replace("new_provider/", "new_providers/")
    found = [(each.code, each.place.line) for each in lint(parse_config(text, "f.yml"), VALID)]
    assert found == [("unknown-provider", 2), ("unknown-setting", 7)]


def test_without_the_newer_litellm_its_names_are_reported() -> None:
    """Without the newer LiteLLM all of these names are reported."""
    found = {each.code for each in lint(parse_config(OF_A_NEWER_ONE, "f.yml"), VALID)}
    assert found == {"unknown-provider", "unknown-aws-parameter", "unknown-setting"}


@pytest.mark.parametrize(
    ("part", "known"),
    [
        pytest.param(Part.TOP_LEVEL, known.TOP_LEVEL - {"include"}, id="top level"),
        pytest.param(Part.ROUTER, known.ROUTER, id="router_settings"),
        pytest.param(Part.PROVIDER, known.PROVIDERS, id="providers"),
        pytest.param(Part.AWS_PARAMETER, AWS_PARAMS, id="parameters"),
    ],
)
def test_the_search_finds_what_litellm_has(part: Part, known: frozenset[str]) -> None:
    """The search for newer names finds every name of the installed LiteLLM."""
    assert [name for name in sorted(known) if not is_known_to_litellm(part, name)] == []


@pytest.mark.slow
def test_the_lists_are_generated() -> None:
    """`python -m tests.unit.litellm_names` generates the checked-in file."""
    text = Path(known.__file__).read_text()
    assert litellm_names.rewrite(text) == text
