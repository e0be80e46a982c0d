"""The real LiteLLM in a process of its own, which answers requests with and without the authentication gate.

It reads one `Job` per line and prints one list of `Decision` objects for it. LiteLLM is imported once; each job runs
in a forked process with a configuration of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.runtime_service import coverage_variables

KEY = "sk-right-0123456789abcdef"
WRONG = "sk-wrong-fedcba9876543210"
#: Stands in a header for the token that LiteLLM's sign-in gives to an administrator.
SESSION_TOKEN = "SESSION-TOKEN"
#: Stands in a header for the token that LiteLLM gives to a browser for a realtime call.
REALTIME_TOKEN = "REALTIME-TOKEN"
#: What the gate's inner application answers: the gate has passed the request on.
PASSED = 299
#: Some routes that need no key stream for ever.
_TIMEOUT = 1.0


@dataclass(frozen=True)
class Request:
    path: str = "/v1/models"
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    kind: str = "http"


@dataclass(frozen=True)
class Decision:
    """The status codes with the gate, where `PASSED` is LiteLLM's turn, and of LiteLLM alone, with its body.

    A status of 0 is a WebSocket handshake that was refused without one, or no answer in time.
    """

    request: Request
    gate: int
    litellm: int
    body: str

    @property
    def is_passed(self) -> bool:
        return self.gate == PASSED


@dataclass(frozen=True)
class Job:
    """`requests` are sent with this LiteLLM configuration. None stands for every route and method, with `headers`.

    `files` are next to the configuration, `environment` is set when LiteLLM has started. `gate_only`: LiteLLM itself
    does not get the requests.
    """

    config: str
    requests: tuple[Request, ...] | None
    headers: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    gate_only: bool = False


class LiteLLM:
    """The process. `ask` runs one job."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(
        self,
        requests: Sequence[Request] | None,
        *,
        settings: str = "",
        more: str = "",
        headers: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        gate_only: bool = False,
    ) -> list[Decision]:
        """Send requests to a LiteLLM with `settings` below general_settings and `more` at the end of its file."""
        config = f"general_settings:\n  master_key: {KEY}\n{settings}\n{more}\n"
        sent = None if requests is None else tuple(requests)
        job = Job(config, sent, headers or {}, environment or {}, files or {}, gate_only)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(job)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process with LiteLLM has ended"
        rows = json.loads(line)
        assert isinstance(rows, list), rows
        return [Decision(**{**row, "request": Request(**row["request"])}) for row in rows]


@contextmanager
def run_litellm() -> Iterator[LiteLLM]:
    environ = {"PATH": os.environ["PATH"], "HOME": tempfile.gettempdir(), "AWS_EC2_METADATA_DISABLED": "true"}
    environ |= coverage_variables()
    argv = (sys.executable, "-m", "tests.integration.authentication_parity")
    root = Path(__file__).parents[2]
    with subprocess.Popen(argv, env=environ, cwd=root, text=True, stdin=-1, stdout=-1, stderr=-3) as process:
        try:
            yield LiteLLM(process)
        finally:
            process.kill()


# In the process.


def main() -> None:
    from litellm_systemd.runtime.worker import litellm_adapter

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # LiteLLM prints
    litellm_adapter.preload(os.environ)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            fields = json.loads(line)
            requests = fields.pop("requests")
            sent = None if requests is None else tuple(Request(**each) for each in requests)
            try:
                with tempfile.TemporaryDirectory() as folder:
                    result: Any = [asdict(each) for each in _run(Job(requests=sent, **fields), Path(folder))]
            except BaseException as error:
                result = repr(error)
            answers.write(json.dumps(result) + "\n")
            answers.flush()
            os._exit(0)
        os.waitpid(pid, 0)


