"""Failures in the log of a worker: what an operator must act on, and which records are about one failure.

LiteLLM logs a failed call up to five times, each with 20 to 180 lines, and logs a mistake of a client like a fault
of the service. Here each failed request is one `Failure`, in one line. Its priority follows from the exception: its
type, its status, and the error code of the provider. Nothing here imports LiteLLM or its libraries.
"""

from __future__ import annotations

import dis
import errno
import logging
import re
import socket
import ssl
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from litellm_systemd.runtime.activity import Frame, render_stack

#: The key in the `state` of an ASGI scope for a request of `verify` that is to be refused.
IS_EXPECTED = "litellm_systemd.is_expected"
#: The attribute of a log record with the name of the model that has answered in place of the one that failed.
FALLBACK = "litellm_systemd_fallback"
#: The priorities of syslog(3).
ERROR, WARNING, INFO = 3, 4, 6

#: Exceptions of aiohttp, httpx and botocore that mean: no connection to the provider, by name.
_NO_CONNECTION = frozenset(
    {
        "ClientConnectorError",
        "ClientConnectorCertificateError",
        "ClientConnectorDNSError",
        "ClientConnectorSSLError",
        "ClientHttpProxyError",
        "ClientProxyConnectionError",
        "ConnectError",
        "ConnectTimeout",
        "ConnectTimeoutError",
        "EndpointConnectionError",
        "ProxyConnectionError",
        "ProxyError",
        "SSLError",
    }
)
#: Exceptions of botocore that mean: no usable credentials.
_NO_CREDENTIALS = frozenset(
    {
        "CredentialRetrievalError",
        "MetadataRetrievalError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
    }
)
#: Error codes of AWS about its credentials, which fail each model.
_AWS_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
#: With that of OpenAI. Each has the same cause for each model of a provider.
_CREDENTIALS = _AWS_CREDENTIALS | {"invalid_api_key"}
#: Those that a change of credentials, permissions, quotas or the configuration fixes.
_OPERATOR_CODES = _CREDENTIALS | {
    "AccessDenied",
    "AccessDeniedException",
    "OptInRequired",
    "ResourceNotFoundException",
    "ServiceQuotaExceededException",
    "insufficient_quota",
    "model_not_found",
}
#: How AWS's messages begin that are about the configured model, although the code is that of an invalid request.
_CONFIGURED_MODEL = re.compile(
    r'"message": ?"(?:Operation not allowed|Invocation of model ID |The provided model identifier is invalid)',
    re.IGNORECASE,
)
_EXHAUSTED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS})
#: The modules of LiteLLM that fetch what a URL in a request names.
_FETCHES = ("/image_handling.py", "/url_utils.py")
#: The modules of LiteLLM that call the server of a guardrail, by the name of the guardrail's type.
_GUARDRAIL = re.compile(r"/guardrails/guardrail_hooks/(\w{1,60})")
#: LiteLLM's class from which guardrails are derived, and Python's instruction of `raise`.
_GUARDRAIL_CLASS, _RAISE = "CustomGuardrail", dis.opmap["RAISE_VARARGS"]
#: The module of LiteLLM that logs why it refuses a key.
_AUTHENTICATION = "auth_exception_handler"
#: Packages of the service's own stores.
_STORES = ("redis", "prisma", "asyncpg", "psycopg")
_DISCONNECTED = 499

