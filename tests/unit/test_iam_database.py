"""IAM authentication with a database on RDS: the variables, and the token that is sent as the password.

The server here speaks the start of PostgreSQL's protocol over TLS. Whether RDS accepts the token was not tested.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import trustme

from litellm_systemd.database.connection import connect
from litellm_systemd.env.database import find_url, parse_url
from litellm_systemd.env.settings import build_settings, parse_dotenv
from litellm_systemd.errors import DatabaseError, InputError
from litellm_systemd.runtime.worker import litellm_database, litellm_outages

HOST = "gateway.c1.eu-central-1.rds.amazonaws.com"
KEY_ID = "AKIAIOSFODNN7EXAMPLE"
KEYS = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
BASE = {
    "IAM_TOKEN_DB_AUTH": "true",
    "DATABASE_HOST": HOST,
    "DATABASE_USER": "gate.way",
    "DATABASE_NAME": "litellm",
    "DATABASE_SSLMODE": "require",
    "AWS_REGION_NAME": "us-east-1",
}


def check(values: dict[str, str]) -> dict[str, str]:
    text = "".join(f"{name}={value}\n" for name, value in values.items())
    return dict(build_settings(parse_dotenv(text, ".env"), installed={}, new_key=lambda: "sk-x").environment)


def test_no_password_is_needed() -> None:
    """The service has a database without a password, and the region of its host goes before that of the models."""
    values = check(BASE)
    assert BASE.items() <= values.items()
    found = find_url(values, {})
    assert found == (f"postgresql://gate.way@{HOST}:5432/litellm?sslmode=require", "DATABASE_HOST")
    database = parse_url(*found, values)
    assert (database.token_region, database.is_encrypted, database.password) == ("eu-central-1", True, "")
    own = {**values, "AWS_RDS_REGION": "eu-west-1"}
    assert parse_url(*found, own).token_region == "eu-west-1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"DATABASE_USER": ""}, "IAM_TOKEN_DB_AUTH needs DATABASE_USER"),
        ({"DATABASE_URL": "postgresql://u:p@h/d"}, "DATABASE_URL is set, which IAM_TOKEN_DB_AUTH does not use"),
        ({"DATABASE_PASSWORD": "p"}, "DATABASE_PASSWORD is set, which"),
        ({"AWS_REGION_NAME": ""}, "needs a region"),
        ({"DATABASE_SSLMODE": ""}, "needs TLS"),
        ({"DATABASE_SSLMODE": "prefer"}, "needs TLS"),
        ({"DATABASE_SSLMODE": "prefer", "ALLOW_PLAINTEXT_DATABASE": "true"}, "needs TLS"),
        ({"DATABASE_HOST": f"{HOST}:5433"}, "DATABASE_HOST is not the name of a host"),
        ({"DATABASE_PORT": "http"}, "DATABASE_PORT=http is not"),
        ({"IAM_TOKEN_DB_AUTH": "maybe"}, "IAM_TOKEN_DB_AUTH=maybe is neither"),
    ],
)
def test_refused(change: dict[str, str], message: str) -> None:
    """What LiteLLM or RDS could not use is refused with the line of the variable."""
    with pytest.raises(InputError, match=rf"^\.env:\d+: .*{message}"):
        check({**BASE, **change})


class Server:
    """Refuses each login as RDS refuses a token, and keeps the passwords."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.root = folder / "root.pem"
        # As in the file of RDS, ours is one of several authorities.
        other = trustme.CA().cert_pem.bytes()
        self.root.write_bytes(other + authority.cert_pem.bytes())
        self.passwords: list[str] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self._context)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                assert connection.recv(8) == struct.pack("!ii", 8, 80877103)
                connection.sendall(b"S")
                with self._context.wrap_socket(connection, server_side=True) as stream:
                    stream.recv(4096)
                    stream.sendall(b"R" + struct.pack("!ii", 8, 3))
                    self.passwords.append(stream.recv(8192)[5:-1].decode())
                    text = b'SFATAL\0C28000\0MPAM authentication failed for user "gate.way"\0\0'
                    stream.sendall(b"E" + struct.pack("!i", len(text) + 4) + text)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    thread = threading.Thread(target=found.serve)
    thread.start()
    yield found
    found.socket.shutdown(socket.SHUT_RDWR)
    found.socket.close()
    thread.join()


def variables(server: Server) -> dict[str, str]:
    own = {"DATABASE_HOST": "localhost", "DATABASE_PORT": str(server.port), "AWS_RDS_REGION": "eu-west-1"}
    return {**BASE, **KEYS, **own, "DATABASE_SSLMODE": "verify-full", "DATABASE_SSLROOTCERT": str(server.root)}


def assert_token(text: str, server: Server) -> None:
    """A presigned URL of rds-db for this server, user and region, valid for 15 minutes."""
    url = urlsplit(f"https://{text}")
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert (url.hostname, url.port) == ("localhost", server.port)
    assert (query["Action"], query["DBUser"], query["X-Amz-Expires"]) == ("connect", "gate.way", "900")
    key, _, region, service, _ = query["X-Amz-Credential"].split("/")
    assert (key, region, service) == (KEY_ID, "eu-west-1", "rds-db")
    assert query["X-Amz-Signature"]


def test_token_of_commands(server: Server) -> None:
    """Commands log in with a token over verified TLS; a refusal names what RDS needs and not the token."""
    values = check(variables(server))
    with pytest.raises(DatabaseError, match=r"does not accept the token of the user gate\.way") as caught:
        connect(parse_url(*(find_url(values, {}) or ("", "")), values), "DATABASE_HOST")
    assert "litellmctl iam-policy --with rds" in caught.value.hint
    (token,) = server.passwords
    assert_token(token, server)
    assert "X-Amz" not in str(caught.value) + caught.value.hint


def test_no_credentials(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AWS credentials there is one error, and no connection."""
    monkeypatch.setattr("litellm_systemd.aws.client._instance_role", refuse)
    values = {name: value for name, value in variables(server).items() if name not in KEYS}
    with pytest.raises(DatabaseError, match=r"no AWS credentials for the token of the user gate\.way: no role"):
        connect(parse_url(*(find_url(values, {}) or ("", "")), values), "DATABASE_HOST")
    assert server.passwords == []


def refuse(_: object) -> None:
    from litellm_systemd.aws.client import Refused

    raise Refused("no role")


def test_token_of_a_worker(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that got an old token from another one replaces it by one of its own, and keeps the rest of the URL.

    During an outage, in which LiteLLM's token expires, its own checks use a fresh one.
    """
    for name, value in variables(server).items():
        monkeypatch.setenv(name, value)
    tls = f"sslmode=require&sslaccept=strict&sslcert={quote(str(server.root), safe='')}&connection_limit=7"
    old = f"postgresql://gate.way:old%3FX-Amz-Date%3D1@localhost:{server.port}/litellm?{tls}"
    monkeypatch.setenv("DATABASE_URL", old)
    assert "PAM authentication failed" in litellm_outages.find_cause()
    assert_token(server.passwords[0], server)
    environ = {**variables(server), "DATABASE_URL": old}
    litellm_database.renew_own_token(environ)
    assert environ["DATABASE_URL"].endswith(f"@localhost:{server.port}/litellm?{tls}")
    assert_token(parse_url(environ["DATABASE_URL"]).password, server)
    plain = {"DATABASE_URL": old}
    litellm_database.renew_own_token(plain)
    assert plain == {"DATABASE_URL": old}
