"""verify against the real LiteLLM with the demo model and mocked ones: no network, no cost."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from litellm_systemd.cli import run_command
from litellm_systemd.client.gateway import Gateway
from litellm_systemd.contract import ExitCode
from litellm_systemd.report.report import Check, Outcome, Report
from litellm_systemd.verify.run import Scope, verify
from tests.integration.runtime_service import Service
from tests.integration.stub_gateway import Handler, stub, tool_answer

KEY = "sk-canary-master-3f9a27c1"
#: In the order of the configuration. LiteLLM lists the alias first.
MODELS = ("primary", "second", "throttled", "covered", "unpaid", "vectors", "agent", "mocked")
NAMES = (*MODELS, "old-name")
CONFIG = """
model_list:
  - model_name: primary
    litellm_params: {model: litellm-systemd-demo/a}
  - model_name: second
    litellm_params: {model: litellm-systemd-demo/b}
  - model_name: throttled
    litellm_params: {model: openai/c, api_key: none, mock_response: litellm.RateLimitError}
  - model_name: covered
    litellm_params: {model: openai/d, api_key: none, mock_response: litellm.InternalServerError}
  - model_name: unpaid
    litellm_params: {model: bedrock/us.amazon.nova-2-lite-v1:0, aws_region_name: us-east-1}
  - model_name: vectors
    litellm_params: {model: openai/text-embedding-3-small, api_key: none, mock_response: [0.1, 0.2, 0.3]}
  - model_name: agent
    litellm_params: {model: openai/e, api_base: "http://127.0.0.1:%PORT%/v1", api_key: none}
  - model_name: mocked
    litellm_params: {model: openai/gpt-4o, api_key: none, mock_response: hi}
router_settings:
  num_retries: 0
  fallbacks: [{covered: [second]}]
  model_group_alias: {old-name: primary}
litellm_settings:
  custom_provider_map:
    - {provider: litellm-systemd-demo, custom_handler: litellm_systemd.demo.provider.demo_model}
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
APIS = (
    "tools {}",
    "messages {} (/v1/messages)",
    "messages {}, streamed (/v1/messages)",
    "responses {} (/v1/responses)",
)
VECTORS = "embeddings vectors (/v1/embeddings)"
SERVICE = ("liveliness", "readiness", "models", "refuses a missing key", "refuses a wrong key")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with stub() as upstream:
        upstream.faults = {f"{kind}/v1/chat/completions": be_agent for kind in ("", "streamed ")}
        config = CONFIG.replace("%PORT%", str(upstream.server_port))
        with Service(tmp_path_factory.mktemp("verify"), config, LITELLM_MASTER_KEY=KEY) as running:
            running.await_ready()
            yield Gateway(f"http://127.0.0.1:{running.port}", KEY)