#: LiteLLM's introduction of a failed request, which names its own function.
_INTRODUCTION = re.compile(
    r"^(?:litellm\.[\w.]{1,80}(?:::\w{1,60})?\(\)(?:: ?| - ))?"
    r"(?:Exception occurr?ed - |Error occurred while trying to do fallbacks - )?(?:litellm_call_id=\S{1,256} - )?"
)
#: In LiteLLM's message about an exception that has ended a request. It survives others, as of a hook for headers.
_ENDS_REQUEST = "_handle_llm_api_exception(): Exception"
#: What follows the message of the provider: advice of LiteLLM, tracebacks, links.
_END = re.compile(
    r"\n\n|\s?Traceback \(most|\nThis looks like a bug|\nDebug Information:|\nLiteLLM: model group|\nRequester IP"
    r"|\n?model=\S{1,200} context_window_fallbacks="
)
#: An object in aiohttp's messages, whose address differs each time.
_OBJECT = re.compile(r" ssl:(?:<[^<>]{1,80}>|default)")
#: The error code in the JSON body of a response, as of OpenAI.
_CODE = re.compile(r'"code": ?"([A-Za-z_]{1,80})"')
#: The model group of a call. Of several, as in 'tier -> requested', the first one is where LiteLLM routed it.
_GROUP = re.compile(r"model group '([^'\n]{1,200}?)(?: -> [^'\n]{1,400})?' failed")
#: The loggers of OpenTelemetry, what differs in each of their messages, and how those begin that name no cause.
_TELEMETRY = "opentelemetry."
_RETRYING = re.compile(r",? retrying in [\d.]+s\.?")
_WITHOUT_CAUSE = (
    "Failed to export %s batch due to timeout, max retries or shutdown.",
    "Shutdown in progress, aborting retry.",
    "Exporter already shutdown, ignoring batch",
    "Shutdown called, ignoring %s.",
)
_MAX_TEXT = 1000
_MAX_CHAIN, _MAX_FRAMES = 20, 200
#: Failures that one request holds: a WebSocket may last for hours, and each holds its traceback.
_MAX_HELD = 20


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure in one line, with its priority as in syslog(3).

    `kind`: equal for failures with the same cause. `call`: the x-litellm-call-id of the request, if it is known.
    `by_client`: LiteLLM refused the request because of a mistake of its client, so its traceback shows nothing.
    `by_own_code`: an exception of the user's code, other than a refusal, has ended the request.
    """

    priority: int
    kind: str
    text: str
    call: str = ""
    by_client: bool = False
    by_own_code: bool = False

    @property
    def whole(self) -> str:
        """The text with the id of the request."""
        return f"{self.text} [request {self.call}]" if self.call else self.text


class CallCount:
    """The requests of this process that have ended and called a model or were about to, and those among them that
    failed in the user's code.
    """

    def __init__(self) -> None:
        self.total = self.failed = 0


CALLS = CallCount()


class Incident:
    """The failures of one request. LiteLLM logs an exception in each layer that it passes.

    `is_call`: the request calls a model. `is_broken`: the user's code has failed it.
    """

    def __init__(self, scope: Any) -> None:
        self.ended = self.is_call = self.is_broken = False
        self._state: Mapping[str, Any] = scope.get("state", {})
        self._reported: deque[BaseException] = deque(maxlen=_MAX_HELD)
        #: The codes about AWS's credentials of the reported errors.
        self._codes: set[str] = set()
        self._held: list[tuple[BaseException, Callable[[], None]]] = []

    @property
    def is_expected(self) -> bool:
        """Whether `verify` sent the request in order to see it refused."""
        return bool(self._state.get(IS_EXPECTED))

    def claims(self, record: logging.LogRecord, error: BaseException, report: Callable[[], None]) -> bool:
        """Whether the record is to be reported now. Otherwise another record is about the same exception.

        The proxy logs last, with the id of the request. What an inner layer logs is held until then.
        """
        if self._is_reported(error):
            return False
        if record.levelno < logging.ERROR or self.ended or is_final(record) or len(self._held) >= _MAX_HELD:
            self._reported.append(error)
            if record.levelno >= logging.ERROR and (code := find_code(error)) in _AWS_CREDENTIALS:
                self._codes.add(code)
            return True
        self._held.append((error, report))
        return False

    def end(self) -> None:
        """The request has ended: report what the proxy has not reported, the last record of each exception."""
        held, self._held = self._held, []
        self.ended = True
        # The router logs the failure of a fallback, and the proxy that of the model. AWS's credentials fail both.
        for error, report in reversed(held):
            if not self._is_reported(error) and find_code(error) not in self._codes:
                self._reported.append(error)
                report()
        CALLS.total += self.is_call
        CALLS.failed += self.is_call and self.is_broken

    def _is_reported(self, error: BaseException) -> bool:
        mine = set(map(id, _chain(error)))
        return any(id(error) in map(id, _chain(each)) or id(each) in mine for each in self._reported)


_INCIDENT: ContextVar[Incident] = ContextVar("litellm_systemd_incident")


async def watch(scope: Any, serving: Coroutine[Any, Any, None]) -> None:
    """Serve the request of an ASGI scope, and report each of its failures once."""
    incident = Incident(scope)
    _INCIDENT.set(incident)
    try:
        await serving
    finally:
        incident.end()


def current_incident() -> Incident | None:
    """The failures of the request that runs now, or whose task runs now; None outside of requests."""
    return _INCIDENT.get(None)


def is_final(record: logging.LogRecord) -> bool:
    """Whether LiteLLM's outermost layer logs the failure."""
    return record.name not in ("LiteLLM", "LiteLLM Router")


def has_no_cause(record: logging.LogRecord) -> bool:
    """Whether a record only repeats that an earlier one, with the cause, was about a failure."""
    return _is_telemetry(record) and record.msg in _WITHOUT_CAUSE


def _is_telemetry(record: logging.LogRecord) -> bool:
    return str(record.name).startswith(_TELEMETRY)


