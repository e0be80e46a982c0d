"""Events and groups from the journal, known messages, and their reports by `logs` and doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.cli import run_command
from litellm_systemd.commands.logs import build_errors, build_request
from litellm_systemd.contract import ExitCode
from litellm_systemd.doctor.check_service import recent_events, reportable_groups
from litellm_systemd.logs.events import LogEvent, filter_by_request, group_events, read_events
from litellm_systemd.logs.known_messages import SIGNATURES, find_signature
from tests.fakes.refusals import SCRIPTED

CALL = "6f1f4c4e-2a0b-4f5e-9d51-0123456789ab"
OTHER = "0a0a0a0a-2a0b-4f5e-9d51-0123456789ab"
FAILED = "LiteLLM Proxy: litellm.proxy.proxy_server._handle_llm_api_exception(): Exception occured - litellm_call_id="
THROTTLED = (
    "litellm.exceptions.RateLimitError: litellm.RateLimitError: BedrockException - Too many tokens, please wait"
)


def entry(text: Any, pid: str = "7", priority: str = "3", when: float = 1000.0) -> dict[str, Any]:
    """A journal entry as `journalctl -o json` prints it."""
    return {"MESSAGE": text, "_PID": pid, "PRIORITY": priority, "__REALTIME_TIMESTAMP": str(int(when * 1e6))}


def trace(call: str, pid: str = "7", when: float = 1000.0, error: str = THROTTLED) -> list[dict[str, Any]]:
    """A failed request as LiteLLM logs it, one journal entry for each line."""
    lines = [
        f"{FAILED}{call} - {error}",
        "Traceback (most recent call last):",
        '  File "/opt/x.py", line 1, in acompletion',
        "    raise error",
        "httpx.HTTPStatusError: 429",
        "During handling of the above exception, another exception occurred:",
        "Traceback (most recent call last):",
        '  File "/opt/y.py", line 2, in chat',
        error,
        "LiteLLM: model group 'claude' failed with the error above. No fallback was attempted.",
    ]
    return [entry(line, pid, when=when) for line in lines]


def test_systemd_before_the_program() -> None:
    """A line of the process that systemd has forked is known as systemd's, even if that process has exited."""
    texts = ("litellm.service: Failed at step CREDENTIALS spawning /opt/python: Protocol error", "Decryption failed")
    lines = [{**entry(text), "SYSLOG_IDENTIFIER": "(python)"} for text in texts]
    (group,) = group_events(read_events(lines))
    assert group.signature is not None
    assert (group.signature.name, group.count) == ("credentials-unreadable", 2)


def test_a_traceback_is_one_event() -> None:
    """The lines of a traceback are one event, even if lines of another worker are in between; later ones are not."""
    mine, other = trace(CALL), trace(OTHER, pid="8")
    mixed = [line for pair in zip(mine, other, strict=True) for line in pair]
    events = read_events([*mixed, entry("worker 1: fine"), entry("a warning", priority="4")])
    assert [event.pid for event in events] == ["7", "8", "7", "7"]
    assert events[0].text == "\n".join(str(line["MESSAGE"]) for line in mine)
    assert events[0].sample == f"{mine[0]['MESSAGE']}\n{mine[-1]['MESSAGE']}"


def test_json_lines_and_bytes() -> None:
    """A line of JSON_LOGS has message, traceback and request id; invalid UTF-8 and null are read as well."""
    structured = {"message": "it failed", "level": "ERROR", "litellm_call_id": CALL, "stacktrace": "Traceback\nX: y"}
    events = read_events(
        [entry(json.dumps(structured)), entry(list("é".encode())), entry(None), entry("{no json", when=1002)]
    )
    assert (events[0].text, events[0].call) == ("it failed\nTraceback\nX: y", CALL)
    assert [event.text for event in events[1:]] == ["é\n", "{no json"]


def test_groups() -> None:
    """The same error of many requests is one group with count, first and last time; the latest group comes first.

    Only what clients caused comes after all others.
    """
    entries = [line for number in range(3) for line in trace(f"{number}{CALL[1:]}", when=1000.0 + number)]
    strange = [entry(f"odd: job {number} of 0x{number:x} failed", when=2000.0 + number) for number in range(2)]
    client = entry("LiteLLM Proxy: litellm.BadRequestError: Invalid model name passed in model=x", when=3000.0)
    *groups, last = group_events(read_events([*entries, *strange, entry("odd: quite another", when=10.0), client]))
    assert last.signature is not None
    assert last.signature.name == "client-model"
    assert [(group.count, group.first, group.last) for group in groups] == [
        (2, 2000.0, 2001.0),
        (3, 1000.0, 1002.0),
        (1, 10.0, 10.0),
    ]
    assert [group.signature.name if group.signature else None for group in groups] == [None, "too-many-tokens", None]
    assert groups[0].sample == "odd: job 1 of 0x1 failed"


