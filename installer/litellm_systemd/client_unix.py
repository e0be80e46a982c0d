"""HTTP over a UNIX socket, for requests."""

from __future__ import annotations

import socket
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection


class UnixAdapter(HTTPAdapter):
    """Sends every request to the server behind one socket, whatever host the address names; through no proxy."""

    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__()

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        return super().send(request, *args, **{**kwargs, "proxies": {}})

    def get_connection_with_tls_context(self, *_args: Any, **_kwargs: Any) -> _Pool:
        return _Pool(self._path)


class _Pool(urllib3.HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__("localhost")

    def _new_conn(self) -> _Connection:
        return _Connection(self._path)


class _Connection(HTTPConnection):
    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__("localhost")

    def _new_conn(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout if isinstance(self.timeout, (int, float)) else None)
            connection.connect(self._path)
        except BaseException:
            connection.close()
            raise
        return connection