def find_error(record: logging.LogRecord) -> BaseException | None:
    """The exception that the record is about: its own, or the one that is being handled."""
    found = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    return found or sys.exc_info()[1]


def build_failure(
    record: logging.LogRecord, error: BaseException | None, *, in_request: bool, is_model: Callable[[str], bool]
) -> Failure:
    """The failure that a record of level WARNING or above reports.

    `is_model`: whether the configuration has a model group of that name; with wildcards, clients choose names.
    """
    call = str(getattr(record, "litellm_call_id", None) or "")[:256]
    message = record.getMessage()
    if _is_telemetry(record):
        # Each signal, retry and worker logs the same cause, and no request is affected.
        return Failure(WARNING, _TELEMETRY, _RETRYING.sub("", _line(message)))
    if error is None or record.levelno < logging.ERROR:
        about_a_request = call or hasattr(record, "requester_ip") or record.levelno < logging.ERROR
        kind = f"{record.name} {record.module}:{record.lineno}"
        return Failure(WARNING if about_a_request else ERROR, kind, _line(message), call)
    group = (_GROUP.search(message) or _GROUP.search(str(error)) or ("", ""))[1]
    provider, code, reason = getattr(error, "llm_provider", ""), find_code(error), _connection_error(error)
    priority = _priority(error, code, in_request=in_request)
    is_chosen_by_client = bool(group) and not is_model(group)
    if priority == ERROR and is_chosen_by_client:
        priority = WARNING
    text = _line(message)
    place = _find_own_code(error)
    if place and record.module == _AUTHENTICATION and _is_plain(error):  # the operator's code refuses a key
        priority, place, text = WARNING, "", f"Authentication Error, {text}".rstrip(", ")
    elif place and _is_refused_by_guardrail(error):
        priority, place = WARNING, f"refused by {place}"
    if fallback := str(getattr(record, FALLBACK, None) or "")[:200]:  # no client has noticed
        priority = WARNING if priority == ERROR else INFO
    details = [code] if code and code not in text else []
    if subject := _find_host_problem(error):
        details += [] if type(error).__name__ in text else [f"{type(error).__name__}: {error}"[:300]]
    elif reason is not None:
        details.append(_line(f"{type(reason).__name__}: {reason}")[:300])
        details += [f"guardrail {guardrail}"] if (guardrail := _find_guardrail(error)) else []
        subject = _line(str(reason))[:100]
    elif provider:
        subject = f"{code or find_status(error)} {'' if code in _CREDENTIALS or is_chosen_by_client else group}"
    else:
        subject = f"{type(error).__name__} {record.module}:{record.lineno}"
        if type(error).__name__ not in text:
            quoted = "" if str(error) in text else f": {error}"
            details.append(f"{type(error).__name__}{quoted}"[:300])
    details += [place] if place else []
    details += [f"fallback {fallback} answers"] if fallback else []
    details += [f"model {group}"] if group else []
    text += f" ({'; '.join(map(_line, details))})" if details else ""
    by_client = not provider and priority != ERROR and (find_status(error) or 500) < 500
    by_own_code = priority == ERROR and bool(place) and _ENDS_REQUEST in message
    return Failure(priority, f"{priority} {subject}", text, " ".join(call.split()), by_client, by_own_code)


def _line(message: str) -> str:
    """The message of the provider without LiteLLM's introduction and advice, in one line."""
    text = _INTRODUCTION.sub("", message.strip(), count=1)
    if (end := _END.search(text)) is not None:
        text = text[: end.start()]
    return " ".join(_OBJECT.sub("", text).split())[:_MAX_TEXT]


def _priority(error: BaseException, code: str, *, in_request: bool) -> int:
    provider, status = getattr(error, "llm_provider", ""), find_status(error)
    if status == _DISCONNECTED or type(error).__name__ in ("ClientDisconnect", "CancelledError"):
        return INFO
    if _find_host_problem(error):
        return ERROR
    if _connection_error(error) is not None and _find_guardrail(error):
        return ERROR
    if not provider and not code and status is not None and status < 500:
        return WARNING
    if _fetches_for_a_client(error):
        return WARNING
    if _connection_error(error) is not None:  # without a provider, of an API that the configuration does not have
        return ERROR if provider or not in_request or _find_own_code(error) else WARNING
    if code in _OPERATOR_CODES:
        return ERROR
    if any(type(each).__name__ in _NO_CREDENTIALS for each in _chain(error)):
        return ERROR
    if provider:
        has_model_error = status == 400 and _CONFIGURED_MODEL.search(str(error)) is not None
        return ERROR if has_model_error or (not code and status in (401, 402, 403)) else WARNING
    if _find_own_code(error):
        return ERROR
    return WARNING if in_request else ERROR