def test_cause_before_the_end_of_the_service() -> None:
    """systemd's lines about a failed start come after the message that says why, and before what was long ago."""
    lines = [
        entry("odd: long ago", when=900.0),
        entry("ImportError: /opt/a.so: file too short", when=1000.0),
        entry("Failed to start litellm.service - LiteLLM Proxy.", when=1000.4, pid="1"),
        entry("litellm.service: Start request repeated too quickly.", when=1000.3, pid="1"),
    ]
    samples = [group.sample for group in group_events(read_events(lines))]
    assert samples == [lines[each]["MESSAGE"] for each in (1, 2, 3, 0)]


@pytest.mark.parametrize("name", sorted(SCRIPTED))
def test_refusals_of_aws_are_known(name: str) -> None:
    """Each known error of AWS is recognised in LiteLLM's log as one of AWS."""
    found = find_signature(f"litellm.APIError: BedrockException - {SCRIPTED[name].message}")
    assert found is not None
    assert found.area == "aws", found.name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("worker 2 (pid 71) was killed by SIGKILL, replaced in 0.4 s", "worker-killed"),
        ("worker 2 (pid 71) answered nothing for 30 s and was killed, replaced in 2.4 s", "worker-killed"),
        ("worker 2 (pid 71) failed its health check for 30 s and was killed, replaced in 2.4 s", "worker-killed"),
        (
            "worker 2 (pid 71) was blocked for 15 s in POST /v1/x (a.py:1 f) and was killed, replaced in 2.4 s",
            "worker-killed",
        ),
        (
            f"worker 2 (pid 71) was blocked for 15 s in POST /v1/x ({'handler.py:2546 _pre_call < ' * 12}x.py:1 f)"
            " and was killed, replaced in 2.4 s",
            "worker-killed",
        ),
        (
            "worker 1 (pid 70) hangs in POST /v1/x and is killed after 15 s: /etc/litellm/a.py:1 in f, time.sleep,"
            " blocks the event loop of a worker",
            "blocking-code",
        ),
        ("worker 1 (pid 70) was blocked for 6 s in POST /v1/x (a.py:1 f). Its other requests waited", "blocked"),
        ("worker 2 (pid 71) was killed by SIGSEGV in POST /v1/x, replaced in 0.4 s", "worker-killed"),
        ("worker 2 (pid 71) exited with code 1, replaced in 0.4 s", "worker-exited"),
        (
            "worker 2 (pid 71) exited with code 1: SystemExit: x (/etc/litellm/a.py:1), replaced in 1 s",
            "worker-exited",
        ),
        ("worker 1 (pid 9) cut 3 request(s) after 600 s", "requests-cut"),
        ("worker 1 (pid 9) force-closed 3 requests after 600 s of draining", "requests-cut"),
        ("a new worker can't start: no memory. Next try in 2 s", "worker-cannot-start"),
        ("cannot start a worker: no memory. Retrying in 2 s", "worker-cannot-start"),
        ("the database cannot be used: connection refused. The master key works", "database-unreachable"),
        (
            'apscheduler.executors.default: Job "update_spend (trigger: interval[0:00:15])" raised an exception'
            ' (EngineRequestError: 500: {"is_panic":false,"message":"too many connections for role"})',
            "database-unreachable",
        ),
        (
            "LiteLLM Proxy: Spend tracking - DB error writing spend logs, requeued 2 rows for the next flush. error="
            "The table `public.LiteLLM_SpendLogs` does not exist in the current database.",
            "database-refuses",
        ),
        (
            "LiteLLM Proxy: Request error tracking - statement 1 of 1 failed, 1 rows go back for retry",
            "database-interrupted",
        ),
        (
            "litellm_systemd.runtime.worker.litellm_outages: the database did not answer for a moment",
            "database-interrupted",
        ),
        ("cannot start a worker to recycle worker 1 (pid 9): no memory. Retrying in 2 s", "worker-cannot-start"),
        ("reload failed, the configuration before serves on: no model_list", "reload-failed"),
        ("reload failed, the previous configuration stays active: no model_list", "reload-failed"),
        (
            "reload failed, the previous certificate stays active: TLS_KEY_FILE=/a.key: No such file or directory.",
            "reload-failed",
        ),
        (
            "TLS_CERT_FILE=/etc/a.pem: clients refuse the certificate: a.example, expired on 2026-11-30 12:00 UTC",
            "certificate-refused",
        ),
        ("TLS_CERT_FILE has no certificate in PEM. PEM has lines like -----BEGIN", "certificate-unusable"),
        ("the key in TLS_KEY_FILE is not that of the certificate in TLS_CERT_FILE. Name", "certificate-unusable"),
        ("TLS_KEY_FILE=/etc/a.key: Permission denied. Restore the file", "certificate-unusable"),
        (
            "LiteLLM Proxy: 429: Rate limit exceeded for api_key: 88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539"
            ". Limit type: requests. Current limit: 1, Remaining: 0. Limit resets at: 2026-11-30 10:00:00"
            " UTC (HTTPException)",
            "limit-of-key",
        ),
        (
            "LiteLLM Proxy: 429: Rate limit exceeded for model_per_team: t1:claude. Limit type: tokens. Current"
            " limit: 5, Remaining: 0. Limit resets at: 2026-11-30 10:00:00 UTC",
            "limit-of-key",
        ),
        (
            "LiteLLM Proxy: litellm.RateLimitError: Model rate limit exceeded. RPM limit=3, current usage=3",
            "limit-of-key",
        ),
        ("WORKER_MEMORY_LIMIT=64 is too low to recycle anything: a fresh worker has 300 MiB", "memory-limit-too-low"),
        ("WORKER_MEMORY_LIMIT=64 has no effect: a new worker already uses 300 MiB", "memory-limit-too-low"),
        ("127.0.0.1:4000 is held by nginx (pid 7). Stop that service, or give another PORT.", "port-taken"),
        (
            "cannot listen on 127.0.0.1:4000: nginx (pid 7) is listening there. Stop it, or set another PORT.",
            "port-taken",
        ),
        (
            "METRICS: cannot listen on 127.0.0.1:9400: nginx (pid 7) is listening there. Stop it, or set",
            "metrics-port-taken",
        ),
        ("uvicorn.error: Invalid HTTP request received.", "not-http"),
        ("/etc/litellm/configs/demo.yml:8:1: include is given twice, first on line 1.", "configuration-rejected"),
        (
            "LiteLLM Proxy: Authentication Error - Expired Key. Key Expiry time 2026-11-30 13:26:03.580000+00:00 and",
            "client-key-expired",
        ),
        ("DATABASE_URL has @ in it, probably in the password. Percent-encode it", "configuration-rejected"),
        ("NUM_WORKERS=2 # two is not a whole number from 1 to 1024. Correct the value", "configuration-rejected"),
        ("LiteLLM Proxy: 'tenant' (KeyError; mine.py:4 async_pre_call_hook; model claude)", "callback-raised"),
        (
            "LiteLLM Proxy: 400: {'error': 'our policy forbids it'} (HTTPException; mine.py:7 async_pre_call_hook)",
            "client-refused",
        ),
        ("LiteLLM Proxy: no secrets (ValueError; refused by mine.py:5 async_pre_call_hook)", "client-refused"),
        ("LiteLLM Proxy: 500: no quota server (HTTPException; mine.py:7 async_pre_call_hook)", "callback-raised"),
        ("LiteLLM Proxy: no such tenant (mine.py:4 async_pre_call_hook)", "callback-raised"),
        ("OSError: [Errno 24] Too many open files", "too-many-files"),
        ("ImportError: /opt/x/lib/_core.so: file too short", "file-damaged"),
        ("EOFError: marshal data too short", "file-damaged"),
        ("Decryption failed (incorrect key?): error:00000000:lib(0)::reason(0)", "credentials-unreadable"),
        ("LiteLLM: register_model: model=a/b has custom pricing but not in built-in cost map and no", "cache-cost"),
        ("LiteLLM Proxy: litellm.APIConnectionError: BedrockException - Server disconnected", "disconnected"),
        ("PermissionError: [Errno 13] Permission denied: '/etc/ssl/corp.pem'", "file-denied"),
        ("LiteLLM Proxy: litellm.APIConnectionError: can't start new thread (model m)", "too-many-tasks"),
        ("OSError: [Errno 28] No space left on device: '/var/lib/litellm/x'", "no-space"),
        (
            "LiteLLM Proxy: LiteLLM Prisma Client Exception health_check(): All connection attempts failed",
            "database-unreachable",
        ),
        (
            "LiteLLM Proxy: Error occurred during query execution: ConnectorError(ConnectorError { user_facing_error:"
            ' None, kind: QueryError(PostgresError { code: "25006", message: "cannot execute INSERT in a read-only'
            ' transaction", severity: "ERROR"',
            "database-refuses",
        ),
        (
            "LiteLLM Proxy: Spend tracking - failed to commit daily tag spend updates. Re-queued 2 rows. Error:"
            " ERROR: cannot execute INSERT in a read-only transaction (P2010; RawQueryError: ERROR: cannot execute",
            "database-refuses",
        ),
        (
            "LiteLLM Proxy: Daily user spend batch upsert failed. Table: LiteLLM_DailyUserSpend, Error: All"
            " connection attempts failed (ConnectError: All connection attempts failed)",
            "database-unreachable",
        ),
        (
            "LiteLLM Proxy: Retrying spend update after retryable DB error (attempt 1/3): ConnectorError("
            'ConnectorError { user_facing_error: None, kind: QueryError(PostgresError { code: "55P03", message: "x"',
            "database-locked",
        ),
        (
            "LiteLLM Proxy: Error getting search tools from DB: The table `public.LiteLLM_SearchToolsTable` does not"
            " exist in the current database. (P2021; Exception: Error getting search tools from DB",
            "database-refuses",
        ),
        ("litellm.types.router.RouterRateLimitError: No deployments available for selected model", "cooldown"),
        ("LiteLLM Proxy: 'model' must be a string. (ProxyException)", "client-request"),
        ("python_multipart.multipart: Expected boundary character 45, got 120 at index 2", "client-request"),
        (
            'apscheduler.scheduler: Execution of job "update_spend (trigger: interval[0:00:15], next run at: x)"'
            " skipped: maximum number of running instances reached (1)",
            "job-skipped",
        ),
        ("ModuleNotFoundError: No module named 'prometheus_client'", "module-missing"),
        (
            "ImportError: Using SOCKS proxy, but the 'socksio' package is not installed. Make sure to",
            "proxy-unusable",
        ),
        (
            "/etc/litellm/configs/mine.py:9 in ask: POST /v1/messages has been waiting here for more than 20 s",
            "waiting-code",
        ),
        (
            "LiteLLM: LoggingWorker: 1 callback(s) timed out after 20.0s (callback: Logging.async_success_handler);"
            " 1 timed out since start",
            "callback-slow",
        ),
        ("ValueError: Unknown scheme for proxy URL URL('socks4://127.0.0.1:1080')", "proxy-unusable"),
        (
            "LiteLLM Proxy: Failed to mark prometheus worker 45 as dead: No module named 'prometheus_client'",
            "metrics-of-gone-worker",
        ),
        ("Skipping guardrail 'pii': invalid configuration, proxy is starting WITHOUT it: x", "guardrail-skipped"),
        (
            "LiteLLM Proxy: Presidio PII analysis failed: ClientConnectorError (ConnectionRefusedError: [Errno 111]"
            " Connect call failed ('127.0.0.1', 5002); guardrail presidio)",
            "guardrail-unreachable",
        ),
        ("LiteLLM Proxy: Authentication Error, wrong key (Exception)", "client-key"),
        ("refused 15 requests with a wrong key and 1 request without a key, from 192.0.2.7 (16)", "client-key"),
        ("refused 1 request without a key, from 127.0.0.1 (1)", "client-key"),
        ("refused 5 guessed keys after 10 wrong ones, from 192.0.2.7 (5)", "key-guessing"),
        ("litellm.proxy.proxy_server.user_api_key_auth(): Exception occured - No connected db.", "database-missing"),
        ("LiteLLM Proxy: Previous response with id 'resp_1' not found. This gateway stores", "client-feature"),
        ("LiteLLM Proxy: Amazon Bedrock has no web search: the tool web_search is not available", "client-feature"),
        ("LiteLLM Proxy: Authentication Error, Invalid proxy server token passed", "client-key"),
        ("botocore.exceptions.NoCredentialsError: Unable to locate credentials", "no-credentials"),
        ("redis.exceptions.ConnectionError: Error 111 connecting to 127.0.0.1:6379. Connection refused.", "redis"),
        ("LiteLLM: Redis circuit breaker OPENED, fast-failing Redis calls", "redis"),
        ("Redis cannot be used: no answer within 1 s. Limits, cooldowns and cache count per process.", "redis"),
        ("Redis could not be used, and can now: no answer within 1 s", "redis"),
        ("LiteLLM: request_redis_batch: pipeline of 1 ops failed: Timeout reading from 127.0.0.1:6379", "redis"),
        (
            "LiteLLM: LiteLLM Redis Caching: async async_increment() - Got exception from REDIS: OOM command not"
            " allowed when used memory > 'maxmemory'. (OutOfMemoryError)",
            "redis",
        ),
        (
            "LiteLLM: Error connecting to Sync Redis client (AuthenticationError: invalid username-password pair or"
            " user is disabled.)",
            "redis",
        ),
        ("LiteLLM: Error in async set: You can't write against a read only replica. (ReadOnlyError)", "redis"),
        (
            "LiteLLM Proxy: Success callback shutdown budget exhausted with 3 unfinished callbacks; accounting may be"
            " incomplete",
            "callbacks-lost",
        ),
        ("LiteLLM: LoggingWorker shutdown: 7 queued callbacks discarded", "callbacks-lost"),
        ("LiteLLM: LoggingWorker shutdown: 2 tasks still alive after cancellation", "callbacks-lost"),
        (
            "LiteLLM: Langfuse export to https://cloud.langfuse.com/api/public/otel/v1/traces raised [Errno -3]"
            " Temporary failure in name resolution",
            "callback-export",
        ),
        ("LiteLLM: Langfuse export to https://x/v1/traces failed after 3 retries", "callback-export"),
        (
            "opentelemetry.exporter.otlp.proto.http.trace_exporter: Transient error"
            " HTTPConnectionPool(host='a', port=1): Max retries exceeded with url: /v1/traces (Caused by"
            " NewConnectionError('Connection refused')) encountered while exporting spans batch",
            "callback-export",
        ),
        (
            "opentelemetry.exporter.otlp.proto.http.metric_exporter: Failed to export metrics batch code: 401,"
            " reason: Unauthorized",
            "callback-export",
        ),
        (
            "LiteLLM: Error uploading to s3: Cannot connect to host none.s3.us-east-1.amazonaws.com:443 [Temporary"
            " failure in name resolution] (gaierror: [Errno -3] Temporary failure in name resolution)",
            "callback-export",
        ),
        ("LiteLLM: s3 logging: 4 in-call retries across 2 uploads this flush", "callback-export"),
        (
            "LiteLLM: CustomLogger: async_send_batch raised; preserving 2 events in queue for retry"
            " (S3BatchUploadError: 2 of 2 S3 uploads failed; transient failures kept in queue for the next flush)",
            "callback-export",
        ),
        ("LiteLLM: Datadog API error: status_code=503, will retry 4 records - Connection error", "callback-export"),
        ("LiteLLM: Ignoring disk_cache_dir, the disk cache backend was removed", "cache-on-disk"),
        ("ValueError: Fallbacks for 'a' must be a list of model names, got 'b'. Use ['b']", "fallback-is-no-list"),
        (
            "LiteLLM Proxy: Bedrock Guardrail x: letting 1 unscannable attachment(s) through unscanned because",
            "attachment-not-scanned",
        ),
        ("LiteLLM: Vertex: cannot read the credentials file at /root/key.json: denied", "vertex-credentials"),
        ("LiteLLM: Vertex: the credentials file at /etc/key.json is not JSON", "vertex-credentials"),
        (
            "LiteLLM: Dropped 2 cache_control hint(s) from the oldest messages because drop_params is on and the",
            "parameter-dropped",
        ),
        ("LiteLLM: Dropping service_tier='flex' for x, since Bedrock does not serve it.", "parameter-dropped"),
        (
            "LiteLLM: Bedrock rejected native structured output for model=x, so litellm sent the request again",
            "parameter-dropped",
        ),
        (
            "LiteLLM: Bedrock denied bedrock:InvokeModelWithResponseStream for model=x, so litellm sent the"
            " structured output request again as a buffered stream.",
            "stream-denied",
        ),
    ],
)
def test_signatures(text: str, name: str) -> None:
    """Messages of the runtime (in both wordings), uvicorn, LiteLLM and botocore are recognised."""
    found = find_signature(text)
    assert found is not None
    assert found.name == name


