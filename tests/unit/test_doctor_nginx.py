"""What doctor finds about nginx in front of the service. The lines of its log are those of nginx 1.22."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.doctor.check_nginx import detect_proxy_nginx
from litellm_systemd.doctor.engine import Finding
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.settings import build_settings, parse_dotenv
from litellm_systemd.env.tls import TlsFiles
from litellm_systemd.host.layout import Layout
from tests.ports import free_port

MAIN = """\
error_log /var/log/nginx/own.log;
events { worker_connections 768; }
http {
    log_format main '$remote_addr "$request" {"a": "#;"}';  # a "comment; with { in it
    map $http_upgrade $connection_upgrade { default upgrade; '' close; }
    include conf.d/*.conf;
}
"""
SERVER = """\
server {
    listen 80;
    server_name gw.example.com other.example.com;
    location /files/ { proxy_pass http://127.0.0.1:9; }
    location ~ \\.png$ { root /srv/${host}; }
    location / {
        LIMIT
        proxy_pass http://TARGET;
    }
}
"""
REQUEST = 'client: 127.0.0.1, server: gw.example.com, request: "POST /v1/chat/completions HTTP/1.1"'
LARGE = f'client intended to send too large body: 3000000 bytes, {REQUEST}, host: "gw.example.com"'
CHUNKED = f'client intended to send too large chunked body: 1048384+65524 bytes, {REQUEST}, host: "gw.example.com"'
SLOW = (
    "upstream timed out (110: Connection timed out) while reading response header from upstream,"
    f' {REQUEST}, upstream: "http://127.0.0.1:4000/v1/chat/completions", host: "gw.example.com"'
)
REFUSED = (
    f"connect() failed (111: Connection refused) while connecting to upstream, {REQUEST},"
    ' upstream: "http://127.0.0.1:PORT/v1/chat/completions", host: "gw.example.com"'
)


class Host(Snapshot):
    """A host whose nginx has this server and logged these errors just now, or some seconds ago."""

    environment: Any = None
    settings: Any = None

    def __init__(self, root: Path, server: str, *errors: str, ago: float = 0) -> None:
        super().__init__(Layout(root=root))
        dotenv = parse_dotenv("PORT=4000\nMAX_REQUEST_SIZE=64\n", ".env")
        self.environment = dotenv.values
        self.settings = build_settings(dotenv, installed={}, new_key=str)
        when = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(time.time() - ago))
        log = "".join(f"{when} [error] 4584#4584: *1 {error}\n" for error in errors)
        for path, text in (
            ("etc/nginx/nginx.conf", MAIN),
            ("etc/nginx/conf.d/gw.conf", server),
            ("var/log/nginx/own.log", log),
        ):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")


def server_of(target: str = "127.0.0.1:4000", limit: str = "") -> str:
    return SERVER.replace("TARGET", target).replace("LIMIT", limit)


def find(host: Snapshot) -> list[Finding]:
    return [each for each in detect_proxy_nginx.detect(host) if isinstance(each, Finding)]


GW = "/etc/nginx/conf.d/gw.conf"


@pytest.mark.parametrize(
    ("server", "errors", "evidence", "correction"),
    [
        (
            server_of(),
            (LARGE, CHUNKED),
            f"{GW}:8: proxy_pass http://127.0.0.1:4000: without client_max_body_size, the default of 1m applies:"
            " nginx refused a larger body with 413 (2 times, last at ",
            "client_max_body_size 64m;",
        ),
        (
            server_of(limit='client_max_body_size "2m";'),
            (LARGE,),
            f"{GW}:7: client_max_body_size 2m: nginx refused a larger body with 413 (once",
            "client_max_body_size 64m;",
        ),
        (
            f"proxy_read_timeout 1m;\n{server_of('localhost:4000/')}",
            (SLOW,),
            f"{GW}:1: proxy_read_timeout 1m: nginx did not wait longer",
            "proxy_read_timeout 600s;",
        ),
        (
            f"upstream gateway {{ server [::1]:4000 weight=5; }}\n{server_of('gateway')}",
            (SLOW,),
            f"{GW}:1: server [::1]:4000: without proxy_read_timeout, the default of 60s applies",
            "proxy_read_timeout 600s;",
        ),
    ],
)
def test_limits(tmp_path: Path, server: str, errors: tuple[str, ...], evidence: str, correction: str) -> None:
    """A limit that failed a request is reported with its line, or that of the server that lacks it."""
    (found,) = find(Host(tmp_path, server, *errors))
    assert found.evidence.startswith(evidence)
    assert found.remedy == f"sudoedit {GW} && sudo nginx -t && sudo systemctl reload nginx    # write: {correction}"


def test_wrong_port(tmp_path: Path) -> None:
    """A port on which nothing listens is reported if it gets the requests of the service, and no longer if a program
    listens there, or if another directive names the port of the service.
    """
    port = free_port()
    refused = REFUSED.replace("PORT", str(port))
    server = server_of(f"127.0.0.1:{port}")
    (found,) = find(Host(tmp_path, server, refused))
    assert found.evidence.startswith(f"{GW}:8: proxy_pass http://127.0.0.1:{port}: nothing listens on port {port}")
    assert found.remedy.endswith(f"# write: 4000 in place of {port}, if it is for this service")
    upstream = f"upstream gateway {{\n    server localhost:{port};\n}}\n{server_of('gateway')}"
    (found,) = find(Host(tmp_path, upstream, refused))
    assert found.evidence.startswith(f"{GW}:2: server localhost:{port}: nothing listens")
    assert find(Host(tmp_path, server + server_of(), refused)) == []
    with socket.create_server(("127.0.0.1", port)):
        assert find(Host(tmp_path, server, refused)) == []


@pytest.mark.parametrize(
    ("tls", "target", "error", "correction"),
    [
        (
            True,
            "http://",
            "upstream prematurely closed connection while reading response header from upstream",
            "https://",
        ),
        (
            False,
            "https://",
            "SSL_do_handshake() failed (SSL: error:0A00010B) while SSL handshaking to upstream",
            "http://",
        ),
    ],
)
def test_other_scheme(tmp_path: Path, tls: bool, target: str, error: str, correction: str) -> None:
    """A proxy_pass with HTTP to a service with HTTPS, or the reverse, is reported with what to write."""
    upstream = f'upstream: "{target}127.0.0.1:4000/v1/chat/completions", host: "gw.example.com"'
    server = server_of().replace("http://127.0.0.1:4000", f"{target}127.0.0.1:4000")
    host = Host(tmp_path, server, f"{error}, {REQUEST}, {upstream}")
    host.settings = replace(host.settings, tls=TlsFiles(Path("/c.pem"), Path("/k.pem")) if tls else None)
    (found,) = find(host)
    assert found.evidence.startswith(f"{GW}:8: proxy_pass {target}127.0.0.1:4000: the service serves HTTP")
    assert found.remedy.endswith(f"# write: {correction} in place of {target}")
    host.settings = replace(host.settings, tls=None if tls else TlsFiles(Path("/c.pem"), Path("/k.pem")))
    assert find(host) == []


def test_errors_that_are_not_about_a_directive(tmp_path: Path) -> None:
    """Nothing is reported without nginx, about other paths, servers and programs, with limits that suffice, about
    what a client wrote, about old lines, and about lines before the last change of the configuration.
    """
    assert find(Snapshot(Layout(root=tmp_path))) == []
    other, foreign = LARGE.replace("/v1/chat/completions", "/files/a"), LARGE.replace("gw.example", "www.example")
    down, app = REFUSED.replace("PORT", "4000"), REFUSED.replace(":PORT/v1/chat/completions", ":9/app")
    assert find(Host(tmp_path, server_of(), other, foreign, down, app, "damaged")) == []
    for enough in ("proxy_read_timeout 1h;", "client_max_body_size 65536K;", "client_max_body_size 1g;"):
        assert find(Host(tmp_path, server_of(limit=enough), SLOW if "time" in enough else LARGE)) == []
    assert find(Host(tmp_path, server_of("10.0.0.9:4000"), LARGE, SLOW)) == []
    assert find(Host(tmp_path, server_of("$backend"), LARGE)) == []
    unlimited = server_of(limit="client_max_body_size 0;")
    two = "server { client_max_body_size 1m; }\n" + server_of(limit="client_max_body_size 1g;")
    included = server_of(limit="include snippets/proxy.conf;")
    for server in (unlimited, two, included):
        assert find(Host(tmp_path, server, LARGE)) == []
    # What a client sends as a path is in the log as well.
    forged = f'open() "/srv/{LARGE}" failed (2: No such file), {REQUEST}, upstream: "http://127.0.0.1:(/v1/messages"'
    assert find(Host(tmp_path, server_of(), forged)) == []
    for ago, changed in ((4000, 9000), (60, 30)):
        host = Host(tmp_path, server_of(), LARGE, ago=ago)
        for file in (tmp_path / "etc/nginx").rglob("*.conf"):
            os.utime(file, times=(time.time() - changed,) * 2)
        assert find(host) == []
    os.utime(tmp_path / "etc/nginx/conf.d/gw.conf", times=(time.time() - 90,) * 2)
    os.utime(tmp_path / "etc/nginx/nginx.conf", times=(time.time() - 90,) * 2)
    assert len(find(host)) == 1


def test_damaged_configuration(tmp_path: Path) -> None:
    """A configuration that nginx refuses, or one without this service, is no finding."""
    for text in ("include /etc/nginx/nginx.conf;", "}}{ ;;{{", 'http { server "', "proxy_pass http://$host:4000;"):
        assert find(Host(tmp_path, text, LARGE)) == []
