"""An HTTP server on loopback that behaves like a healthy LiteLLM, except for the faults that a test sets: streams
that are cut, HTML pages, unprotected endpoints, missing responses.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-stub-canary-5d2e"
MODELS = ("primary", "second")


class Handler(BaseHTTPRequestHandler):
    """One request, with the kinds of responses that tests need."""

    protocol_version = "HTTP/1.1"
    server: Stub

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def _answer(self, body: Any) -> None:
        self.body = body
        self.server.seen.append((self.command, self.path, self.headers.get("authorization")))
        kind = "streamed " if body and body.get("stream") else ""
        answer = self.server.faults.get(kind + self.path) or self.server.faults.get("*") or healthy
        answer(self)

    @property
    def trusted(self) -> bool:
        if self.path == "/v1/messages" and self.headers.get("x-api-key") == KEY:
            return True
        return self.headers.get("authorization") == f"Bearer {KEY}"

    def reply(self, status: int, body: Any, kind: str = "application/json", **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def stream(self, *events: str, cut: bool = False) -> None:
        """Send events as chunks; with `cut` the connection closes in place of the next chunk."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in events:
            data = f"data: {event}\n\n".encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        if cut:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args: object) -> None:
        """Log nothing."""


def delta(text: str, name: str = "content") -> str:
    """The data of one event of a streamed chat."""
    return json.dumps({"choices": [{"index": 0, "delta": {name: text}}]})


USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 2}})
MESSAGE_EVENTS = (
    json.dumps({"type": "message_start", "message": {"usage": {"input_tokens": 20, "output_tokens": 1}}}),
    json.dumps({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "pong"}}),
    json.dumps({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}),
    json.dumps({"type": "message_stop"}),
)
RESPONSE_EVENTS = (
    json.dumps({"type": "response.created", "response": {"usage": None}}),
    json.dumps({"type": "response.output_text.delta", "delta": "pong"}),
    json.dumps({"type": "response.completed", "response": {"usage": {"input_tokens": 20, "output_tokens": 2}}}),
)


def tool_answer(messages: list[Any]) -> dict[str, Any]:
    """A call of the tool, and after its result a text that contains the result."""
    if messages[-1]["role"] == "tool":
        return {"role": "assistant", "content": f"The code is {json.loads(messages[-1]['content'])['code']}."}
    function = {"name": "look_up_code", "arguments": '{"door": "north"}'}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call-1", "type": "function", "function": function}],
    }


def healthy(handler: Handler) -> None:
    if handler.path == "/health/liveliness":
        handler.reply(200, json.dumps("I'm alive!"))
    elif handler.path == "/health/readiness":
        handler.reply(200, {"status": "healthy"})
    elif not handler.trusted:
        handler.reply(401, {"error": {"message": "no valid key"}})
    elif handler.path == "/v1/models":
        handler.reply(200, {"data": [{"id": name} for name in MODELS]})
    elif handler.path.endswith("/chat/completions") and handler.body["model"] in MODELS:
        if handler.body.get("stream"):
            handler.stream(delta("po"), delta("ng"), USAGE, "[DONE]")
        elif handler.body.get("tools"):
            handler.reply(200, {"choices": [{"message": tool_answer(handler.body["messages"])}]})
        else:
            said = {"role": "assistant", "content": "pong"}
            handler.reply(
                200, {"choices": [{"message": said}], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
            )
    elif handler.path == "/v1/messages" and handler.body["model"] in MODELS:
        if handler.body.get("stream"):
            handler.stream(*MESSAGE_EVENTS)
        else:
            usage = {"input_tokens": 9, "output_tokens": 1}
            handler.reply(200, {"content": [{"type": "text", "text": "pong"}], "usage": usage})
    elif handler.path == "/v1/responses" and handler.body["model"] in MODELS:
        if handler.body.get("stream"):
            handler.stream(*RESPONSE_EVENTS)
        else:
            handler.reply(
                200, {"output": [{"type": "message", "content": [{"type": "output_text", "text": "pong"}]}]}
            )
    else:
        handler.reply(404, {"detail": "Not Found"})


Answerer = Callable[[Handler], None]


class Stub(ThreadingHTTPServer):
    """`faults` are the responses to send instead, by path, `streamed /path`, or `*` for all; `seen` are the requests.

    `released` is set when the test is over: an answer that waits for it never comes in time.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: dict[str, Answerer] = {}
        self.seen: list[tuple[str, str, str | None]] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *args: object) -> None:
        """Ignore a client that disconnects: some tests do that on purpose."""


@contextmanager
def stub() -> Iterator[Stub]:
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
