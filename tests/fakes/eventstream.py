"""Encode AWS's binary event stream, `application/vnd.amazon.eventstream`.

A message has its length, the length of its headers and a CRC of the two, then the headers, the payload, and a CRC of
everything before. botocore has only the decoder (botocore/eventstream.py), which the tests use to check this encoder.
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
    packed = b"".join(_header(name, value) for name, value in headers.items())
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + packed + payload
    return message + struct.pack("!I", zlib.crc32(message))


def event(kind: str, body: Mapping[str, Any]) -> bytes:
    """Encode an event of the type `kind`. Bedrock pads its events, to hide their sizes."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return encode(headers, json.dumps({**body, "p": "abcdefghij"}).encode())


def exception(kind: str, message: str) -> bytes:
    """Encode an error within a stream. `kind` is a name of the service model, such as `throttlingException`."""
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return encode(headers, json.dumps({"message": message}).encode())


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return struct.pack("!B", len(key)) + key + struct.pack("!BH", _STRING, len(text)) + text
