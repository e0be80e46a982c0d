"""The snapshot of LiteLLM: what it has, for two versions, and how it is read."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from litellm_systemd.gateway import snapshot as reader
from litellm_systemd.gateway.config import lint, parse_config
from litellm_systemd.gateway.snapshot import SHIPPED, Resolved, Snapshot, load_snapshot, read_shipped, read_snapshot

TOP = Path(__file__).parents[2]
#: A version whose dependencies do not resolve: its Router is taken apart. scripts/test.sh installs it alone.
LATER = TOP / ".cache" / "litellm-later"
IN_USE = yaml.safe_load(Path(__file__).with_name("names_in_use.yml").read_text())

NAMES = 1000


def taken_from(folder: Path | None, calls: list[dict[str, Any]], target: Path) -> tuple[Snapshot, list[Any]]:
    """The snapshot of the installed LiteLLM, or of the one in a folder, and its answers to calls."""
    path = [str(TOP / "installer"), str(TOP)]
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    done = subprocess.run(
        (sys.executable, "-m", "tests.unit.snapshot_of"),
        input=json.dumps(calls),
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join([str(folder), *path] if folder else path), **coverage},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    target.write_text(result["snapshot"])
    found = read_snapshot(target)
    assert found is not None
    return found, result["answers"]


def calls() -> list[dict[str, Any]]:
    """A thousand ways to name a model: of the model map, of the providers, misspelt, with wildcards and URLs."""
    shipped, chosen = read_shipped(), random.Random(15)  # the same names in each run
    providers = sorted(shipped.providers - UNASKED)
    names = sorted(name for name in shipped.models if name.partition("/")[0] not in UNASKED)
    urls = [url for url, _ in shipped.routes.endpoints]
    found: list[dict[str, Any]] = [{"model": name} for name in chosen.sample(names, 400)]
    found += [{"model": f"{provider}/{chosen.choice(['m', '*', 'a/b', ''])}"} for provider in providers]
    found += [{"model": provider} for provider in chosen.sample(providers, 20)]
    while len(found) < NAMES:
        name, provider = chosen.choice(names), chosen.choice(providers)
        bare = name.rpartition("/")[2]
        call: dict[str, Any] = chosen.choice(
            [
                {"model": bare},
                {"model": name[:-1]},
                {"model": f"{bare}-next"},
                {"model": f"{provider}/{bare}"},
                {"model": bare, "custom_llm_provider": provider},
                {"model": f"{provider}/{bare}", "custom_llm_provider": provider},
                {"model": f"my-llm/{bare}", "custom_providers": ["my-llm"]},
                {"model": f"my-llm/{bare}"},
                {"model": "local", "api_base": chosen.choice(urls)},
                {"model": bare, "api_base": f"{chosen.choice(urls).rstrip('/')}/more"},
                {"model": chosen.choice(FORMS).replace("NAME", bare)},
            ]
        )
        found.append(call)
    return found


#: Providers that start a login, or need an address, when they are asked.
UNASKED = {"github_copilot", "chatgpt", "ragflow"}

#: Names that LiteLLM evaluates by their form.
FORMS = (
    *("ft:gpt-4o-2024-08-06:acme::a1", "ft:gpt-3.5-turbo:acme", "ft:NAME", "gpt-image-9", "dall-e-3", "NAME*", "*"),
    *(
        "us.anthropic.claude-opus-9",
        "anthropic.claude-next-v9:0",
        "claude-newfamily-9",
        "claude-3-other",
        "amazon_nova/x",
    ),
    *("us.NAME", "owner/model:" + 64 * "a", "owner/model:latest", "azure/NAME", "cohere/NAME", "anthropic/NAME"),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, list[Any], Path]:
    """What the installed LiteLLM says."""
    path = tmp_path_factory.mktemp("installed") / "litellm.json"
    return *taken_from(None, calls(), path), path


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    if not LATER.is_dir():
        pytest.skip("no second LiteLLM: scripts/test.sh installs it")
    return taken_from(LATER, [], tmp_path_factory.mktemp("later") / "litellm.json")[0]


@pytest.mark.slow
def test_the_shipped_snapshot_is_that_of_the_locked_litellm(installed: tuple[Snapshot, list[Any], Path]) -> None:
    """A checkout knows what the LiteLLM in the lock knows; `python -m …litellm_snapshot` writes it again."""
    assert installed[2].read_text() == SHIPPED.read_text()


@pytest.mark.slow
def test_a_thousand_names_resolve_as_in_litellm(installed: tuple[Snapshot, list[Any], Path]) -> None:
    """Every form of a model's name leads to the provider and the model that LiteLLM finds, or to none as there."""
    found, answers, _ = installed
    wrong = []
    for call, expected in zip(calls(), answers, strict=True):
        options = {"provider": call.get("custom_llm_provider"), "api_base": call.get("api_base")}
        actual = found.resolve(call["model"], **options, custom_providers=tuple(call.get("custom_providers", ())))
        if (actual and [actual.provider, actual.model]) != expected:
            wrong.append((call, actual, expected))
    assert len(answers) == NAMES
    assert wrong == [], wrong


