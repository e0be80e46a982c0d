"""verify --caching: the real LiteLLM with prompt_caching.yml and a Bedrock that caches, and gateways that do not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from litellm_systemd.cli import cli
from litellm_systemd.client.gateway import Gateway
from litellm_systemd.contract import ExitCode
from litellm_systemd.report.report import Check, Outcome, Report
from litellm_systemd.verify.costly_checks import MOST_REQUESTS, check_caching
from litellm_systemd.verify.run import Scope, verify
from tests.integration.litellm_process import KEY, run_litellm
from tests.integration.stub_gateway import KEY as STUB_KEY
from tests.integration.stub_gateway import Answerer, Handler, Stub, healthy, stub

CONFIG = Path(__file__).parents[2] / "configs/prompt_caching.yml"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDFROMENV", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION_NAME": "us-east-1"}
MODEL = "claude-sonnet-5-5"


class Bedrock(ThreadingHTTPServer):
    """Answers Converse. The prompt before the cache point of the system prompt is written once and read afterwards.

    The next `forgetful` requests find nothing, as in another region of an inference profile.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Converse)
        self.cached: set[str] = set()
        self.forgetful = 0


class _Converse(BaseHTTPRequestHandler):
    server: Bedrock

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": [{"text": "pong"}]}
        answer = {"output": {"message": message}, "stopReason": "end_turn", "metrics": {"latencyMs": 1}}
        data = json.dumps({**answer, "usage": self._usage(body)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _usage(self, body: Mapping[str, Any]) -> dict[str, int]:
        prefix = json.dumps(body.get("system", []))
        size = len(prefix) // 4
        marked = "cachePoint" in prefix
        found = marked and prefix in self.server.cached and not self.server.forgetful
        if marked:
            self.server.forgetful = max(0, self.server.forgetful - 1)
            self.server.cached.add(prefix)
        read, written = (size if found else 0), (size if marked and not found else 0)
        fresh = 12 + size - read - written
        counts = {"inputTokens": fresh, "outputTokens": 1, "totalTokens": size + 13}
        return {**counts, "cacheReadInputTokens": read, "cacheWriteInputTokens": written}

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def bedrock() -> Iterator[Bedrock]:
    with Bedrock() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def caching(bedrock: Bedrock) -> Iterator[Gateway]:
    endpoint = f"http://127.0.0.1:{bedrock.server_port}"
    with run_litellm(CONFIG, {"AWS_BEDROCK_RUNTIME_ENDPOINT": endpoint, **KEYS}) as running:
        yield Gateway(f"http://127.0.0.1:{running.port}", KEY)


def test_the_second_prompt_is_read_from_the_cache(caching: Gateway) -> None:
    """With prompt_caching.yml the first prompt is written to the cache and the second is read from it, without cache
    points of the client.
    """
    found = check_caching(caching, MODEL)
    assert found.outcome is Outcome.OK, found
    first, second = found.data["caching"]
    assert (first["written"], first["read"]) == (second["read"], second["written"])
    assert first["written"] > 4096
    assert first["prompt"] == second["prompt"] > first["written"]
    assert f"{first['written']:,} written, 0 read; 0 written, {first['written']:,} read" in found.detail


def test_a_miss_is_retried(caching: Gateway, bedrock: Bedrock) -> None:
    """If another region writes the second prompt again, a third prompt is sent and its result counts."""
    bedrock.forgetful = 2
    found = check_caching(caching, MODEL)
    assert found.outcome is Outcome.OK, found
    assert [each["read"] > 0 for each in found.data["caching"]] == [False, False, True]


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


@pytest.fixture
def server() -> Iterator[Stub]:
    with stub() as running:
        yield running


def ask(server: Stub, answer: Answerer, *, caching: bool = True) -> Report:
    server.faults["/v1/chat/completions"] = answer
    return verify(Gateway(server.url, STUB_KEY, 20.0), Scope(models=("primary",), caching=caching))


def caching_check(report: Report) -> Check:
    return next(check for check in report.checks if check.name == "prompt caching primary")


def test_caching_is_optional(server: Stub) -> None:
    """--caching adds a check and its figures; without it no long prompt is sent or billed."""
    answer, asked = answering(WRITTEN, OPENAI)
    report = ask(server, answer, caching=False)
    assert (len(report.checks), asked) == (13, [])
    assert "prompt_caching" not in report.data
    report = ask(server, answer)
    assert report.title == f"verified {server.url}: 14 checks passed"
    assert report.data["prompt_caching"] == {
        "prompt caching primary": [
            {"prompt": 6000, "written": 5990, "read": 0},
            {"prompt": 6000, "written": 0, "read": 5888},
        ]
    }


def test_costs_are_announced(server: Stub) -> None:
    """Before it starts, the command prints on standard error what it sends and that it is billed; the table has the
    figures.
    """
    server.faults["/v1/chat/completions"] = answering(WRITTEN, OPENAI)[0]
    argv = ["verify", "--base-url", server.url, "--api-key", STUB_KEY, "--model", "primary", "--caching"]
    done = CliRunner().invoke(cli, argv)
    assert done.exit_code == 0, done.output
    assert "prompts of about 6,000 tokens, which are billed" in done.stderr
    assert "5,990 written, 0 read; 0 written, 5,888 read" in done.stdout


@pytest.mark.parametrize(
    ("usages", "requests", "hint"),
    [
        ((NOTHING,), 2, "config use prompt_caching"),
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