#: Messages of LiteLLM 1.108.7 about failed requests as the service writes them, shortened.
DENIED = 'LiteLLM Proxy: litellm.PermissionDeniedError: BedrockException - {"Message": "User: x is not authorized to'
REDIS = "LiteLLM: Error occurred in async batch get cache: Error 111 connecting to 127.0.0.1:9. Connection refused."


def test_a_process_that_systemd_has_forked_and_that_has_exited() -> None:
    """A line of systemd's child is systemd's own, also if journald could no longer read its executable."""
    line = entry("litellm.service: Failed at step USER spawning /opt/x/python: No such process") | {
        "SYSLOG_IDENTIFIER": "(python)"
    }
    systemd = line | {"_EXE": "/usr/lib/systemd/systemd", "_PID": "8"}
    (group,) = group_events(read_events((line, systemd)))
    assert group.signature is not None
    assert (group.signature.name, group.count) == ("cannot-execute", 2)
    (own,) = read_events((line | {"_EXE": "/usr/bin/python3.11"},))
    assert not own.from_systemd


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f'{DENIED} perform: bedrock:InvokeModel"}} (AccessDeniedException; model throttling)', "aws/not-allowed"),
        (
            'LiteLLM Proxy: litellm.RateLimitError: BedrockException - {"message": "Too many requests"}'
            " (ThrottlingException; model redis.exceptions)",
            "aws/too-many-requests",
        ),
        (
            "LiteLLM Proxy: litellm.APIConnectionError: BedrockException - Cannot connect to host bedrock.x:443"
            " [Name or service not known] (gaierror: [Errno -2] Name or service not known; model claude)",
            "upstream/unreachable",
        ),
        (
            "LiteLLM Proxy: litellm.APIConnectionError: BedrockException (ClientHttpProxyError: 407, message='Proxy"
            " Authentication Required', url='http://127.0.0.1:3128'; model claude)",
            "upstream/proxy-refused",
        ),
        (
            "LiteLLM Proxy: litellm.Timeout: APITimeoutError - Request timed out. Error_str: Request timed out."
            " (ConnectTimeout: Connection timeout to host http://192.0.2.1/chat/completions; model gpt)",
            "litellm/connect-timeout",
        ),
        (
            "LiteLLM Proxy: litellm.Timeout: Connection timed out. Timeout passed=Timeout(timeout=3.0),"
            " time taken=3.02 seconds (ConnectTimeout: Connection timeout to host https://bedrock.x/y; model a)",
            "litellm/connect-timeout",
        ),
        (
            "LiteLLM Proxy: litellm.Timeout: Connection timed out. Timeout passed=Timeout(timeout=3.0),"
            " time taken=3.02 seconds (ReadTimeout: Timeout on reading data from socket; model claude)",
            "litellm/request-timeout",
        ),
        (
            "LiteLLM Proxy: Presidio PII analysis failed (ConnectTimeout: Connection timeout to host"
            " http://10.0.0.1:5002/analyze; guardrail presidio)",
            "litellm/guardrail-unreachable",
        ),
        ("LiteLLM Proxy: litellm.APIConnectionError: The config profile (wrok) could not be found", "aws/no-profile"),
        (
            "LiteLLM Proxy: litellm.InternalServerError: InternalServerError: OpenAIException - Connection error."
            " (ConnectionRefusedError: [Errno 111] Connect call failed ('127.0.0.1', 3128); model gpt)",
            "upstream/unreachable",
        ),
        (
            "LiteLLM Proxy: litellm.InternalServerError: InternalServerError: OpenAIException - Connection error."
            " (ClientConnectorSSLError: Cannot connect to host x:443 [[SSL: CERTIFICATE_VERIFY_FAILED] certificate"
            " verify failed: unable to get local issuer certificate (_ssl.c:992)]; model gpt)",
            "upstream/untrusted",
        ),
        (
            "LiteLLM Proxy: litellm.AuthenticationError: AuthenticationError: OpenAIException - Incorrect API key"
            " provided: sk-bad. (invalid_api_key; model gpt)",
            "upstream/provider-key",
        ),
        (
            "LiteLLM Proxy: litellm.RateLimitError: RateLimitError: OpenAIException - Rate limit reached for gpt-x on"
            " tokens per day (rate_limit_exceeded; model gpt)",
            "upstream/provider-throttled",
        ),
        (REDIS, "litellm/redis"),
        (f"{REDIS} (ConnectionRefusedError: [Errno 111] Connection refused)", "litellm/redis"),
        (
            "LiteLLM Proxy: 400: {'error': '/chat/completions: Invalid model name passed in model=No space left on"
            " device. Call `/v1/models`'} (ProxyModelNotFoundError)",
            "litellm/client-model",
        ),
        (
            "LiteLLM Proxy: Invalid JSON payload received: unexpected end of data: line 1 column 63 (char 62)",
            "litellm/client-request",
        ),
        (
            'LiteLLM Proxy: litellm.BadRequestError: BedrockException - {"message": "messages.0: Too many open files,'
            ' prompt is too long: 9 tokens"} (ValidationException; model claude)',
            "aws/prompt-too-long",
        ),
        ("LiteLLM Proxy: Connection error. (gaierror: [Errno -2] Name or service not known)", "litellm/client-api"),
        (
            'LiteLLM: bedrock_api CountTokens API error: status=400, message={"message": "The provided model'
            ' identifier is invalid."}',
            "litellm/count-tokens",
        ),
        (
            "LiteLLM Proxy: 500: {'error': 'DB not connected. This endpoint'} (HTTPException)",
            "litellm/database-missing",
        ),
        (
            "LiteLLM Proxy: 'list' object has no attribute 'get' (AttributeError) https://github.com/BerriAI/litellm/"
            "issues/new?template=bug_report.yml&description=RateLimit+quota+Throttling+No+space+left+on+device",
            None,
        ),
        ("LiteLLM Proxy: litellm.APIConnectionError: 'str' object has no attribute 'get' (model quota)", None),
    ],
)
def test_causes_of_failed_requests(text: str, name: str | None) -> None:
    """A failed request has the cause that its exception, provider and error code name. Words in links, in what a
    client sent and in names of models are no cause, and other providers and Redis are not AWS.
    """
    found = find_signature(text)
    assert (f"{found.area}/{found.name}" if found else None) == name


