"""Certificates for tests, issued by an authority of the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import trustme

from litellm_systemd.env.tls import TlsFiles, TlsPair, load_pair


def issue_pair(authority: trustme.CA, *names: str, days: float = 90, since: float = -365) -> TlsPair:
    """A pair for these names that is valid from `since` to `days` days from now; negative ones have passed."""
    now = datetime.now(timezone.utc)
    found = authority.issue_cert(
        *names,
        common_name=None if names else "gateway.example",
        not_before=now + timedelta(days=since),
        not_after=now + timedelta(days=days),
    )
    chain = b"".join(each.bytes() for each in found.cert_chain_pems)
    return TlsPair(chain.decode(), found.private_key_pem.bytes().decode())


def write_pair(folder: Path, pair: TlsPair) -> TlsFiles:
    """Write or replace the two files in a folder, by the names of the credentials in the unit."""
    files = TlsFiles(folder / "tls.crt", folder / "tls.key")
    for path, text in ((files.certificate, pair.certificate), (files.key, pair.key)):
        path.write_text(text, encoding="ascii")
        path.chmod(0o600)
    return files


@contextmanager
def serving(pair: TlsPair) -> Iterator[int]:
    """A server that completes the TLS handshake of each connection. Yields its port."""
    context = load_pair(pair).context
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, context.wrap_socket(connection, server_side=True) as encrypted:
                    encrypted.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
