"""The metrics of METRICS agree with what a client has counted, whatever happens to the processes of the service."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from box import Box
from service import ctl, inflight, key, runtime, said, set_up, signal_process, state, workers, write_config

ADDRESS = "127.0.0.1:9400"
CLIENTS = 4
#: Seconds between two requests of a client.
PAUSE = 0.05
#: Seconds after a response within which LiteLLM has counted it, on a busy machine. It does so after the response.
SETTLED = 30.0
INPUT_COST, OUTPUT_COST = 0.001, 0.01
CONFIG = f"""\
model_list:
  - model_name: answers
    litellm_params:
      model: openai/answers
      api_key: none
      mock_response: "One two three."
      input_cost_per_token: {INPUT_COST}
      output_cost_per_token: {OUTPUT_COST}
  - model_name: throttled
    litellm_params: {{model: openai/throttled, api_key: none, mock_response: litellm.RateLimitError}}
router_settings: {{num_retries: 0, disable_cooldowns: true}}
general_settings: {{master_key: os.environ/LITELLM_MASTER_KEY}}
"""
#: The same, with the callback three times.
WITH_CALLBACKS = f"""{CONFIG}
litellm_settings:
  callbacks: [prometheus]
  success_callback: [prometheus]
  failure_callback: [prometheus]
"""
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass
class Client:
    """Sends requests of each kind, and counts what it has received."""

    box: Box
    bearer: str
    statuses: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    streams: int = 0
    problems: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, number: int) -> None:
        """Send one request: a chat, a stream, a throttled one, one for an unknown model, one with a wrong key."""
        kind = number % 5
        model = {2: "throttled", 3: f"unknown-{number}"}.get(kind, "answers")
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "secret prompt"}]}
        if kind == 1:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        self.post(body, {}, "sk-wrong" if kind == 4 else self.bearer)

    def post(self, body: dict[str, Any], headers: dict[str, str], bearer: str) -> None:
        connection = self.box.http_connection("127.0.0.1", 4000, timeout=120)
        try:
            headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json", **headers}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            self.problems.append(repr(error))
            return
        finally:
            connection.close()
        with self._lock:
            self.statuses[str(response.status)] += 1
            if response.status == 200:
                events = [json.loads(line) for line in re.findall(r"^data: (\{.*)", text, re.M)] or [json.loads(text)]
                usage = next(each["usage"] for each in events if each.get("usage"))
                self.streams += bool(body.get("stream"))
                for name in ("prompt_tokens", "completion_tokens"):
                    self.tokens[name] += usage[name]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send requests during the `with` block, and wait for all responses after it."""
        over = threading.Event()

        def run(first: int) -> None:
            number = first
            while not over.wait(PAUSE):
                self.send(number)
                number += 1

        threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def assert_equal(self, samples: dict[str, float]) -> None:
        """Check that each counter has the client's own count."""
        passed = {status: count for status, count in self.statuses.items() if status != "401"}
        answered = self.statuses["200"]
        cost = self.tokens["prompt_tokens"] * INPUT_COST + self.tokens["completion_tokens"] * OUTPUT_COST
        assert self.problems == []
        assert _by(samples, "litellm_systemd_http_requests_total", "status") == self.statuses
        assert _by(samples, "litellm_systemd_refused_requests_total", "reason").total() == self.statuses["401"]
        assert _by(samples, "litellm_proxy_total_requests_metric_total", "status_code") == passed
        failed = {status: count for status, count in passed.items() if status != "200"}
        assert _by(samples, "litellm_proxy_failed_requests_metric_total", "exception_status") == failed
        expected = {
            "litellm_requests_metric_total": answered,
            "litellm_input_tokens_metric_total": self.tokens["prompt_tokens"],
            "litellm_output_tokens_metric_total": self.tokens["completion_tokens"],
            "litellm_total_tokens_metric_total": self.tokens.total(),
            "litellm_spend_metric_total": round(cost, 6),
            "litellm_deployment_success_responses_total": answered,
            "litellm_request_total_latency_metric_count": answered,
            "litellm_llm_api_time_to_first_token_metric_count": self.streams,
        }
        found = {name: round(sum(_by(samples, name, "model").values()), 6) for name in expected}
        assert found == expected


@dataclass
class Scraper:
    """Scrapes continuously. `problems` has each scrape that failed and each counter that went back.

    `resets` are the times of scrapes that were reset, which can happen when a main process exits during a restart.
    Prometheus scrapes again then. `seen` are all series so far.
    """

    box: Box
    scrapes: int = 0
    resets: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    _before: dict[str, float] = field(default_factory=dict)

    def scrape(self) -> dict[str, float]:
        """The samples by name and labels."""
        answer = self.box.http("GET", f"http://{ADDRESS}/metrics", timeout=60)
        assert answer.status == 200, answer
        lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    @contextmanager
    def running(self) -> Iterator[None]:
        over = threading.Event()

        def run() -> None:
            while not over.wait(0.2):
                try:
                    self._compare(self.scrape())
                except ConnectionResetError as error:
                    self.resets.append(f"{time.strftime('%X')} {error!r}")
                except (OSError, http.client.HTTPException, AssertionError) as error:
                    self.problems.append(repr(error))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _compare(self, samples: dict[str, float]) -> None:
        self.scrapes += 1
        self.seen.update(samples)
        counters = {each: value for each, value in samples.items() if _is_counter(each)}
        for name, value in self._before.items():
            if counters.get(name, -1) < value:
                self.problems.append(f"{name}: {value} -> {counters.get(name)}")
        self._before = counters