def _run(job: Job, folder: Path) -> list[Decision]:
    from litellm_systemd.runtime.http.authentication import AuthenticationGate
    from litellm_systemd.runtime.http.pages import Pages
    from litellm_systemd.runtime.http.refuse import RefusalCounter
    from litellm_systemd.runtime.leaving_flag import LeavingFlag
    from litellm_systemd.runtime.worker import litellm_adapter
    from litellm_systemd.runtime.worker.litellm_authentication import MasterKeyAuthentication
    from litellm_systemd.runtime.worker.litellm_routes import LiteLLMRoutes

    for name, text in {**job.files, "config.yaml": job.config}.items():
        (folder / name).write_text(text)
    litellm_adapter.set_up(folder / "config.yaml", {}, 1)
    logging.disable(logging.CRITICAL)
    litellm = litellm_adapter.application()
    routes = LiteLLMRoutes(litellm, None, LeavingFlag(), catalogues=False)
    authentication = MasterKeyAuthentication(litellm, routes.is_public)
    gate = AuthenticationGate(_pass, authentication.find_refusal, RefusalCounter(), authentication.wrap)
    gateway = Pages(gate, routes.find_page, authentication.wrap)

    async def decide_one(request: Request) -> Decision:
        answer = (0, "") if job.gate_only else await _send(litellm, request)
        return Decision(request, (await _send(gateway, request))[0], *answer)

    async def decide() -> list[Decision]:
        async with litellm.router.lifespan_context(litellm):
            os.environ.update(job.environment)
            requests = job.requests if job.requests is not None else await _every_route(litellm, job.headers)
            return [await decide_one(each) for each in requests]

    return asyncio.run(decide())


async def _every_route(litellm: Any, headers: Mapping[str, str]) -> tuple[Request, ...]:
    from fastapi.routing import iter_route_contexts
    from litellm.proxy._lazy_features import register_all_features

    register_all_features(litellm)
    found = []
    for route in iter_route_contexts(litellm.router.routes):
        kind = type(route.original_route).__name__
        path = re.sub(r"\{[^}]*\}", "x", str(route.path)) + ("/x" if kind == "Mount" else "")
        found += [
            Request(path, method, headers, kind="websocket" if "WebSocket" in kind else "http")
            for method in sorted(getattr(route, "methods", None) or ["GET"])
        ]
    return tuple(found)


def _fill_in(value: str) -> str:
    from litellm.proxy.common_utils.encrypt_decrypt_utils import encrypt_value_helper

    if REALTIME_TOKEN in value:
        value = value.replace(REALTIME_TOKEN, encrypt_value_helper("{}"))
    return value.replace(SESSION_TOKEN, _session_token()) if SESSION_TOKEN in value else value


def _session_token() -> str:
    from litellm.proxy._types import LiteLLM_UserTable, LitellmUserRoles
    from litellm.proxy.auth.auth_checks import ExperimentalUIJWTToken

    user = LiteLLM_UserTable(user_id="admin", user_role=LitellmUserRoles.PROXY_ADMIN.value)
    token: str = ExperimentalUIJWTToken.get_experimental_ui_login_jwt_auth_token(user)
    return token


async def _send(application: Any, request: Request) -> tuple[int, str]:
    headers = [(name.lower().encode(), _fill_in(value).encode()) for name, value in request.headers.items()]
    scope: dict[str, Any] = {
        "type": request.kind,
        "path": request.path,
        "raw_path": request.path.encode(),
        "root_path": "",
        "query_string": request.query.encode(),
        "headers": headers,
        "client": ("192.0.2.1", 5000),
        "server": ("127.0.0.1", 4000),
        "scheme": "http",
        "http_version": "1.1",
    }
    if request.kind == "websocket":
        scope |= {"subprotocols": [], "extensions": {"websocket.http.response": {}}}
        messages: list[dict[str, Any]] = [{"type": "websocket.connect"}]
    else:
        scope["method"] = request.method
        messages = [{"type": "http.request", "body": b"{}", "more_body": False}]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.sleep(60)
        return messages.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    try:
        await asyncio.wait_for(application(scope, receive, send), _TIMEOUT)
    except asyncio.TimeoutError:
        pass
    except Exception:
        if not sent:
            return 500, ""
    status = next((message["status"] for message in sent if "status" in message), 0)
    body = b"".join(message.get("body", b"") for message in sent)
    return status, body.decode(errors="replace")[:300]


async def _pass(scope: Any, receive: Any, send: Any) -> None:
    kind = "http" if scope["type"] == "http" else "websocket.http"
    await send({"type": f"{kind}.response.start", "status": PASSED, "headers": []})
    await send({"type": f"{kind}.response.body", "body": b"", "more_body": False})


if __name__ == "__main__":
    main()
