"""The binary event stream of AWS, `application/vnd.amazon.eventstream`: how its messages are framed.

A message is its length, the length of its headers and a CRC of the two, then headers, payload, and a CRC of all that
came before. botocore has the reader alone (botocore/eventstream.py), and holds this writer to account in the tests.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

CONTENT_TYPE = "application/vnd.amazon.eventstream"
_STRING = 7


def encode(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message, framed."""
    packed = b"".join(_header(name, value) for name, value in headers.items())
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + packed + payload
    return message + struct.pack("!I", zlib.crc32(message))


def event(kind: str, body: Mapping[str, Any]) -> bytes:
    """An event of that type. Bedrock pads its events, so that their sizes tell nothing."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return encode(headers, json.dumps({**body, "p": "abcdefghij"}).encode())


def exception(kind: str, message: str) -> bytes:
    """An error in the midst of a stream: `throttlingException`, as the service model spells it."""
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return encode(headers, json.dumps({"message": message}).encode())


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return struct.pack("!B", len(key)) + key + struct.pack("!BH", _STRING, len(text)) + text
