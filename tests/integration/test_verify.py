"""verify against the real LiteLLM, whose models answer from its configuration: no network, no cost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from litellm_systemd.client import Gateway
from litellm_systemd.contract import ExitCode
from litellm_systemd.report import Check, Outcome, Report
from litellm_systemd.verify import verify
from tests.integration.litellm_process import run_litellm

KEY = "sk-canary-master-3f9a27c1"
#: In the configuration's order. LiteLLM lists the alias before all of them.
MODELS = ("primary", "second", "throttled", "covered", "unpaid", "vectors")
NAMES = (*MODELS, "old-name")
CONFIG = """
model_list:
  - model_name: primary
    litellm_params: {model: openai/a, api_key: none, mock_response: pong from primary}
  - model_name: second
    litellm_params: {model: openai/b, api_key: none, mock_response: pong from second}
  - model_name: throttled
    litellm_params: {model: openai/c, api_key: none, mock_response: litellm.RateLimitError}
  - model_name: covered
    litellm_params: {model: openai/d, api_key: none, mock_response: litellm.InternalServerError}
  - model_name: unpaid
    litellm_params: {model: bedrock/us.amazon.nova-2-lite-v1:0, aws_region_name: us-east-1}
  - model_name: vectors
    litellm_params: {model: bedrock/amazon.titan-embed-text-v2:0, aws_region_name: us-east-1}
router_settings:
  num_retries: 0
  fallbacks: [{covered: [second]}]
  model_group_alias: {old-name: primary}
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
"""
PLAIN, PLAIN_V1, STREAMED, STREAMED_V1 = (
    "chat {} (/chat/completions)",
    "chat {} (/v1/chat/completions)",
    "chat {}, streamed (/chat/completions)",
    "chat {}, streamed (/v1/chat/completions)",
)
CHATS = (PLAIN, PLAIN_V1, STREAMED, STREAMED_V1)
SERVICE = ("liveliness", "readiness", "models", "refuses a missing key", "refuses a wrong key")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A LiteLLM Proxy on a free port of loopback, ready to serve."""
    config = tmp_path_factory.mktemp("verify") / "config.yaml"
    config.write_text(CONFIG)
    with run_litellm(config, {"LITELLM_MASTER_KEY": KEY}) as running:
        yield Gateway(f"http://127.0.0.1:{running.port}", KEY)


def check(report: Report, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)


def having(report: Report, outcome: Outcome) -> tuple[str, ...]:
    return tuple(check.name for check in report.checks if check.outcome is outcome)


def of(model: str) -> tuple[str, ...]:
    return tuple(name.format(model) for name in CHATS)


def test_a_sound_gateway_passes(gateway: Gateway) -> None:
    """The real LiteLLM, set up well, passes all nine checks, and the primary model is the one that is asked."""
    report = verify(gateway, expected=NAMES)
    assert having(report, Outcome.OK) == (*SERVICE, *of("primary")), report.as_json()
    assert len(report.checks) == 9
    assert report.exit_code is ExitCode.OK
    assert report.title == f"verified {gateway.base_url}: 9 checks passed"
    assert check(report, PLAIN.format("primary")).detail == "“pong from primary”"
    assert check(report, STREAMED.format("primary")).detail.startswith("“pong from primary”, first token after ")
    assert all(check.seconds is not None for check in report.checks)
    assert sorted(report.data["models"]) == sorted(NAMES)
    assert report.data["litellm_version"].count(".") >= 2
    assert len(report.data["first_token_seconds"]) == 2
    assert KEY not in report.as_json()


def test_the_primary_is_found_without_the_configuration(gateway: Gateway) -> None:
    """When nobody says what to expect, the first model of the configuration is asked, not the alias listed first."""
    report = verify(gateway)
    assert having(report, Outcome.OK) == (*SERVICE, *of("primary"))
    assert report.data["models"][0] == "old-name"


def test_a_wrong_key_is_told_as_that(gateway: Gateway) -> None:
    """With a key that the service doesn't take, the list fails with that cause and the chats aren't tried."""
    wrong = "sk-canary-not-the-master-key"
    report = verify(Gateway(gateway.base_url, wrong), expected=NAMES)
    assert having(report, Outcome.FAILED) == ("models",)
    assert having(report, Outcome.SKIPPED) == of("primary")
    assert check(report, "models").detail.startswith("HTTP 4")
    assert "another key" in check(report, "models").hint
    assert wrong not in report.as_json()
    assert report.exit_code is ExitCode.FAILED


def test_a_name_that_the_service_does_not_have(gateway: Gateway) -> None:
    """A service that runs an older configuration than the one on disk is found out."""
    report = verify(gateway, expected=(*NAMES, "added-today"))
    assert having(report, Outcome.FAILED) == ("models",)
    assert check(report, "models").detail == "missing: added-today"
    assert having(report, Outcome.OK)[-4:] == of("primary")


def test_a_model_that_fails(gateway: Gateway) -> None:
    """A model whose provider refuses fails once, with the provider's words and what to do."""
    report = verify(gateway, expected=NAMES, models=("throttled",))
    assert having(report, Outcome.FAILED) == (PLAIN.format("throttled"),)
    assert having(report, Outcome.SKIPPED) == of("throttled")[1:]
    failed = check(report, PLAIN.format("throttled"))
    assert failed.detail == "HTTP 429: litellm.RateLimitError: this is a mock rate limit error"
    assert "throttles" in failed.hint


def test_a_model_that_does_not_exist(gateway: Gateway) -> None:
    """A name misspelt after --model is answered with where the right ones stand."""
    report = verify(gateway, expected=NAMES, models=("primery",))
    assert having(report, Outcome.FAILED) == (PLAIN.format("primery"),)
    assert "model=primery" in check(report, PLAIN.format("primery")).detail
    assert "name that the configuration has" in check(report, PLAIN.format("primery")).hint


def test_a_fallback_is_seen(gateway: Gateway) -> None:
    """A model that only its fallback answers for is a warning that names the fallback, plain and streamed."""
    report = verify(gateway, expected=NAMES, models=("covered",))
    assert having(report, Outcome.WARNING) == of("covered")
    assert check(report, PLAIN.format("covered")).detail.startswith("the fallback second answered instead")


def test_all_models(gateway: Gateway) -> None:
    """--all-models asks each model and alias, one after the other; one that can't chat is named, not asked."""
    report = verify(gateway, expected=NAMES, all_models=True)
    sound = ("primary", "second", "old-name")
    assert having(report, Outcome.OK) == (*SERVICE, *(name for model in sound for name in of(model)))
    assert having(report, Outcome.WARNING) == of("covered")
    assert having(report, Outcome.FAILED) == (PLAIN.format("throttled"), PLAIN.format("unpaid"))
    assert having(report, Outcome.SKIPPED) == (*of("throttled")[1:], *of("unpaid")[1:], "chat vectors")
    # Here and not in a test of its own: LiteLLM rests the model after this and would answer with that.
    assert "Unable to locate credentials" in check(report, PLAIN.format("unpaid")).detail
    assert "instance profile" in check(report, PLAIN.format("unpaid")).hint
    assert check(report, "chat vectors").detail == "its mode is embedding, not chat"
    assert report.data["chat_models"] == [name for name in NAMES if name != "vectors"]


def test_a_proxy_of_the_environment_is_not_asked(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY and its kin don't stand between verify and a gateway on this machine."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        # Nothing listens on port 1, so that a single request through it would fail.
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert verify(gateway, expected=NAMES).exit_code is ExitCode.OK