def _find_host_problem(error: BaseException) -> str:
    """What the host or one of its stores lacks, such as "redis" or "ENOSPC"; empty if nothing."""
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in _EXHAUSTED:
            return errno.errorcode[each.errno]
        if isinstance(each, RuntimeError) and "start new thread" in str(each):  # TasksMax=, LimitNPROC=
            return errno.errorcode[errno.EAGAIN]
        if isinstance(each, (MemoryError, ModuleNotFoundError)):
            return f"{type(each).__name__} {each}"[:100]
        if (package := type(each).__module__.partition(".")[0]) in _STORES:
            return package
    return ""


def find_status(error: BaseException) -> int | None:
    """The HTTP status of an exception of LiteLLM, FastAPI or a provider's library."""
    for name in ("status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, (int, str)) and str(value).isdigit():
            return int(value)
    return None


def find_code(error: BaseException) -> str:
    """The error code of the provider, such as AccessDeniedException or insufficient_quota; empty if it sent none."""
    for each in _chain(error):
        response = getattr(each, "response", None)
        if isinstance(response, dict):  # botocore's ClientError
            found = response.get("Error", {}).get("Code")
        else:
            headers = getattr(response, "headers", None) or getattr(each, "headers", None) or {}
            found = headers.get("x-amzn-errortype") if hasattr(headers, "get") else None
            found = str(found).partition(":")[0] if found else getattr(each, "code", None)
        if isinstance(found, str) and found and not found.isdigit():
            return found[:80]
    quoted = _CODE.search(str(error)[:_MAX_TEXT])
    return quoted[1] if quoted else ""


def _connection_error(error: BaseException) -> BaseException | None:
    """The innermost exception that says why there was no connection; None if there was one."""
    found = None
    for each in _chain(error):
        if isinstance(each, (socket.gaierror, ConnectionRefusedError, ssl.SSLError)):
            return each
        if type(each).__name__ in _NO_CONNECTION:
            found = each
    return found


def _fetches_for_a_client(error: BaseException) -> bool:
    return any(frame.path.endswith(_FETCHES) for frame in _frames(error))


def _find_guardrail(error: BaseException) -> str:
    """The type of the guardrail that raised the error, such as "presidio"; empty if none did.

    The innermost one: LiteLLM calls some through unified_guardrail.
    """
    found = [match[1] for frame in _frames(error) if (match := _GUARDRAIL.search(frame.path))]
    return found[-1] if found else ""


def _is_plain(error: BaseException) -> bool:
    """Whether code raised `Exception` itself, as LiteLLM's example of `custom_auth` does for a wrong key."""
    return all(type(each) is Exception for each in _chain(error))


def _is_refused_by_guardrail(error: BaseException) -> bool:
    """Whether a guardrail in the operator's code raised the error to refuse a request, as in LiteLLM's example.

    An error inside the guardrail, such as a KeyError, comes from an expression, not from a `raise`.
    """
    for each in _chain(error):
        trace = each.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if trace is not None:
            code = trace.tb_frame.f_code
            kinds = type(trace.tb_frame.f_locals.get("self")).__mro__
            is_own = Frame(code.co_filename, trace.tb_lineno, code.co_name).is_own
            is_guardrail = is_own and any(kind.__name__ == _GUARDRAIL_CLASS for kind in kinds)
            if is_guardrail and code.co_code[trace.tb_lasti] == _RAISE:
                return True
    return False


def _find_own_code(error: BaseException) -> str:
    """The innermost place in the operator's own Python files, such as "mine.py:7 hook"; empty if there is none."""
    own = [frame for frame in _frames(error) if frame.is_own and frame.path.endswith(".py")]
    return render_stack(own[-1:])


def _frames(error: BaseException) -> Iterator[Frame]:
    """The frames of the tracebacks, the innermost one of each last."""
    for each in _chain(error):
        trace, left = each.__traceback__, _MAX_FRAMES
        while trace is not None and left:
            code = trace.tb_frame.f_code
            yield Frame(code.co_filename, trace.tb_lineno, code.co_name)
            trace, left = trace.tb_next, left - 1


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, and those that led to it, up to the call of another model, which had its own failure."""
    model, found = "", error
    seen: list[BaseException] = []
    while found is not None and found not in seen and len(seen) < _MAX_CHAIN:
        called = str(getattr(found, "model", "") or "") if getattr(found, "llm_provider", "") else ""
        if called and model and called != model:
            return
        model = model or called
        yield found
        seen.append(found)
        found = found.__cause__ or found.__context__  # type: ignore[assignment]