def systemd(text: str, when: float) -> dict[str, Any]:
    return entry(text, pid="1", priority="4", when=when)


def test_one_event_for_a_failed_reload() -> None:
    """A reload that fails is counted once, and not as an end of the service; a failed start is counted once too."""
    reload_lines = [
        entry("reload failed, the previous configuration stays active: no model_list", when=1000),
        systemd("litellm.service: Control process exited, code=exited, status=1/FAILURE", 1001),
        systemd("Reload failed for litellm.service - LiteLLM.", 1001),
    ]
    (group,) = group_events(read_events(reload_lines))
    assert (group.signature and group.signature.name, group.count) == ("reload-failed", 1)
    (group,) = group_events(read_events(reload_lines[1:]))
    assert (group.signature and group.signature.name, group.count) == ("reload-command-failed", 1)
    for text in (
        "litellm.service: Changing to the requested working directory failed: Permission denied",
        "litellm.service: Failed to set up special execution directory in /var/lib: Read-only file system",
    ):
        (group,) = group_events(read_events([systemd(text, 1500)]))
        assert (group.signature and group.signature.name) == "cannot-execute"
    given_up = ("litellm.service: Job litellm.service/start timed out.", "Timed out starting litellm.service.")
    (group,) = group_events(read_events([systemd(text, 1500) for text in given_up]))
    assert (group.signature and group.signature.name, group.count) == ("job-timeout", 2)
    starts = [
        systemd(text, 2000 + 5 * number)
        for number in range(2)
        for text in (
            "litellm.service: Main process exited, code=exited, status=75/TEMPFAIL",
            "litellm.service: Failed with result 'exit-code'.",
            "Failed to start litellm.service - LiteLLM.",
        )
    ]
    (group,) = group_events(read_events(starts))
    assert (group.signature and group.signature.name, group.count) == ("unit-ended", 2)


