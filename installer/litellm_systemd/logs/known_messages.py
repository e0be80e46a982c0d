"""Known messages in the journal, with meaning and remedy, for `litellmctl logs --errors` and doctor.

They are messages of LiteLLM, uvicorn, our runtime and systemd; those of AWS are in `bedrock.refusals`. A pattern of
the runtime also matches the wording of earlier versions, since the journal of an upgraded host contains both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from litellm_systemd.bedrock.refusals import REFUSALS, UNREACHABLE, UNTRUSTED

#: Refusals that are caused by a client's request, not by the host.
_CAUSED_BY_CLIENTS = ("prompt-too-long", "parameter-refused")


@dataclass(frozen=True, slots=True)
class Signature:
    """One known kind of message.

    `area`: its source or subject, one of aws, litellm, service, systemd
    and upstream (the connection to a provider, and other providers than AWS). `regex`: matches the message, which may
    contain what a client sent: a search must take linear time, so a gap between two words has a limit. `means`:
    one sentence without a full stop. `remedy`: what to do. `min_count`: how often the message must appear for doctor
    to report it; 0 for never, because a client caused it, it is normal, or another check of doctor covers it. A
    server that cannot be used now has a check of its own, so that a single outage, which is over, is not reported.
    """

    name: str
    area: str
    regex: str
    means: str
    remedy: str
    min_count: int = 1
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(self.regex, re.IGNORECASE | re.DOTALL))


_METRICS_PORT_TAKEN = Signature(
    "metrics-port-taken",
    "service",
    r"METRICS: cannot listen on |^litellm-metrics\.socket: Failed to (?:create|receive) listening socket",
    "Another program listens on the address of METRICS; the gateway serves without metrics",
    "stop that program, then: sudo litellmctl restart; or set another METRICS in .env, then: sudo litellmctl install",
    min_count=0,
)
_PORT_TAKEN = Signature(
    "port-taken",
    "service",
    r"cannot listen on .{0,200} (?:is|are) listening there|is held by .{0,200} or give another PORT"
    r"|Failed to (?:create|receive) listening socket.{0,200}Address already in use",
    "Another program listens on the port, or another address of litellm.socket excludes it, so the service cannot",
    "to find it: sudo litellmctl doctor; stop that program, then: sudo litellmctl start; or set another PORT in .env,"
    " then: sudo litellmctl install",
    min_count=0,
)
#: A child of systemd decrypts. Its lines may lack the name of systemd.
_CREDENTIALS_UNREADABLE = Signature(
    "credentials-unreadable",
    "systemd",
    r"Failed to set up credentials|Failed at step CREDENTIALS|^Decryption failed",
    "systemd cannot decrypt the secrets of the service, or read its certificate or key",
    "find the cause: sudo litellmctl doctor",
    min_count=0,
)
_SERVICE = (
    Signature(
        "worker-cannot-start",
        "service",
        r"cannot start a worker|a new worker can't start|can't start a worker"
        r"|^worker \d+ \(pid \d+\).{0,99} before it was ready",
        "A worker cannot start; those that serve take over its load",
        "fix what the message names, then: sudo litellmctl restart",
        min_count=0,
    ),
    Signature(
        "reload-failed",
        "service",
        r"reload failed, the (?:previous (?:configuration|certificate) stays active|configuration before serves on)",
        "A reload rejected the configuration or the certificate; the previous one stays in use",
        "fix what the message names, then: sudo systemctl reload litellm",
        min_count=0,
    ),
    Signature(
        "certificate-refused",
        "service",
        r"^TLS_CERT_FILE=.{1,400}: clients refuse the certificate: ",
        "The certificate of the service has expired or is not valid yet, so clients refuse the connection",
        "renew it, or correct the clock of this host; then: sudo systemctl reload litellm",
        min_count=0,
    ),
    Signature(
        "certificate-unusable",
        "service",
        r"^(?:(?:the key in )?TLS_(?:CERT|KEY)_FILE(?:=| )|OpenSSL refuses the files of TLS_CERT_FILE )",
        "The service cannot use the certificate or the key of its HTTPS, and does not start",
        "correct what the message names; to find the file and the command: sudo litellmctl doctor",
        min_count=0,
    ),
    Signature(
        "requests-cut",
        "service",
        r"force-closed \d+ requests? after|cut \d+ request\(s\) after",
        "Requests were still running after DRAIN_TIMEOUT at a stop or reload, and were aborted",
        "set a larger DRAIN_TIMEOUT in .env, then: sudo litellmctl install",
    ),
    Signature(
        "worker-exited",
        "service",
        r"worker \d+ \(pid \d+\) exited with code [1-9].{0,900}replaced",
        "Code in a worker ended its process, such as sys.exit() or os._exit() in a callback; its requests were lost",
        "correct the line that the message names; without one, search in the Python files of the configuration:"
        " grep -rnE '(exit|abort)\\(' /etc/litellm --include='*.py'",
    ),
    Signature(
        "worker-killed",
        "service",
        r"worker \d+ \(pid \d+\) (?:was killed|.{0,900} and was killed|ended).{0,300}replaced",
        "A worker was killed, hung or crashed, and was replaced; its requests were lost",
        "check the messages before this one, and the kernel log for memory: journalctl -k",
        min_count=3,
    ),
    Signature(
        "blocked",
        "service",
        r"worker \d+ \(pid \d+\) was blocked for \d+ s.*Its other requests waited",
        "Code of one request kept a worker busy for seconds, and the other requests of the worker waited",
        "the message names the request and the function: fix the callback if it is yours",
        min_count=3,
    ),
    Signature(
        "blocking-code",
        "service",
        r"blocks the event loop of a worker",
        "Code waits or calculates without `await`, and the other requests of its worker wait meanwhile",
        "let the code at the named line await, then: sudo litellmctl reload",
        min_count=0,
    ),
    Signature(
        "waiting-code",
        "service",
        r"has been waiting here for more than \d+ s",
        "Requests wait in your own Python file, such as a callback that calls a server which does not answer",
        "check that server, and let the code at the named line wait no longer than a timeout, then: sudo litellmctl"
        " reload",
    ),
    Signature(
        "memory-limit-too-low",
        "service",
        r"WORKER_MEMORY_LIMIT=\d+ has no effect|is too low to recycle anything",
        "WORKER_MEMORY_LIMIT is lower than the memory of a new worker, so it has no effect",
        "raise WORKER_MEMORY_LIMIT in .env, then: sudo litellmctl install",
    ),
    _METRICS_PORT_TAKEN,
    _PORT_TAKEN,
    Signature(
        "not-http",
        "service",
        r"Invalid HTTP request received",
        "A client uses another protocol than HTTP on the port, usually https:// instead of http://",
        "correct the client's URL, or serve HTTPS: docs/tls.md",
        min_count=20,
    ),
    Signature(
        "too-many-files",
        "service",
        r"Too many open files",
        "A process has reached its limit of open files and connections (LimitNOFILE)",
        "if the message names a file, close it in the code that opens it, then: sudo litellmctl restart; or set a"
        " larger LimitNOFILE= in a drop-in: sudo systemctl edit litellm",
    ),
    Signature(
        "too-many-tasks",
        "service",
        r"can't start new thread|(?:BlockingIOError|no new process).{0,99}Resource temporarily unavailable"
        r"|fork: .{0,40}Resource temporarily|pthread_create failed",
        "The service reached its limit of processes and threads (TasksMax, LimitNPROC), or of memory (LimitAS)",
        "set a larger one in a drop-in: sudo systemctl edit litellm; to see them: systemctl show litellm -p TasksMax"
        " -p LimitNPROC -p LimitAS",
    ),
    Signature(
        "no-space",
        "service",
        r"No space left on device|Disk quota exceeded",
        "A file system has no space left",
        "make space; to find out which one: df -h / /tmp /var/lib/litellm /var/cache/litellm; df -i /var",
    ),
    Signature(
        "out-of-memory",
        "service",
        r"\bMemoryError\b|Cannot allocate memory",
        "Memory ran out: the host has none left, or a limit is too low",
        "set a smaller NUM_WORKERS in .env, or add memory; then: sudo litellmctl install",
    ),
    Signature(
        "sandboxed",
        "service",
        r"Read-only file system|PermissionError: \[Errno 1\] Operation not permitted",
        "The sandbox, or a disk error, denied the service a write or another operation",
        "write below /var/lib/litellm, or relax one setting in a drop-in: sudo systemctl edit litellm",
    ),
)

#: Before the others: these messages quote what a client sent.
_CLIENTS = (
    Signature(
        "client-key-expired",
        "litellm",
        r"Authentication Error - Expired Key",
        "A client sent a virtual key that has expired",
        "give the client a new one: litellmctl key rotate",
        min_count=0,
    ),
    Signature(
        "client-key",
        "litellm",
        r"refused \d+ requests? with(?:out)? a|Invalid proxy server token|Malformed API Key|No api key passed in"
        r"|Authentication Error|LiteLLM Virtual Key expected",
        "A client sent no key or a wrong one",
        "configure the key in the client: LITELLM_MASTER_KEY in /etc/litellm/litellm.env",
        min_count=0,
    ),
    Signature(
        "client-feature",
        "litellm",
        r"has no web search: the tool|Previous response with id '[^']*' not found",
        "A client requested a web search or a stored response, which this gateway does not have",
        "deny WebSearch in the client, and let it send the whole conversation",
        min_count=0,
    ),
    Signature(
        "client-model",
        "litellm",
        r"Invalid model name passed in|no healthy deployments for this model",
        "A client requests a model that is not configured",
        "correct the client, or add the model or an alias to the configuration: sudo litellmctl models",
        min_count=0,
    ),
    Signature(
        "client-refused",
        "litellm",
        r": 4\d\d: .{0,900}\(HTTPException; [\w.-]{1,99}\.py:\d|[(;] ?refused by [\w.-]{1,99}\.py:\d",
        "Your own Python file, a guardrail or a callback, refused a request",
        "nothing to do, or correct the client",
        min_count=0,
    ),
    Signature(
        "client-gone",
        "litellm",
        r"client disconnected",
        "A client disconnected before it got its response",
        "nothing to do, or set a longer timeout in the client",
        min_count=0,
    ),
    Signature(
        "client-api",
        "litellm",
        r"^(?:LiteLLM Proxy: )?(?:Connection error\. \(|Missing credentials\. Please pass an `api_key`)",
        "A client called an API, such as files or moderations, for which the configuration has no provider",
        "correct the client, or configure that API: litellmctl config check",
        min_count=0,
    ),
    Signature(
        "client-request",
        "litellm",
        r"Invalid (?:JSON|form) payload|reading request body|Missing required parameter|Invalid Message passed in"
        r"|UnsupportedParamsError|RequestValidationError|'\w{1,40}' (?:must be a string|is required to be passed)"
        r"|^python_multipart\.",
        "A client's request is no valid JSON, lacks a field, or has a parameter that the model does not have",
        "correct the client; for unsupported parameters set drop_params: true under litellm_settings",
        min_count=0,
    ),
)

_LITELLM = (
    # Claude Code asks for the number of tokens; Bedrock has it for a few models only.
    Signature(
        "count-tokens",
        "litellm",
        r"CountTokens API error",
        "Bedrock does not count tokens for the model, and LiteLLM counts them itself",
        "nothing to do",
        min_count=0,
    ),
    Signature(
        "connect-timeout",
        "litellm",
        r"\(ConnectTimeout: (?!.{0,400}; guardrail )",
        "The provider, or a firewall before it, did not accept a connection in the time that the request allows",
        "check routes and firewall: ip route get ADDRESS; sudo nft list ruleset; sudo iptables -S",
        min_count=3,
    ),
    Signature(
        "request-timeout",
        "litellm",
        r"litellm\.Timeout: Connection timed out",
        "The provider took longer to respond than the timeout of the request allows",
        "set a larger timeout for the model or in the client",
        min_count=3,
    ),
    Signature(
        "unsendable-name",
        "litellm",
        r"'latin-1' codec can't encode",
        "A model has a name with characters that no header can carry, and each request of that name fails",
        "name it with the letters A to Z; to find it: sudo litellmctl config check",
        min_count=0,
    ),
    Signature(
        "time-zone",
        "litellm",
        r"^tzlocal: |/etc/timezone is deprecated",
        "The host names two time zones: /etc/timezone is not that of /etc/localtime, which counts",
        "sudo rm /etc/timezone",
        min_count=0,
    ),
    Signature(
        "job-skipped",
        "litellm",
        r'Execution of job ".{0,300}" skipped: maximum number of running instances',
        "A job of LiteLLM's took longer than its interval, and ran once less, as on a busy host",
        "nothing to do",
        min_count=0,
    ),
    Signature(
        "cooldown",
        "litellm",
        r"No deployments available",
        "All deployments of a model are in cooldown after failures, and there is no fallback",
        "fix the failures logged before this message, or configure a fallback",
    ),
    Signature(
        "database-missing",
        "litellm",
        r"No connected db|prisma.{0,200}(?:not connected|isn't connected)|DB not connected",
        "A request needs a database, as for virtual keys or the Admin UI, and there is none",
        "use the master key, or see DATABASE_URL in docs/linter.md#database",
        min_count=0,
    ),
    Signature(
        "database-unreachable",
        "litellm",
        r"^the database (?:cannot|could not) be used|Can't reach database server|P1001|asyncpg\.|psycopg"
        r"|PrismaClient\w*Error|prisma\.errors|Prisma Client Exception|Prisma DB reconnect|prisma-query-engine"
        r"|kind: ConnectionError\(|EngineRequestError|batch upsert failed.{0,99}All connection attempts failed",
        "LiteLLM's database did not respond, or rejected the login",
        "check DATABASE_URL, that PostgreSQL runs, and the network to it",
        min_count=3,
    ),
    Signature(
        "database-locked",
        "litellm",
        r'code: "(?:55P03|40P01)"',
        "Another session of PostgreSQL held a lock for which LiteLLM waited",
        "find the session while it holds the lock: sudo litellmctl doctor",
        min_count=0,
    ),
    Signature(
        "database-refuses",
        "litellm",
        r"kind: QueryError\(PostgresError|SQLSTATE \w{5}|\bP202[12]\b|does not exist in the current database"
        r"|cannot execute \w{1,30} in a read-only transaction",
        "PostgreSQL refused a statement: it is read-only, or a table, a column or a permission is missing",
        "find the cause: sudo litellmctl doctor",
        min_count=3,
    ),
    Signature(
        "database-interrupted",
        "litellm",
        r"rows go back for retry|requeued \d+ rows|retry on a later spend flush"
        r"|the database did not answer for a moment",
        "LiteLLM could not use its database for a moment, and tries again",
        "nothing to do if it is over; else find the cause: sudo litellmctl doctor",
        min_count=0,
    ),
    Signature(
        "redis",
        "litellm",
        r"^Redis (?:cannot|could not) be used|redis\.exceptions|Redis circuit breaker OPENED|connecting to Sync Redis"
        r"|Error -?\d{1,4} (?:while )?connecting to \S{1,99}:\d|Got exception from REDIS|request_redis_batch: "
        r"|Timeout (?:reading from|connecting to|writing to) (?:socket|\S{1,99}:\d)"
        r"|Redis(?:Cache|\.set|\.get|.{0,200} connect).{0,200}(?:error|exception|refused)"
        r"|OOM command not allowed|write against a read only replica|MISCONF Redis|Redis is loading the dataset",
        "Redis did not respond, or refused the service: limits, cooldowns and cached responses were not shared",
        "sudo litellmctl doctor",
        min_count=3,
    ),
    Signature(
        "proxy-unusable",
        "litellm",
        r"Using SOCKS proxy, but the|Missing dependencies for SOCKS support|Unknown scheme for proxy URL",
        "The service has the address of a proxy that the libraries of LiteLLM cannot use, such as a SOCKS proxy",
        "set HTTPS_PROXY, HTTP_PROXY and ALL_PROXY to HTTP proxies in .env, then: sudo litellmctl install",
    ),
    # Before the next one: the worker of a damaged release lacks the package of the metrics as well.
    Signature(
        "metrics-of-gone-worker",
        "litellm",
        r"Failed to (?:mark prometheus worker|delete stale prometheus file)",
        "LiteLLM could not remove the metrics of a worker that has exited",
        "nothing to do",
        min_count=0,
    ),
    Signature(
        "module-missing",
        "litellm",
        r"ModuleNotFoundError|No module named|ImportError: (?:cannot import|Could not import)",
        "The release lacks a Python package or file: it is damaged, or a callback or feature needs more than it has",
        "sudo litellmctl releases verify; if it is not damaged, add the package that has the module: sudo litellmctl"
        " install --with PACKAGE; or put the file next to the configuration: docs/configurations.md",
    ),
    Signature(
        "guardrail-skipped",
        "litellm",
        r"Skipping guardrail '.{0,200}': invalid configuration",
        "LiteLLM could not load a guardrail and serves without it: requests are not checked",
        "the message names the guardrail and the error: correct it, then: sudo systemctl reload litellm",
    ),
    Signature(
        "guardrail-unreachable",
        "litellm",
        r"; guardrail \w{1,60}(?:\)|; )",
        "LiteLLM cannot reach the server of a guardrail, and refuses each request that it checks",
        "start that server, or correct its address in .env or under guardrails, then: sudo litellmctl install",
    ),
    Signature(
        "key-guessing",
        "service",
        r"refused \d+ guessed keys? after",
        "A client guesses keys: it sent many different wrong keys",
        "block the address in the firewall or the security group",
        min_count=0,
    ),
    Signature(
        "budget",
        "litellm",
        r"Budget has been exceeded|ExceededBudget|max budget",
        "A LiteLLM budget is used up",
        "raise max_budget in the configuration, or wait for its reset",
    ),
    Signature(
        "limit-of-key",
        "litellm",
        r"Max parallel request limit reached|Crossed TPM / RPM / Max Parallel|LiteLLM Rate Limit Handler"
        r"|Rate limit exceeded for \w{1,40}: .{1,300}Limit type: |Key=\S{1,99} over available [TR]PM="
        r"|Model capacity reached for |Priority-based rate limit exceeded|Model rate limit exceeded\. [TR]PM limit=",
        "A client has reached a limit of its key, user or team, or one in LiteLLM's configuration",
        "slow the client down, or raise rpm, tpm or max_parallel_requests there",
        min_count=0,
    ),
    Signature(
        "callbacks-lost",
        "litellm",
        r"Success callback shutdown budget exhausted|LoggingWorker shutdown: \d+ \w+ (?:callbacks disc|still alive)"
        r"|Timed out draining logging tasks on shutdown",
        "A worker stopped before its callbacks had finished: logs and costs of its last requests may be missing",
        "check that the target of the callback answers, and how long it takes",
    ),
    Signature(
        "callback-slow",
        "litellm",
        r"LoggingWorker: \d+ callback\(s\) timed out after",
        "LiteLLM stopped a callback that logs requests because it took too long: logs and costs may be missing",
        "check that the target of the callback answers, and how long it takes",
        min_count=3,
    ),
    # Before those of AWS: LiteLLM quotes the error of the connection.
    Signature(
        "callback-export",
        "litellm",
        r"Langfuse export (?:to|dropped)|encountered while exporting (?:span|trace|metric|log)"
        r"|Failed to export (?:span|trace|metric|log)"
        r"|API error: status_code=\w{1,9}(?:, will retry| is not retryable, dropped) \d+ rec"
        r"|network error sending \d+ records|Error uploading to s3|^LiteLLM: s3 logging: |async_send_batch raised",
        "A callback could not deliver to its target; requests of clients are not affected",
        "check the address and the keys of that callback in .env, and that this host reaches it",
    ),
    Signature(
        "cache-on-disk",
        "litellm",
        r"the disk cache backend was removed|Unsupported cache type 'disk'",
        "LiteLLM has no cache on disk any more",
        "set type to local or redis under cache_params, and remove disk_cache_dir",
    ),
    Signature(
        "fallback-is-no-list",
        "litellm",
        r"must be a list of model names, got '",
        "The target of a fallback is a string, which LiteLLM rejects",
        "write it as a list in the configuration, such as default_fallbacks: [NAME]",
        min_count=0,
    ),
    Signature(
        "attachment-not-scanned",
        "litellm",
        r"letting \d+ unscannable attachment\(s\) through",
        "A guardrail let attachments through that it cannot scan, since skip_unscannable_attachments is set",
        "remove that setting from the guardrail, to refuse such requests",
    ),
    Signature(
        "vertex-credentials",
        "litellm",
        r"Vertex: (?:cannot read )?the credentials file at",
        "The service cannot read the credentials file of Vertex AI, or it is not valid",
        "check the path, and that the user litellm can read it; the service does not see /home and /root",
    ),
    Signature(
        "parameter-dropped",
        "litellm",
        r"because drop_params is on|\(drop_params=True\)|under drop_params|Dropping service_tier="
        r"|Bedrock rejected (?:native|the strict)",
        "LiteLLM left out a parameter that the model does not accept",
        "nothing to do, or remove the parameter in the client",
        min_count=0,
    ),
    Signature(
        "configuration-rejected",
        "litellm",
        r"^(?:LiteLLM rejects )?/etc/litellm/|^environment: |^[A-Z][A-Z\d_]{1,60}=.{0,200} is not "
        r"|^[A-Z]{2,30}_[A-Z\d_]{1,60} (?:has|is) ",
        "A file of the configuration or of the environment has an error",
        "correct what the message names; to find the file and the command: sudo litellmctl doctor",
        min_count=0,
    ),
    Signature(
        "file-damaged",
        "service",
        r": (?:file too short|invalid ELF header)|marshal data too short|bad marshal data",
        "A file of the release is damaged, as after a power loss",
        "sudo litellmctl releases verify; to rebuild the release: sudo litellmctl doctor --fix",
        min_count=0,
    ),
    Signature(
        "callback-raised",
        "service",
        r"[(;] ?[\w.-]{1,99}\.py:\d{1,6} [\w<>]{1,99}(?:\)|\s*$)",
        "Your own Python file, such as a callback, raised an exception",
        "correct the line that the message names, then: sudo litellmctl reload",
    ),
    Signature(
        "file-denied",
        "service",
        r"PermissionError: \[Errno 13\] Permission denied: '/",
        "The user of the service may not open a file or folder, such as one that a variable names",
        "to find the cause: sudo litellmctl doctor",
        min_count=0,
    ),
    Signature(
        "model-cost",
        "litellm",
        r"This model isn't mapped yet",
        "LiteLLM's model map does not contain the model: it works, but its cost counts as 0",
        "set input_cost_per_token and output_cost_per_token under model_info, or upgrade: litellmctl upgrade",
    ),
    Signature(
        "cache-cost",
        "litellm",
        r"register_model: .{0,200}has custom pricing but not in built-in cost map",
        "The model_info of a model has no price of cached tokens, so they cost nothing in its spend",
        "add cache_creation_input_token_cost and cache_read_input_token_cost to it",
        min_count=0,
    ),
)

_SYSTEMD = (
    Signature(
        "socket-refused",
        "systemd",
        r"Failed to (?:create|receive) listening socket",
        "systemd cannot open the port: its address is not one of this host, or may not be used",
        "to find the cause: sudo litellmctl doctor",
        min_count=0,
    ),
    Signature(
        "start-limit",
        "systemd",
        r"Start request repeated too quickly",
        "The service failed so often in a row that systemd no longer starts it",
        "fix what made it fail, then: sudo litellmctl start",
        min_count=0,
    ),
    Signature(
        "oom-killer",
        "systemd",
        r"killed by the OOM killer|oom-kill",
        "The kernel killed a process because memory ran out",
        "set WORKER_MEMORY_LIMIT and a smaller NUM_WORKERS in .env, or add memory; then: sudo litellmctl install",
        min_count=0,
    ),
    Signature(
        "watchdog",
        "systemd",
        r"Watchdog timeout",
        "The main process did not notify the watchdog in time, so systemd killed it",
        "on a slow host set a larger WATCHDOG_TIMEOUT in .env; to find the cause: sudo litellmctl doctor",
        min_count=0,
    ),
    _CREDENTIALS_UNREADABLE,
    Signature(
        "cannot-execute",
        "systemd",
        r"Failed at step \w+ spawning|Failed to set up .{0,200}namespac"
        r"|Failed to determine (?:user|group|supplementary groups)|Failed to set up special execution directory"
        r"|Changing to the requested working directory failed|Failed to execute \S{1,200}: ",
        "systemd could not set up the sandbox, or run the Python of the release or a command of a drop-in",
        "find the cause: sudo litellmctl doctor",
        min_count=0,
    ),
    Signature(
        "environment-file",
        "systemd",
        r"Failed to load environment files|Ignoring invalid environment assignment",
        "A file that EnvironmentFile= of the unit or of a drop-in names cannot be read, or has an ignored line",
        "find the file: sudo litellmctl doctor",
        min_count=0,
    ),
    Signature(
        "start-timeout",
        "systemd",
        r"(?:start|reload|stop-\w+).{0,200} operation timed out"
        r"|State '(?:start|reload|stop-(?!watchdog))[\w-]*' timed out",
        "The service did not become ready, or did not stop, within its timeout",
        "set a larger START_TIMEOUT or DRAIN_TIMEOUT in .env, then: sudo litellmctl install",
        min_count=0,
    ),
    Signature(
        "runtime-limit",
        "systemd",
        r"Service reached runtime time limit",
        "systemd ended the service at RuntimeMaxSec= of a drop-in, and its requests were lost",
        "remove that line: sudo litellmctl doctor",
        min_count=0,
    ),
    Signature(
        "job-timeout",
        "systemd",
        r"Job \S+ timed out|^Timed out (?:start|stopp)ing ",
        "systemd gave up a job of the service at JobTimeoutSec= or JobRunningTimeoutSec= of a drop-in",
        "remove that line; to find it: systemctl cat litellm.service litellm.socket",
        min_count=0,
    ),
    Signature(
        "unit-ended",
        "systemd",
        r"Main process exited|Failed with result|Failed to (?:start|listen|run '\S{1,20}' task)|Dependency failed"
        r"|Control process exited",
        "The service failed or could not be started; the messages before this one say why",
        "find the cause: sudo litellmctl doctor",
        min_count=0,
    ),
    Signature(
        "reload-command-failed",
        "systemd",
        r"Reload failed for",
        "systemctl reload failed, and the service keeps serving as before",
        "the messages before this one say why: litellmctl logs",
        min_count=0,
    ),
    Signature(
        "unit-refused",
        "systemd",
        r"\.service: .{1,200} Refusing\.$",
        "systemd does not load the unit because of one of its settings",
        "find the line: sudo litellmctl doctor",
        min_count=0,
    ),
    Signature(
        "unit-line-ignored",
        "systemd",
        r"(?:Unknown key(?: name)?|Unknown lvalue|Failed to parse|Invalid).{0,200}ignoring",
        "systemd ignores a line of the unit or of a drop-in",
        "correct that line, then: sudo systemctl daemon-reload && sudo litellmctl restart",
        min_count=0,
    ),
)

_AWS = (
    Signature(
        "stream-denied",
        "aws",
        r"Bedrock denied bedrock:InvokeModelWithResponseStream",
        "The credentials may not stream, so LiteLLM sent a request again without streaming",
        "allow bedrock:InvokeModelWithResponseStream; to print the policy: litellmctl iam-policy",
    ),
    Signature(
        "no-profile",
        "aws",
        r"The config profile \(.{1,200}\) could not be found",
        "The service cannot find the AWS profile in the files of profiles that it reads",
        "correct AWS_PROFILE, or the file that AWS_SHARED_CREDENTIALS_FILE or AWS_CONFIG_FILE names; to check it:"
        " sudo litellmctl doctor",
    ),
    *(
        Signature(
            one.name,
            "aws",
            one.regex,
            one.cause,
            one.remedy.removesuffix("."),
            min_count=0 if one.name in _CAUSED_BY_CLIENTS else 1,
        )
        for one in REFUSALS
        if one not in (UNREACHABLE, UNTRUSTED)
    ),
)

_UPSTREAM = (
    Signature(
        "disconnected",
        "upstream",
        r"Server disconnected(?: without sending a response)?",
        "The provider, or a proxy or firewall before it, closed the connection without an answer",
        "check the proxy: sudo litellmctl doctor",
        min_count=3,
    ),
    Signature(
        "silent-names",
        "upstream",
        r"the name servers have not answered for ",
        "The name servers of this host do not answer, and requests wait for the address of the provider",
        "check the name servers in /etc/resolv.conf, and that the firewall allows port 53: getent ahosts HOST",
    ),
    Signature(
        "silent-provider",
        "upstream",
        r"has not accepted a connection within \d+ s, and requests wait",
        "The provider, or a firewall before it, does not answer, and requests wait for a connection",
        "check routes and firewall: ip route get ADDRESS; sudo nft list ruleset; sudo iptables -S",
    ),
    Signature(
        "untrusted",
        "upstream",
        UNTRUSTED.regex + r"|\[SSL: ",
        UNTRUSTED.cause,
        UNTRUSTED.remedy.removesuffix("."),
    ),
    Signature(
        "proxy-refused",
        "upstream",
        r"Proxy Authentication Required|(?:ClientHttpProxyError|Tunnel connection failed): 40[37]\b",
        "The proxy rejects connections of the service",
        "correct HTTPS_PROXY in .env (with a user: http://USER:PASSWORD@HOST:PORT), or allow the provider in the"
        " proxy; then: sudo litellmctl install",
    ),
    Signature(
        "unreachable",
        "upstream",
        UNREACHABLE.regex,
        UNREACHABLE.cause,
        "check DNS, proxy and routes of this host, and the address in the configuration (api_base,"
        " AWS_BEDROCK_RUNTIME_ENDPOINT)",
    ),
)

#: Calls of other providers than AWS, by the exception of LiteLLM.
_PROVIDERS = (
    Signature(
        "provider-key",
        "upstream",
        r"litellm\.(?:AuthenticationError|PermissionDeniedError)|invalid_api_key",
        "The provider rejects the key of a model",
        "correct the key in .env or in the configuration, then: sudo litellmctl install",
    ),
    Signature(
        "provider-quota",
        "upstream",
        r"insufficient_quota|exceeded your current quota",
        "The account at the provider has no credit left, or its quota is used up",
        "check plan and billing at the provider",
    ),
    Signature(
        "provider-throttled",
        "upstream",
        r"litellm\.RateLimitError",
        "The provider throttles requests",
        "wait, or request a higher limit from the provider",
    ),
    Signature(
        "provider-model",
        "upstream",
        r"litellm\.NotFoundError|model_not_found",
        "The provider does not have the model, or nothing at that address",
        "correct the model, or its api_base, in the configuration",
    ),
    Signature(
        "provider-timeout",
        "upstream",
        r"litellm\.Timeout",
        "The provider took longer to respond than the timeout allows",
        "set a larger timeout for the model, or use another model",
    ),
    Signature(
        "provider-request",
        "upstream",
        r"litellm\.(?:BadRequestError|UnprocessableEntityError|ContextWindowExceededError|ContentPolicyViolationError)",
        "The provider rejects a request of a client",
        "correct the client, or set drop_params: true under litellm_settings",
        min_count=0,
    ),
    Signature(
        "provider-failed",
        "upstream",
        r"litellm\.(?:InternalServerError|ServiceUnavailableError|APIError|APIConnectionError|BadGatewayError)",
        "The provider failed on a request",
        "try again; if it fails again, check the status page of the provider",
    ),
)

#: Tried in this order. A message that contains the text of another one comes after it.
SIGNATURES = (*_CLIENTS, *_SERVICE, *_LITELLM, *_UPSTREAM, *_AWS, *_PROVIDERS, *_SYSTEMD)
_GENERAL = (
    *(one for one in SIGNATURES if one not in (*_PROVIDERS, *_SYSTEMD)),
    _CREDENTIALS_UNREADABLE,
)

#: What a pattern must not match: links, such as that of LiteLLM to report a bug, and names of models.
_NO_MESSAGE = re.compile(
    r"\bhttps?://[^\s'\"<>);]+|\bmodel(?: group)?(?:=| ')[\w./:@*+-]+|[;(] ?model [^()\n]{1,200}\)$", re.IGNORECASE
)
#: How LiteLLM introduces the message of a provider.
_PROVIDER = re.compile(r"litellm\.\w{1,60}: (?:litellm\.)?(?:\w{1,60}: )?([A-Za-z_]{1,40})Exception\b")
_AWS_PROVIDERS = ("bedrock", "sagemaker", "amazon")


def find_signature(text: str, *, from_systemd: bool = False) -> Signature | None:
    """The known message that matches.

    Messages of systemd are matched only against its own lines, those of AWS not against the errors of other
    providers. What a provider sent is no message of the service or of LiteLLM.
    """
    text = _NO_MESSAGE.sub(" ", text)
    if from_systemd:
        candidates: tuple[Signature, ...] = (_METRICS_PORT_TAKEN, _PORT_TAKEN, *_SYSTEMD)
    elif (provider := _PROVIDER.search(text)) is None:
        candidates = _GENERAL
    elif provider[1].lower().startswith(_AWS_PROVIDERS):
        candidates = (*_UPSTREAM, *_AWS)
    else:
        candidates = (*_UPSTREAM, *_PROVIDERS)
    return next((one for one in candidates if one.pattern.search(text)), None)