def be_agent(handler: Handler) -> None:
    """A provider whose model calls the given tool and reads its result."""
    head = {"id": "x", "object": "chat.completion", "created": 1, "model": "e"}
    if handler.body.get("stream"):
        chunk = {**head, "object": "chat.completion.chunk"}
        said = {"index": 0, "delta": {"role": "assistant", "content": "pong"}, "finish_reason": None}
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        handler.stream(*(json.dumps({**chunk, "choices": [choice]}) for choice in (said, end)), "[DONE]")
        return
    message = tool_answer(handler.body["messages"]) if handler.body.get("tools") else {"content": "pong"}
    reason = "tool_calls" if "tool_calls" in message else "stop"
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    usage = {"prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35}
    handler.reply(200, {**head, "choices": [choice], "usage": usage})


def check(report: Report, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)


def having(report: Report, outcome: Outcome) -> tuple[str, ...]:
    return tuple(check.name for check in report.checks if check.outcome is outcome)


def of(model: str, names: tuple[str, ...] = CHATS) -> tuple[str, ...]:
    return tuple(name.format(model) for name in names)


#: The checks of the primary model.
PRIMARY = (*of("primary"), *of("primary", APIS))


@pytest.mark.parametrize("words", [("key", "create", "ci"), ("user", "list"), ("team", "list"), ("spend",)])
def test_no_database(
    gateway: Gateway, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a database, the verbs that need one say how to get one."""
    monkeypatch.setenv("LITELLM_MASTER_KEY", KEY)
    code = run_command([*words, "--base-url", gateway.base_url])
    assert code == ExitCode.UNAVAILABLE
    assert capsys.readouterr().err == (
        f"litellmctl: {gateway.where} runs without a database, which keys, users, teams and spend need\n"
        "  Set DATABASE_URL in .env and install again, or let the install set up PostgreSQL:"
        " sudo litellmctl install --with-postgres\n"
    )


def test_a_healthy_gateway_passes(gateway: Gateway) -> None:
    """A correctly configured LiteLLM passes every check; each API is tested with the primary model."""
    report = verify(gateway, Scope(NAMES))
    assert having(report, Outcome.OK) == (*SERVICE, *PRIMARY, VECTORS), report.as_json()
    assert report.exit_code is ExitCode.OK
    assert report.title == f"verified {gateway.base_url}: 14 checks passed"
    assert check(report, PLAIN.format("primary")).detail == "“This is the demo configuration, in plac…”"
    assert check(report, STREAMED.format("primary")).detail.startswith(
        "“This is the demo configuration, in plac…”, first token after "
    )
    assert check(report, VECTORS).detail == "3 dimensions"
    assert all(check.seconds is not None for check in report.checks if check.outcome is Outcome.OK)
    assert report.notes == ()  # a mocked model costs nothing
    assert sorted(report.data["models"]) == sorted(NAMES)
    assert report.data["litellm_version"].count(".") >= 2
    assert len(report.data["first_token_seconds"]) == 3
    assert KEY not in report.as_json()


def test_the_primary_is_found_without_the_configuration(gateway: Gateway) -> None:
    """Without a configuration, verify tests the first model of the service's configuration, not the alias listed
    first.
    """
    report = verify(gateway)
    assert having(report, Outcome.OK) == (*SERVICE, *PRIMARY, VECTORS)
    assert report.data["models"][0] == "old-name"


def test_a_wrong_key(gateway: Gateway) -> None:
    """With a key that the service rejects, the list of models fails with that cause and the chats are skipped."""
    wrong = "sk-canary-not-the-master-key"
    report = verify(Gateway(gateway.base_url, wrong), Scope(NAMES))
    assert having(report, Outcome.FAILED) == ("models",)
    assert having(report, Outcome.SKIPPED) == (*of("primary"), *of("primary", APIS))
    assert check(report, "models").detail.startswith("HTTP 4")
    assert "another key" in check(report, "models").hint
    assert wrong not in report.as_json()
    assert report.exit_code is ExitCode.FAILED


def test_a_name_that_the_service_does_not_have(gateway: Gateway) -> None:
    """A service that runs an older configuration than the one on disk is detected."""
    report = verify(gateway, Scope((*NAMES, "added-today")))
    assert having(report, Outcome.FAILED) == ("models",)
    assert check(report, "models").detail == "missing: added-today"
    assert having(report, Outcome.OK)[-9:] == (*PRIMARY, VECTORS)


def test_a_model_that_fails(gateway: Gateway) -> None:
    """A model whose provider refuses fails once, with the provider's message and the remedy."""
    report = verify(gateway, Scope(NAMES, models=("throttled",)))
    assert having(report, Outcome.FAILED) == (PLAIN.format("throttled"),)
    assert having(report, Outcome.SKIPPED) == (*of("throttled")[1:], *of("throttled", APIS))
    failed = check(report, PLAIN.format("throttled"))
    assert failed.detail == "HTTP 429: litellm.RateLimitError: this is a mock rate limit error"
    assert "throttles" in failed.hint


def test_an_unknown_model(gateway: Gateway) -> None:
    """An unknown name after --model is an error that says where the valid names are listed."""
    report = verify(gateway, Scope(NAMES, models=("primery",)))
    assert having(report, Outcome.FAILED) == (PLAIN.format("primery"),)
    assert "model=primery" in check(report, PLAIN.format("primery")).detail
    assert "Request a name from the configuration" in check(report, PLAIN.format("primery")).hint


def test_a_fallback_is_detected(gateway: Gateway) -> None:
    """A model that only its fallback answers for is a warning that names the fallback, plain and streamed."""
    report = verify(gateway, Scope(NAMES, models=("covered",)))
    assert having(report, Outcome.WARNING) == (*of("covered"), *of("covered", APIS[:-1]))
    assert check(report, PLAIN.format("covered")).detail.startswith("the fallback second answered instead")


def test_all_models(gateway: Gateway) -> None:
    """--all-models tests each model and alias one after the other; a model without chat is reported and skipped."""
    report = verify(gateway, Scope(NAMES, all_models=True))
    rest = tuple(name for model in ("second", "agent", "mocked", "old-name") for name in of(model))
    assert having(report, Outcome.OK) == (*SERVICE, *PRIMARY, *rest, VECTORS)
    assert having(report, Outcome.WARNING) == of("covered")
    assert having(report, Outcome.FAILED) == (PLAIN.format("throttled"), PLAIN.format("unpaid"))
    assert having(report, Outcome.SKIPPED) == (*of("throttled")[1:], *of("unpaid")[1:], "chat vectors")
    # Not in a test of its own: after this LiteLLM puts the model into a cooldown and answers with that.
    assert "Unable to locate credentials" in check(report, PLAIN.format("unpaid")).detail
    assert "instance profile" in check(report, PLAIN.format("unpaid")).hint
    assert check(report, "chat vectors").detail == "its mode is embedding, not chat"
    assert report.data["chat_models"] == [name for name in NAMES if name != "vectors"]


def test_proxies_of_the_environment_are_not_used(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """verify connects to a gateway on this machine directly, whatever HTTP_PROXY and similar variables say."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        # Nothing listens on port 1, so a single request through it would fail.
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert verify(gateway, Scope(NAMES)).exit_code is ExitCode.OK


def test_tools(gateway: Gateway) -> None:
    """A model that calls tools passes if it calls the tool and its answer contains the tool's result."""
    found = check(verify(gateway, Scope(NAMES, models=("agent",))), "tools agent")
    assert found.outcome is Outcome.OK
    assert found.detail == "“The code is 7319.”"
    assert found.data == {"input_tokens": 60, "output_tokens": 10, "billed": True}


def test_a_mock_that_litellm_does_not_stream(gateway: Gateway) -> None:
    """A model with mock_response passes, although LiteLLM streams its text through the chat API alone."""
    report = verify(gateway, Scope(NAMES, models=("mocked",)))
    assert having(report, Outcome.FAILED) == (), report.as_json()
    assert APIS[2].format("mocked") in having(report, Outcome.SKIPPED)


def test_concurrent_requests(gateway: Gateway) -> None:
    """The real LiteLLM answers twenty simultaneous chats."""
    found = check(verify(gateway, Scope(NAMES, concurrency=20)), "20 at once primary")
    assert (found.outcome, found.data["requests"], found.data["failed"]) == (Outcome.OK, 20, 0)


def test_full(gateway: Gateway) -> None:
    """--full also sends a long prompt and simultaneous requests."""
    report = verify(gateway, Scope(NAMES, full=True))
    names = ("long prompt primary", "8 at once primary")
    assert {check(report, name).outcome for name in names} == {Outcome.OK}, report.as_json()