def test_the_taken_port_comes_before_its_consequences() -> None:
    """A taken port is the first group, systemd's lines about the units that it stops are one end of the service, and
    a socket that an install replaced is no warning.
    """
    lines = [
        systemd("litellm.socket: Socket unit configuration has changed while unit has been running, no open", 900),
        systemd("litellm.socket: Failed to create listening socket (127.0.0.1:4000): Address already in use", 1000),
        systemd("litellm.socket: Failed with result 'resources'.", 1001),
        systemd("Failed to listen on litellm.socket - Port of the LiteLLM Proxy.", 1001),
        systemd("Dependency failed for litellm.service - LiteLLM Proxy.", 1002),
    ]
    groups = group_events(read_events(lines))
    names = [(group.signature and group.signature.name, group.count) for group in groups]
    assert names == [("port-taken", 1), ("unit-ended", 1)]


@pytest.mark.parametrize("how", ["recycled after 100 requests", "exited with code 0"])
def test_a_worker_that_lost_no_request_is_no_problem(how: str) -> None:
    """A worker that was drained before it was replaced is not taken for one that crashed."""
    assert find_signature(f"worker 2 (pid 71) {how}, replaced in 0.4 s") is None


def test_messages_of_systemd() -> None:
    """A message of systemd is recognised only in lines that systemd logged."""
    text = "/etc/systemd/system/litellm.service.d/x.conf:2: Unknown key name 'Nise' in section 'Service', ignoring."
    (event, quoted) = read_events([entry(text, pid="1"), entry(text)])
    assert event.signature is not None
    assert event.signature.name == "unit-line-ignored"
    assert quoted.signature is None