def missing(snapshot: Snapshot) -> dict[str, list[str]]:
    """The names in use that a snapshot lacks."""
    lists = {
        **snapshot.sections,
        **{name: getattr(snapshot, name) for name in IN_USE if name not in snapshot.sections},
    }
    lacks = {name: [each for each in names if each not in lists[name]] for name, names in IN_USE.items()}
    return {name: names for name, names in lacks.items() if names}


def test_names_in_use_are_known() -> None:
    """What documentation and public configurations use is known, so that no false alarm is raised."""
    assert missing(read_shipped()) == {}


@pytest.mark.slow
def test_names_in_use_are_known_of_a_later_litellm(later: Snapshot) -> None:
    """A LiteLLM whose code has moved to other modules gives a snapshot as complete."""
    assert later.version != read_shipped().version
    assert missing(later) == {}


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a release that this process seems to run from."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    load_snapshot.cache_clear()
    yield tmp_path / reader.SNAPSHOT
    load_snapshot.cache_clear()


def test_the_snapshot_of_the_release_is_used(release: Path) -> None:
    """A release with another LiteLLM is checked against what that LiteLLM knows."""
    release.write_text(SHIPPED.read_text().replace(f'"version":"{read_shipped().version}"', '"version":"9.9"'))
    assert load_snapshot().version == "9.9"


NEWER = """\
model_list: [{model_name: a, litellm_params: {model: new_provider/x, mock_response: hi}}]
new_section: {}
general_settings: {new_guard: 1}
router_settings: {new_strategy: 1}
"""


def test_names_of_another_litellm_are_those_of_its_snapshot(release: Path) -> None:
    """A setting, section or provider that only the LiteLLM of a release has is accepted there, and nowhere else."""
    config = parse_config(NEWER, "f.yml")
    environ = {"LITELLM_MASTER_KEY": "sk-good"}
    codes = [finding.code for finding in lint(config, environ)]
    assert codes == ["unknown-provider", "unknown-setting", "unknown-setting", "unknown-setting"]
    data = json.loads(SHIPPED.read_text())
    data["providers"].append("new_provider")
    for section, name in (
        ("", "new_section"),
        ("general_settings", "new_guard"),
        ("router_settings", "new_strategy"),
    ):
        data["sections"][section][name] = ["", []]
    release.write_text(json.dumps(data))
    load_snapshot.cache_clear()
    assert lint(config, environ) == ()


def test_every_name_in_use_passes_the_linter() -> None:
    """No setting that documentation or public configurations use is unknown, wherever LiteLLM reads it."""
    settings = {
        name: dict.fromkeys(IN_USE[name]) for name in ("general_settings", "litellm_settings", "router_settings")
    }
    model = {"model_name": "a", "litellm_params": {"model": "openai/x", "mock_response": "hi"}}
    text = yaml.safe_dump({"model_list": [model], **settings})
    unknown = [str(each) for each in lint(parse_config(text, "f.yml"), {}) if "setting" in each.code]
    assert unknown == []


def test_a_check_imports_no_litellm() -> None:
    """Checking a configuration imports neither LiteLLM nor any other slow module."""
    code = (
        "import sys; from litellm_systemd.gateway.config import lint, parse_config;"
        f"lint(parse_config({NEWER!r}, 'f.yml'), {{}});"
        "print(sorted({'litellm', 'boto3', 'botocore', 'requests', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"format": 0}', SHIPPED.read_text()[:-9]])
def test_without_a_usable_snapshot_the_shipped_one_is_used(release: Path, content: str | None) -> None:
    """A missing, damaged or foreign snapshot of a release does not stop a check."""
    if content is not None:
        release.write_text(content)
    assert load_snapshot() == read_shipped()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("us.anthropic.claude-sonnet-4-6", Resolved("bedrock", "us.anthropic.claude-sonnet-4-6")),
        ("anthropic.claude-3-haiku-20240307-v1:0", Resolved("bedrock", "anthropic.claude-3-haiku-20240307-v1:0")),
        ("dall-e-3", Resolved("openai", "dall-e-3")),
        ("bedrock/*", Resolved("bedrock", "*")),
        ("gpt-of-tomorrow", None),
        ("bedrok/x", None),
    ],
)
def test_resolving_a_name(model: str, expected: Resolved | None) -> None:
    """A name resolves without LiteLLM, by its prefix or by itself; a name that no provider has does not."""
    assert read_shipped().resolve(model) == expected


def test_a_callback_has_the_packages_that_it_needs() -> None:
    """For a callback that LiteLLM's own dependencies do not cover, the packages to install are known."""
    shipped = read_shipped()
    assert "langfuse" in shipped.callbacks["langfuse"].packages
    assert shipped.callbacks["prometheus"].packages == ()  # each release has its package
    assert shipped.callbacks["lago"].packages == ()


def test_needs_are_of_packages_that_a_release_lacks() -> None:
    """No package is named that every release has."""
    shipped = read_shipped()
    groups = (shipped.callbacks, shipped.guardrails, shipped.cache_types, shipped.provider_needs)
    modules = {name.partition(".")[0] for group in groups for need in group.values() for name in need.modules}
    assert modules.isdisjoint(("boto3", "redis", "httpx", "aiohttp", "litellm", "prometheus_client"))
