"""verify --caching: the shipped configurations with a Bedrock that caches, and gateways that do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from litellm_systemd.cli import cli
from litellm_systemd.client.gateway import Gateway
from litellm_systemd.contract import ExitCode
from litellm_systemd.report.report import Check, Outcome, Report
from litellm_systemd.verify.checks import CHAT, MESSAGES, RESPONSES
from litellm_systemd.verify.costly_checks import MOST_REQUESTS
from litellm_systemd.verify.run import Scope, verify
from tests.fakes import Cloud, run_cloud
from tests.integration.litellm_process import KEY, run_litellm
from tests.integration.stub_gateway import KEY as STUB_KEY
from tests.integration.stub_gateway import Answerer, Handler, Stub, healthy

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL = "claude-sonnet-5-5"
APIS = (CHAT, MESSAGES, RESPONSES)


@pytest.fixture(scope="module")
def bedrock() -> Iterator[Cloud]:
    with run_cloud() as aws:
        yield aws


@pytest.fixture(scope="module")
def caching(bedrock: Cloud) -> Iterator[Gateway]:
    variables = {**bedrock.environment, "AWS_REGION_NAME": "us-east-1"}
    with run_litellm(CONFIGS / "iam_role_config.yml", variables) as running:
        yield Gateway(f"http://127.0.0.1:{running.port}", KEY)


def caching_checks(report: Report) -> dict[str, Check]:
    """The checks of the cache, by the path of their API."""
    checks = {check.name.rpartition("(")[2].rstrip(")"): check for check in report.checks if "caching" in check.name}
    assert list(checks) == list(APIS)
    return checks


def test_the_second_prompt_is_read_from_the_cache(caching: Gateway) -> None:
    """With the default configuration, at each of the three APIs the first prompt is written to the cache and the
    second is read from it, without cache points of the client and with a billing header that changes; the report says
    what both cost.
    """
    report = verify(caching, Scope(models=(MODEL,), caching=True))
    for check in caching_checks(report).values():
        assert check.outcome is Outcome.OK, check
        first, second = check.data["caching"]
        assert first["written"] == second["read"] > 4096
        assert first["read"] == second["written"] == 0
        assert first["prompt"] == second["prompt"] >= first["written"]
        assert second["cost"] < first["cost"] / 10
        assert f"${first['cost']:.4f} and ${second['cost']:.4f} in place of $" in check.detail


def test_the_converse_route_fails_the_check(bedrock: Cloud, tmp_path: Path) -> None:
    """With bedrock/converse/ the billing header makes /v1/messages miss the cache: the check fails with the remedy.
    If this test fails, LiteLLM has changed.
    """
    config = tmp_path / "converse.yml"
    config.write_text(
        "model_list:\n"
        f"  - {{model_name: {MODEL}, litellm_params: {{model: bedrock/converse/us.anthropic.{MODEL}}}}}\n"
        "litellm_settings: {enable_anthropic_prompt_caching: true, drop_params: true}\n"
        "general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}\n"
    )
    variables = {**bedrock.environment, "AWS_REGION_NAME": "us-east-1"}
    with run_litellm(config, variables) as running:
        report = verify(Gateway(f"http://127.0.0.1:{running.port}", KEY), Scope(models=(MODEL,), caching=True))
    outcomes = {path: check.outcome for path, check in caching_checks(report).items()}
    assert outcomes == {CHAT: Outcome.OK, MESSAGES: Outcome.FAILED, RESPONSES: Outcome.OK}
    hint = caching_checks(report)[MESSAGES].hint
    assert "leave converse/ out" in hint
    assert "changes regions" in hint


def test_a_mocked_model_is_skipped(tmp_path: Path, server: Stub) -> None:
    """A model that answers without a provider caches nothing: the check is skipped, with the reason."""
    scope = Scope(models=("primary",), caching=True, mocked=frozenset({"primary"}))
    checks = caching_checks(verify(Gateway(server.url, STUB_KEY, 20.0), scope))
    assert {check.outcome for check in checks.values()} == {Outcome.SKIPPED}
    assert all("without a provider" in check.detail for check in checks.values())


def answering(*usages: Mapping[str, Any] | None) -> tuple[Answerer, list[Any]]:
    """A chat whose responses have these usages in turn, the last one repeated, and the list of its long prompts."""
    asked: list[Any] = []

    def answer(handler: Handler) -> None:
        if handler.body["messages"][0]["role"] != "system":
            healthy(handler)
            return
        usage = usages[min(len(asked), len(usages) - 1)]
        asked.append(handler.body)
        headers = {"x-litellm-attempted-fallbacks": "1", "x-litellm-model-group": "other"} if usage == OTHER else {}
        rest = {} if usage is None else {"usage": usage}
        handler.reply(200, {"choices": [{"message": {"content": "pong"}}], **rest}, **headers)

    return answer, asked


NOTHING = {"prompt_tokens": 6000, "completion_tokens": 1}
WRITTEN = {"prompt_tokens": 6000, "cache_creation_input_tokens": 5990, "cache_read_input_tokens": 0}
OPENAI = {"prompt_tokens": 6000, "prompt_tokens_details": {"cached_tokens": 5888}}
OTHER = {"prompt_tokens": 6000, "prompt_tokens_details": {"cached_tokens": 7}}


def ask(server: Stub, answer: Answerer, *, caching: bool = True) -> Report:
    server.faults["/v1/chat/completions"] = answer
    return verify(Gateway(server.url, STUB_KEY, 20.0), Scope(models=("primary",), caching=caching))


def caching_check(report: Report) -> Check:
    return next(check for check in report.checks if check.name == f"prompt caching primary ({CHAT})")


def test_caching_is_optional(server: Stub) -> None:
    """--caching adds a check for each API, with its figures; without it no long prompt is sent or billed."""
    answer, asked = answering(WRITTEN, OPENAI)
    report = ask(server, answer, caching=False)
    assert (len(report.checks), asked) == (13, [])
    assert "prompt_caching" not in report.data
    report = ask(server, answer)
    assert len(report.checks) == 16
    assert report.data["prompt_caching"][f"prompt caching primary ({CHAT})"] == [
        {"prompt": 6000, "written": 5990, "read": 0},
        {"prompt": 6000, "written": 0, "read": 5888},
    ]


def test_costs_are_announced(server: Stub) -> None:
    """Before it starts, the command prints on standard error what it sends and that it is billed; the table has the
    figures.
    """
    server.faults["/v1/chat/completions"] = answering(WRITTEN, OPENAI)[0]
    argv = ["verify", "--base-url", server.url, "--api-key", STUB_KEY, "--model", "primary", "--caching"]
    done = CliRunner().invoke(cli, argv)
    assert "prompts of about 6,000 tokens, which are billed" in done.stderr
    assert "5,990 written, 0 read; 0 written, 5,888 read" in done.stdout


@pytest.mark.parametrize(
    ("usages", "requests", "hint"),
    [
        ((NOTHING,), 2, "enable_anthropic_prompt_caching"),
        ((WRITTEN,), MOST_REQUESTS, "changes regions"),
        ((WRITTEN, NOTHING), 2, "changes regions"),
        ((None,), 1, "removes `usage`"),
    ],
)
def test_a_cache_without_hits(server: Stub, usages: tuple[Any, ...], requests: int, hint: str) -> None:
    """A cache without hits fails the check with a remedy, after a limited number of billed prompts."""
    answer, asked = answering(*usages)
    report = ask(server, answer)
    check = caching_check(report)
    assert check.outcome is Outcome.FAILED
    assert hint in check.hint
    assert len(asked) == requests
    assert report.exit_code is ExitCode.FAILED


def test_automatic_caching(server: Stub) -> None:
    """A provider that caches automatically, in OpenAI's format, passes; both prompts of a run are the same, those of
    two runs differ.
    """
    answer, asked = answering(NOTHING, OPENAI)
    assert caching_check(ask(server, answer)).outcome is Outcome.OK
    assert asked[0] == asked[1]
    ask(server, answer)
    assert asked[2]["messages"] != asked[0]["messages"]


def test_a_fallback_is_named(server: Stub) -> None:
    """A prompt that only a fallback answers is a warning that names the fallback."""
    answer, _ = answering(OTHER)
    check = caching_check(ask(server, answer))
    assert (check.outcome, "the fallback other answered" in check.detail) == (Outcome.WARNING, True)


def test_a_refused_prompt(server: Stub) -> None:
    """A provider that refuses the long prompt fails the check with its own message."""

    def refuse(handler: Handler) -> None:
        if handler.body["messages"][0]["role"] == "system":
            handler.reply(429, {"error": {"message": "Too many tokens, please wait"}})
        else:
            healthy(handler)

    check = caching_check(ask(server, refuse))
    assert (check.outcome, check.detail) == (Outcome.FAILED, "HTTP 429: Too many tokens, please wait")
    assert "tokens per minute" in check.hint
