"""Lines of the journal that are known: what each means and what to do. For `litellmctl logs --errors` and doctor.

The messages are those of LiteLLM, uvicorn, the runtime and systemd; those of AWS are in `bedrock.refusals`. A pattern
of the runtime also matches the wording of earlier versions, because the journal of an upgraded host holds both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from litellm_systemd.bedrock.refusals import REFUSALS

#: Refusals that are about what a client asked, and not about the host.
_OF_CLIENTS = ("prompt-too-long", "parameter-refused")


@dataclass(frozen=True, slots=True)
class Signature:
    """One known kind of line.

    `area` is who says it or of whom it tells: aws, litellm, service or systemd. `words` is a regular expression;
    `means` a sentence without its full stop; `remedy` what to do. `least`: so often it has to be there to be worth a
    word of doctor's; 0 if it never is, since it is a client's fault, normal, or told by another check from the state
    of things.
    """

    name: str
    area: str
    words: str
    means: str
    remedy: str
    least: int = 1
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(self.words, re.IGNORECASE | re.DOTALL))


_SERVICE = (
    Signature(
        "worker-cannot-start",
        "service",
        r"cannot start a worker|a new worker can't start|can't start a worker",
        "A worker ended and no new one gets ready; the others take its load",
        "mend what the line names, then: sudo litellmctl restart",
        least=0,
    ),
    Signature(
        "reload-failed",
        "service",
        r"reload failed, the (?:previous configuration stays active|configuration before serves on)",
        "The configuration was refused at a reload; the one before it serves on",
        "mend what the line names, then: sudo systemctl reload litellm",
        least=0,
    ),
    Signature(
        "requests-cut",
        "service",
        r"force-closed \d+ requests? after|cut \d+ request\(s\) after",
        "Requests still ran when a stop or reload had waited for DRAIN_TIMEOUT, and were ended",
        "set a larger DRAIN_TIMEOUT in .env, then: sudo litellmctl install",
    ),
    Signature(
        "worker-killed",
        "service",
        r"worker \d+ \(pid \d+\) (?:was killed|.* and was killed|ended).*replaced in",
        "A worker was killed, hung or crashed, and another took its place; its requests are lost",
        "look for the kernel's word on memory (journalctl -k), and at what comes before it in the log",
        least=3,
    ),
    Signature(
        "memory-limit-too-low",
        "service",
        r"WORKER_MEMORY_LIMIT=\d+ has no effect|is too low to recycle anything",
        "WORKER_MEMORY_LIMIT is below what a fresh worker takes, so that it has no effect",
        "raise WORKER_MEMORY_LIMIT in .env, then: sudo litellmctl install",
    ),
    Signature(
        "port-taken",
        "service",
        r"cannot listen on .* (?:is|are) listening there|is held by .* or give another PORT",
        "Another program listens on the port, so that the service can't",
        "stop that program, then: sudo litellmctl start; or set another PORT in .env, then: sudo litellmctl install",
        least=0,
    ),
    Signature(
        "not-http",
        "service",
        r"Invalid HTTP request received",
        "A client speaks something else than HTTP to the port, mostly https:// in place of http://",
        "correct the client's address, or put a proxy with TLS before the gateway",
        least=20,
    ),
    Signature(
        "too-many-files",
        "service",
        r"Too many open files",
        "A process has as many files and connections open as it may",
        "a drop-in with a larger LimitNOFILE= (systemctl edit litellm), then: sudo litellmctl restart",
    ),
    Signature(
        "no-space",
        "service",
        r"No space left on device|Disk quota exceeded",
        "A file system was full",
        "df -h; sudo litellmctl doctor",
    ),
    Signature(
        "out-of-memory",
        "service",
        r"\bMemoryError\b|Cannot allocate memory",
        "There was no memory to be had",
        "fewer NUM_WORKERS in .env, or more memory",
    ),
    Signature(
        "sandboxed",
        "service",
        r"Read-only file system|PermissionError: \[Errno 1\] Operation not permitted",
        "The sandbox, or a disk in trouble, kept the service from writing or doing something",
        "write below /var/lib/litellm, or loosen one line in a drop-in: systemctl edit litellm",
    ),
)

_LITELLM = (
    Signature(
        "cooldown",
        "litellm",
        r"No deployments available",
        "All deployments of a model are resting (cooldown) after failures, and no fallback is left",
        "mend what the failures before it tell; a fallback would have answered",
    ),
    Signature(
        "database-missing",
        "litellm",
        r"No connected db|prisma.*(?:not connected|isn't connected)|DB not connected",
        "Something was asked for that takes a database, such as virtual keys or the Admin UI, and there is none",
        "use the master key, or see DATABASE_URL in docs/linter.md#database",
        least=0,
    ),
    Signature(
        "redis",
        "litellm",
        r"redis\.exceptions|Redis(?:Cache|\.set|\.get|.* connect).*(?:error|exception|refused)",
        "The Redis that the configuration names doesn't answer: cache and limits aren't shared",
        "check REDIS_HOST, REDIS_PORT and REDIS_PASSWORD, and the way there",
    ),
    Signature(
        "module-missing",
        "litellm",
        r"ModuleNotFoundError|No module named|ImportError: (?:cannot import|Could not import)",
        "A callback or a feature needs a Python package or a file that isn't in the release",
        "name it without that package, or put the file beside the configuration: docs/operations.md",
    ),
    Signature(
        "client-key",
        "litellm",
        r"Invalid proxy server token|Malformed API Key|No api key passed in|Authentication Error"
        r"|LiteLLM Virtual Key expected",
        "A client has no key or a wrong one",
        "give the client the key: LITELLM_MASTER_KEY in /etc/litellm/litellm.env",
        least=0,
    ),
    Signature(
        "client-model",
        "litellm",
        r"Invalid model name passed in|no healthy deployments for this model",
        "A client asks for a model that the configuration doesn't name",
        "correct the client, or add the model or an alias to the configuration: litellmctl models",
        least=0,
    ),
    Signature(
        "client-gone",
        "litellm",
        r"client disconnected",
        "A client hung up before its answer was there",
        "nothing, or a longer time-out in the client",
        least=0,
    ),
    Signature(
        "budget",
        "litellm",
        r"Budget has been exceeded|ExceededBudget|max budget",
        "A budget of LiteLLM's is used up",
        "raise max_budget in the configuration, or wait for its reset",
    ),
    Signature(
        "limit-of-key",
        "litellm",
        r"Max parallel request limit reached|Crossed TPM / RPM / Max Parallel|LiteLLM Rate Limit Handler",
        "A client has reached a limit that LiteLLM was given",
        "raise rpm, tpm or max_parallel_requests in the configuration, or have the client slow down",
        least=0,
    ),
    Signature(
        "model-cost",
        "litellm",
        r"This model isn't mapped yet",
        "LiteLLM's map doesn't know the model: it works, and its cost counts as nothing",
        "set input_cost_per_token and output_cost_per_token under model_info, or upgrade: litellmctl upgrade",
    ),
)

_SYSTEMD = (
    Signature(
        "start-limit",
        "systemd",
        r"Start request repeated too quickly",
        "The service died so often in a row that systemd doesn't start it any more",
        "mend what it died of, then: sudo litellmctl start",
        least=0,
    ),
    Signature(
        "oom-killer",
        "systemd",
        r"killed by the OOM killer|oom-kill",
        "The kernel killed a process for want of memory",
        "fewer NUM_WORKERS and a WORKER_MEMORY_LIMIT in .env, or more memory",
        least=0,
    ),
    Signature(
        "watchdog",
        "systemd",
        r"Watchdog timeout",
        "The main process gave no sign of life and was killed by systemd",
        "sudo litellmctl doctor; a larger WATCHDOG_TIMEOUT in .env gives a slow host time",
        least=0,
    ),
    Signature(
        "cannot-execute",
        "systemd",
        r"Failed at step \w+ spawning|Failed to set up .*namespac",
        "systemd couldn't set up the sandbox or run the release's Python",
        "sudo litellmctl doctor",
        least=0,
    ),
    Signature(
        "environment-file",
        "systemd",
        r"Failed to load environment files",
        "The environment file is gone or can't be read",
        "sudo litellmctl install",
        least=0,
    ),
    Signature(
        "start-timeout",
        "systemd",
        r"(?:start|reload|stop-\w+).* operation timed out",
        "It wasn't ready, or didn't stop, in the time that it has",
        "set a larger START_TIMEOUT or DRAIN_TIMEOUT in .env, then: sudo litellmctl install",
        least=0,
    ),
    Signature(
        "unit-ended",
        "systemd",
        r"Main process exited|Failed with result|Failed to start|Control process exited|Reload failed",
        "The service ended badly, or wasn't started; the lines before it tell why",
        "sudo litellmctl doctor",
        least=0,
    ),
    Signature(
        "unit-line-ignored",
        "systemd",
        r"(?:Unknown key(?: name)?|Unknown lvalue|Failed to parse|Invalid).*ignoring",
        "systemd ignores a line of the unit or of a drop-in",
        "correct that line, then: systemctl daemon-reload && sudo litellmctl restart",
    ),
)

_AWS = tuple(
    Signature(
        one.name,
        "aws",
        one.words,
        one.cause,
        one.remedy.removesuffix("."),
        least=0 if one.name in _OF_CLIENTS else 1,
    )
    for one in REFUSALS
)

#: Tried in this order. What wraps another's words comes after what it could be taken for.
SIGNATURES = (*_SYSTEMD, *_SERVICE, *_LITELLM, *_AWS)


def find_signature(text: str, *, of_systemd: bool = False) -> Signature | None:
    """What a message is known as; systemd's own words are looked for in its own lines alone."""
    return next(
        (one for one in SIGNATURES if (one.area == "systemd") is of_systemd and one.pattern.search(text)), None
    )
