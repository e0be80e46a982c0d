"""`python -m tests.bench.routes`: the two routes to a Claude model on Bedrock, compared (docs/routes.md).

LiteLLM calls `bedrock/converse/MODEL` by Converse for every API, and `bedrock/MODEL` by InvokeModel for /v1/messages.
The real LiteLLM with one worker runs over the fake Bedrock of tests/fakes. It needs no root and no account.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.fakes import Cloud, run_cloud
from tests.integration.litellm_process import KEY, Gateway, run_litellm

from .route_apis import APIS
from .route_checks import CHECKS, MODEL, SPARE, Probe
from .table import as_markdown, write_between_markers

_PAGE = Path(__file__).resolve().parents[2] / "docs/routes.md"
_ROUTES = {"converse": "bedrock/converse/", "default": "bedrock/"}
_EVENTS = 425
#: By title: the prompt, whether to stream, and the number of answers. A real model pauses between events.
_ANSWERS = {
    "whole": ("hello", False, 30),
    f"{_EVENTS} events at once": (f"STREAM {_EVENTS} EVENTS", True, 6),
    f"{_EVENTS} events, one every 2 ms": (f"STREAM {_EVENTS} EVENTS EVERY 2 MS", True, 4),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.routes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of the measurement of processor time")
    parser.add_argument("--record", action="store_true", help="write the tables in docs/routes.md")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, run_cloud() as aws:
        config = Path(folder) / "config.yaml"
        config.write_text(_configuration())
        with run_litellm(config, {"AWS_REGION_NAME": "us-east-1", **aws.environment}) as gateway:
            tables = {"checks": _compare(aws, gateway), "processor": _measure(aws, gateway, options.rounds)}
    for name, text in tables.items():
        sys.stdout.write(f"{text}\n")
        if options.record:
            write_between_markers(_PAGE, text, name)
    return 0


def _configuration() -> str:
    lines = ["model_list:"]
    guardrail = '{guardrailIdentifier: gr-fake, guardrailVersion: "1"}'
    by_header = (
        '{X-Amzn-Bedrock-GuardrailIdentifier: gr-fake, X-Amzn-Bedrock-GuardrailVersion: "1",'
        " X-Amzn-Bedrock-Service-Tier: priority}"
    )
    for name, route in _ROUTES.items():
        for suffix, model, more in (
            ("", MODEL, ""),
            ("-safe", MODEL, ""),
            ("-spare", SPARE, ""),
            ("-guarded", MODEL, f", guardrailConfig: {guardrail}"),
            ("-guarded-twice", MODEL, f", guardrailConfig: {guardrail}, extra_headers: {by_header}"),
        ):
            lines.append(f'  - {{model_name: {name}{suffix}, litellm_params: {{model: "{route}{model}"{more}}}}}')
    fallbacks = ", ".join(f"{{{name}-safe: [{name}-spare]}}" for name in _ROUTES)
    lines += [
        "litellm_settings: {drop_params: true}",
        f"router_settings: {{num_retries: 0, disable_cooldowns: true, fallbacks: [{fallbacks}]}}",
        "general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}",
    ]
    return "\n".join(lines) + "\n"


def _compare(aws: Cloud, gateway: Gateway) -> str:
    """One row for each check: one word where the routes agree, otherwise both."""
    rows = [["", *(f"`{api.path}`" for api in APIS)]]
    for title, check in CHECKS:
        cells = []
        for api in APIS:
            found = [check(Probe(api, name, aws, gateway.port, KEY)) for name in _ROUTES]
            cells.append(found[0] if found[0] == found[1] else f"converse: {found[0]}<br>default: **{found[1]}**")
        rows.append([title, *cells])
    return as_markdown(rows)


def _measure(aws: Cloud, gateway: Gateway, rounds: int) -> str:
    """Processor time of LiteLLM for an answer, the least of all rounds: noise only adds to it."""
    least: dict[tuple[str, str, str], float] = {}
    for _ in range(rounds):
        for api in APIS:
            for title in _ANSWERS:
                for name in _ROUTES:
                    key = api.path, title, name
                    cost = _cost(Probe(api, name, aws, gateway.port, KEY), gateway.pid, title)
                    least[key] = min(cost, least.get(key, cost))
    rows = [["API", "answer", *(f"`{route}us.…`" for route in _ROUTES.values())]]
    for api in APIS:
        for title in _ANSWERS:
            rows.append(
                [f"`{api.path}`", title, *(f"{least[api.path, title, name] * 1000:.0f} ms" for name in _ROUTES)]
            )
    return as_markdown(rows)


def _cost(probe: Probe, pid: int, title: str) -> float:
    """Seconds of processor time that the process needs for one answer."""
    prompt, streamed, times = _ANSWERS[title]
    begin = _processor_time(pid)
    for _ in range(times):
        reply = probe.say(prompt, stream=True) if streamed else probe.say(prompt)
        if reply.status != 200 or (streamed and probe.api.ends not in reply.body):
            raise SystemExit(f"{probe.api.path}: HTTP {reply.status}: {reply.body}")
    return (_processor_time(pid) - begin) / times


def _processor_time(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