def test_signatures_are_complete() -> None:
    """Names are unique, and meaning and remedy have no full stop, which the report adds."""
    assert len({one.name for one in SIGNATURES}) == len(SIGNATURES)
    assert {one.area for one in SIGNATURES} == {"aws", "litellm", "service", "systemd", "upstream"}
    for one in SIGNATURES:
        assert not one.means.endswith("."), one.name
        assert not one.remedy.endswith("."), one.name


def test_one_request() -> None:
    """The events of a request are found by its id or a part of it, in all workers and in the access log."""
    access = {"message": "POST /v1/chat 200 5 ms 127.0.0.1", "level": "INFO", "litellm_call_id": CALL}
    events = read_events([*trace(CALL), *trace(OTHER, pid="8"), entry(json.dumps(access), pid="9", priority="6")])
    assert [event.pid for event in filter_by_request(events, CALL)] == ["7", "9"]
    assert [event.pid for event in filter_by_request(events, CALL[:8])] == ["7", "9"]
    report = build_request(tuple(filter_by_request(events, CALL)), CALL, "in the last day")
    assert report.title == f"2 events of request {CALL} in the last day"
    assert [row[1].partition("\n")[0] for row in report.facts] == [events[0].head, access["message"]]
    assert report.notes[0].startswith("The account's tokens for this minute are used up: ")
    assert "ACCESS_LOG=true" in build_request((), CALL, "today").notes[0]