def _is_counter(sample: str) -> bool:
    return sample.partition("{")[0].endswith(("_total", "_count", "_bucket", "_sum"))


def _by(samples: dict[str, float], name: str, label: str) -> Counter[str]:
    """The sums of a metric's samples by the value of a label. Zeros are left out."""
    found: Counter[str] = Counter()
    for sample, value in samples.items():
        head, _, labels = sample.partition("{")
        if head == name and value:
            found[dict(_LABEL.findall(labels)).get(label, "")] += value  # type: ignore[assignment] # a float
    return found


def test_counters_agree_with_a_client(idle_box: Box) -> None:
    """All counters equal a client's own after a reload, a killed and a recycled worker and a restart with a standby.

    No counter goes back at any scrape, none fails except when a main process exits, gone workers leave no gauges,
    and no value that a client chooses becomes a label.
    """
    box = idle_box
    set_up(box, f"NUM_WORKERS=2\nMETRICS={ADDRESS}\nMAX_REQUESTS_BEFORE_RESTART=150\n", CONFIG)
    client, scraper, bearer = Client(box, key(box)), Scraper(box), key(box)
    with scraper.running():
        with client.running():
            box.wait_until(lambda: client.statuses.total() >= 60, 60, "the first responses")
            write_config(box, WITH_CALLBACKS)
            box.systemctl("reload", "litellm")
            box.wait_until(lambda: any("recycled after" in line for line in said(box)), 120, "a worker is recycled")
        _await_equal(client, scraper)

        # Nothing is in flight: what a killed worker was about to send, neither side can count.
        box.wait_until(lambda: inflight(box) == 0, 30, "no request is in flight")
        victim = str(runtime(box)["workers"][0]["pid"])
        signal_process(box, "KILL", victim)
        box.wait_until(lambda: victim not in workers(box) and _serving(box) == 2, 240, "the worker is replaced")
        main = state(box)["MainPID"]
        with client.running():
            ctl(box, "restart")
        assert state(box)["MainPID"] != main
        _await_equal(client, scraper)
        _assert_bounded(client, scraper, bearer)
    assert (scraper.problems, scraper.scrapes > 20) == ([], True)
    assert len(scraper.resets) <= 2, scraper.resets
    client.assert_equal(scraper.scrape())
    _assert_shown(box, client)
    _assert_no_stale_gauges(box, scraper)
    answer = box.http("GET", "http://127.0.0.1:4000/metrics", headers={"Authorization": f"Bearer {bearer}"})
    assert answer.status == 404
    # LiteLLM logs each failure of a callback.
    assert [line for line in said(box, "err") if "LoggingError" in line or "Prometheus" in line] == []


def _await_equal(client: Client, scraper: Scraper) -> None:
    """Check that each counter reaches the client's own count."""
    deadline = time.monotonic() + SETTLED
    while True:
        samples = scraper.scrape()
        try:
            return client.assert_equal(samples)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _serving(box: Box) -> int:
    return [each["state"] for each in runtime(box)["workers"]].count("serving")


def _assert_bounded(client: Client, scraper: Scraper, bearer: str) -> None:
    """Values that a client with a valid key chooses make no series, and are in no label."""
    # Not those of one scrape: LiteLLM sets the gauges of a new process after its counters.
    before = set(scraper.seen)
    for number in range(40):
        body = {
            "model": "answers" if number % 2 else f"chosen-{number}",
            "messages": [{"role": "user", "content": "secret prompt"}],
            "user": f"chosen-{number}@example.com",
            "metadata": {"tags": [f"chosen-{number}"], "chosen": f"chosen-{number}"},
        }
        client.post(body, {"User-Agent": f"chosen-{number}", "X-Forwarded-For": f"192.0.2.{number}"}, bearer)
    _await_equal(client, scraper)
    after = scraper.scrape().keys()
    assert after - before == set()
    leaks = ("chosen", "192.0.2.", "127.0.0.1", "secret", bearer)
    assert [sample for sample in after for leak in leaks if leak in sample] == []


def _assert_shown(box: Box, client: Client) -> None:
    """`top` shows the same counts, and the models with their latencies."""
    figures = json.loads(ctl(box, "top", "--once", "--interval", "0.5", "--json"))["figures"]
    statuses = {status: rate["total"] for status, rate in figures["statuses"].items() if rate["total"]}
    assert statuses == client.statuses
    tokens = [figures[name]["total"] for name in ("input_tokens", "output_tokens")]
    assert tokens == [client.tokens["prompt_tokens"], client.tokens["completion_tokens"]]
    models = {each["model"]: each for each in figures["models"]}
    assert models.keys() == {"answers", "throttled", "other"}
    answers, throttled = models["answers"], models["throttled"]
    assert answers["latency"]["p95"] >= answers["latency"]["p50"] > 0
    assert answers["first_token"]["p50"] > 0
    assert (answers["errors"]["total"], throttled["errors"]["total"]) == (0, throttled["requests"]["total"])


def _assert_no_stale_gauges(box: Box, scraper: Scraper) -> None:
    # The last requests may have made a worker due for recycling.
    box.wait_until(
        lambda: _by(scraper.scrape(), "litellm_systemd_workers", "state") == {"ready": 2},
        120,
        "two workers, no other",
    )
    assert [sample for sample in scraper.scrape() if "pid=" in sample] == []
    # A health check of the service itself counts for a moment.
    box.wait_until(lambda: scraper.scrape()["litellm_in_flight_requests"] == 0, 30, "no request is in flight")
