"""A forward proxy as in a company: CONNECT connects to the requested host. This host resolves the names.

`python -m tests.fakes.proxy PORT FILE`. While FILE exists, the proxy refuses every request with the status in FILE,
such as `407 Proxy Authentication Required`.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
from pathlib import Path


class Proxy(socketserver.ThreadingTCPServer):
    """The server. `refusal` is the path of FILE."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, refusal: Path) -> None:
        super().__init__(("127.0.0.1", port), _Tunnel)
        self.refusal = refusal


class _Tunnel(socketserver.StreamRequestHandler):
    server: Proxy
    rbufsize = 0

    def handle(self) -> None:
        method, target, _ = self.rfile.readline().decode().split(" ", 2)
        while self.rfile.readline().strip():
            pass
        if method != "CONNECT" or self.server.refusal.exists():
            status = self.server.refusal.read_text() if method == "CONNECT" else "501 Not Implemented"
            self.wfile.write(f"HTTP/1.1 {status.strip()}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port))) as outer:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=pass_on, args=(outer, self.connection), daemon=True).start()
            pass_on(self.connection, outer)


def pass_on(source: socket.socket, target: socket.socket) -> None:
    """Forward data from one side to the other, until it ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    with Proxy(int(sys.argv[1]), Path(sys.argv[2])) as proxy:
        proxy.serve_forever()