def test_no_events_in_a_day() -> None:
    """If the default range of one day has no events, the title names the option for a longer range."""
    day, more = "in the last day", ": --since searches further back"
    assert build_errors((), day).title == f"no warnings and no errors {day}{more}"
    assert build_request((), CALL, day).title == f"0 events of request {CALL} {day}{more}"
    assert build_errors(group_events(read_events([entry("odd")])), day).title.endswith(day)
    assert build_request((), CALL, "in boot 0").title.endswith("in boot 0")


def test_report_of_errors() -> None:
    """Each kind is reported with count, times, sample and meaning; the exit code is 0."""
    report = build_errors(group_events(read_events([*trace(CALL), *trace(OTHER), entry("odd")])), "today")
    assert report.title == "3 warnings and errors of 2 kinds today"
    assert {check.name for check in report.checks} == {"too-many-tokens", "not known"}
    known = next(check for check in report.checks if check.name == "too-many-tokens")
    assert known.detail.startswith("2 times, ")
    assert THROTTLED in known.detail
    assert known.hint.startswith("The account's tokens for this minute are used up: wait, ")
    assert report.exit_code is ExitCode.OK
    assert {group["kind"]: group["count"] for group in report.data["groups"]} == {"too-many-tokens": 2, None: 1}
    assert build_errors((), "today").title == "no warnings and no errors today"


def test_messages_that_doctor_reports() -> None:
    """doctor reports errors of AWS at once, killed workers and past outages of Redis if there are several, and
    mistakes of clients never.
    """
    killed = "worker 2 (pid 71) was killed by SIGKILL, replaced in 0.4 s"

    def reported(*texts: str) -> set[str]:
        groups = group_events(read_events(entry(text) for text in texts))
        found = [group for area in ("aws", "litellm", "service") for group in reportable_groups(groups, area)]
        return {group.signature.name for group in found if group.signature}

    lost = "Redis cannot be used: no answer within 1 s. Until it can, each instance has its own limits"
    assert reported(killed, killed, lost, lost) == set()
    assert reported(lost, f"2 more in 60 s: {lost}") == {"redis"}
    assert reported(killed, killed, killed) == {"worker-killed"}
    assert reported("No api key passed in.", "prompt is too long: 9 tokens", THROTTLED) == {"too-many-tokens"}


def test_old_messages_are_not_reported() -> None:
    """Messages that are older than a day are not reported, however long the service has been running."""
    event = LogEvent(when=1000.0, priority=3, pid="7", text="x")
    assert recent_events((event,), 1001.0) == (event,)
    assert recent_events((event,), 1000.0 + 86_401) == ()


@pytest.mark.parametrize("arguments", [["--errors", "--request", CALL], ["--errors", "-f"], ["--request", "short"]])
def test_refused_options(arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Options that exclude each other, and an id that is too short, are rejected."""
    assert run_command(["logs", *arguments]) == ExitCode.USAGE
    assert "litellmctl: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("service: Ignoring invalid environment assignment 'export A=1': /etc/x.env", "environment-file"),
        ("socket: Failed to create listening socket (10.0.0.7:4000): Cannot assign", "socket-refused"),
        ("socket: Failed to create listening socket (127.0.0.1:4000): Address already in use", "port-taken"),
        ("service: State 'stop-sigterm' timed out. Killing.", "start-timeout"),
    ],
)
def test_messages_about_the_units(text: str, name: str) -> None:
    """Messages of systemd about the units are known."""
    found = find_signature(f"litellm.{text}", from_systemd=True)
    assert found is not None
    assert found.name == name
