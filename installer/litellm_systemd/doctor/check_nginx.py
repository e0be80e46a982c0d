"""nginx on this host in front of the service: requests that it refused or cut, and the directive that made it do so.

A directive is only reported after it has failed a request: many configurations that differ from docs/tls.md work.
Its line is searched for in the files: 'nginx -T' needs a configuration without an error, and creates log files.
"""

from __future__ import annotations

import contextlib
import math
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.variables import MAX_REQUEST_SIZE
from litellm_systemd.errors import PermissionDenied
from litellm_systemd.report.report import Outcome
from litellm_systemd.user_files import read_regular

NGINX = Cause(
    "proxy-nginx",
    "nginx on this host refused or cut requests to the service in the last hour: it passes them to a port on which"
    " nothing listens (502), a body was larger than it accepts (413), or an answer took longer than it waits (504).",
    "sudoedit {path} && sudo nginx -t && sudo systemctl reload nginx    # write: {correction}",
    outcome=Outcome.WARNING,
    requires=("files-not-installed", "environment-unusable"),
    # Then the answers are late.
    caused_by=("network-dns", "network-proxy", "network-unreachable", "service-silent", "service-not-ready"),
)
#: The files of the packages of Debian, Amazon and nginx itself, the most specific last.
_FILES = ("nginx.conf", "conf.d/*.conf", "sites-enabled/*")
_LOG = "/var/log/nginx/error.log"
#: Bytes at the end of a log.
_MAX_LOG = 256 * 1024
#: The directives that matter. Comments are removed before.
_DIRECTIVE = re.compile(
    r"(?<![\w.$-])(error_log|proxy_pass|server|client_max_body_size|proxy_read_timeout)[ \t]+['\"]?([^\s;{'\"]+)"
    r"[^;{\n]*;"
)
#: ngx_http_log_error_handler() in src/http/ngx_http_request.c; the time is local (ngx_time_update()).
#: Its beginning is of nginx itself: what a client sent may have the rest as its text.
_ERROR = re.compile(
    r"^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) \[\w+\] \d+#\d+: \*\d+ ((?:connect\(\) failed \(111: "
    r"|client intended to send too large |upstream timed out |upstream prematurely closed "
    r"|SSL_do_handshake\(\) failed )"
    r'[^"\n]{0,200}?), client: [0-9a-f.:]+, server: ([^,"\n]{0,255}), request: "\S+ (\S+)[^"\n]*"'
    r'(?:, upstream: "\w+://[^/"\n]*?:(\d{1,5})[/"])?',
    re.MULTILINE,
)
#: What nginx logs if it speaks HTTP to a port of HTTPS, or the reverse.
_IN_OTHER_SCHEME = ("upstream prematurely closed", "SSL_do_handshake() failed")
#: Paths of the service, and hardly of another program.
_API = re.compile(
    r"/(?:v1/)?(?:chat/completions|completions|responses|messages|embeddings|models)\b|/bedrock/|/health/"
)
#: Seconds that docs/tls.md recommends. nginx's units of time, and of size in MiB.
_WAIT, _TIMES = 600.0, {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZES = {"": 2**-20, "k": 2**-10, "m": 1, "g": 1024}


@dataclass(frozen=True, slots=True)
class _Directive:
    """A line of nginx's configuration, and the text of its file."""

    path: str
    line: int
    name: str
    argument: str
    text: str

    def passes_to(self, port: int | str) -> bool:
        """Whether it sends requests to a port of this host."""
        address = rf"(?:\w+://)?(?:localhost|127\.[\d.]+|\[::1\]):{re.escape(str(port))}(?:/.*)?"
        return self.name in ("proxy_pass", "server") and re.fullmatch(address, self.argument) is not None

    def is_of(self, server: str) -> bool:
        """Whether its file has the server with this name; nginx logs the first name of one."""
        name = rf"\bserver_name\s[^;]*(?<![\w.-]){re.escape(server)}(?![\w.-])"
        return not server or re.search(name, self.text) is not None

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.name} {self.argument}"


@detects(NGINX)
def detect_proxy_nginx(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect failed requests in nginx's error log whose cause is a directive that is still in its configuration."""
    directives = list(_read_directives(snapshot))
    ours = [each for each in directives if each.passes_to(snapshot.settings.port)]
    found: dict[tuple[str, str, str], list[str]] = {}
    for when, text, server, path, port in _read_errors(snapshot, directives):
        if _API.match(path) and (judged := _judge(snapshot, directives, ours, text, server, port)):
            found.setdefault(judged, []).append(when)
    for (evidence, path, correction), times in found.items():
        number = "once" if len(times) == 1 else f"{len(times)} times"
        last = max(times).partition(" ")[2]
        yield NGINX.finding(f"{evidence} ({number}, last at {last})", path=path, correction=correction)


def _read_directives(snapshot: Snapshot) -> Iterator[_Directive]:
    folder = snapshot.layout.real("/etc/nginx")
    for file in (each for pattern in _FILES for each in sorted(folder.glob(pattern))):
        with contextlib.suppress(OSError, ValueError):
            text = re.sub(r"#[^\n]*", "", read_regular(file).decode("utf-8", "replace"))
            path = f"/etc/nginx/{file.relative_to(folder)}"
            for match in _DIRECTIVE.finditer(text):
                yield _Directive(path, text.count("\n", 0, match.start(1)) + 1, match[1], match[2], text)


def _read_errors(snapshot: Snapshot, directives: list[_Directive]) -> Iterator[tuple[str, ...]]:
    """The errors of the last hour about requests, but none that the present configuration cannot have caused."""
    since = time.time() - 3600
    for path in {each.path for each in directives}:
        with contextlib.suppress(OSError):
            since = max(since, float(int(snapshot.layout.real(path).stat().st_mtime)))
    named = {each.argument for each in directives if each.name == "error_log" and each.argument.startswith("/")}
    for path in sorted(named | {_LOG}) if directives else ():
        if not (file := snapshot.layout.real(path)).is_file():
            continue
        try:
            with file.open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - _MAX_LOG))
                text = log.read(_MAX_LOG).decode("utf-8", "replace")
        except PermissionError:
            raise PermissionDenied(f"only root can read {path}") from None
        except OSError:
            continue
        for error in _ERROR.findall(text):
            with contextlib.suppress(ValueError, OverflowError):
                if time.mktime(time.strptime(error[0], "%Y/%m/%d %H:%M:%S")) >= since:
                    yield error


def _judge(
    snapshot: Snapshot, directives: list[_Directive], ours: list[_Directive], text: str, server: str, port: str
) -> tuple[str, str, str] | None:
    """Evidence, file and correction for an error; None if it is of another program, or has no directive.

    `ours`: the directives that send requests to the service. `server` and `port` are those of the error.
    """
    own = snapshot.settings.port
    if text.startswith("connect() failed"):
        wrong = next((each for each in directives if each.passes_to(port) and each.is_of(server)), None)
        if ours or wrong is None or snapshot.cached(f"port {port}", lambda: _listens(port)):
            return None
        effect = f"nothing listens on port {port}, so nginx answered 502; the service has {snapshot.settings.listen}"
        return f"{wrong}: {effect}", wrong.path, f"{own} in place of {port}, if it is for this service"
    proxy = next((each for each in ours if each.is_of(server)), None)
    scheme, other = ("https", "http") if snapshot.settings.tls else ("http", "https")
    if proxy is not None and text.startswith(_IN_OTHER_SCHEME) and proxy.argument.startswith(f"{other}://"):
        return f"{proxy}: the service serves {scheme.upper()}", proxy.path, f"{scheme}:// in place of {other}://"
    if proxy is not None and text.startswith("client intended"):
        limit = MAX_REQUEST_SIZE.read(snapshot.environment)
        name, default, effect = "client_max_body_size", "1m", "nginx refused a larger body with 413"
        units, enough, wanted = _SIZES, limit or math.inf, f"{limit}m"
    elif proxy is not None and text.startswith("upstream timed out") and "reading" in text and port == str(own):
        name, default, effect = "proxy_read_timeout", "60s", "nginx did not wait longer for an answer"
        units, enough, wanted = _TIMES, _WAIT, f"{_WAIT:.0f}s"
    else:
        return None
    limits = [each for each in directives if each.name == name]
    limits = [each for each in limits if each.path == proxy.path] or limits
    values = [re.fullmatch(r"(\d+)([a-z]*)", each.argument.lower()) for each in limits]
    # Of several blocks, the one of this request is not known; 0 is no limit.
    if any(each is None or not 0 < int(each[1]) * units.get(each[2], 0) < enough for each in values):
        return None
    if limits:
        return f"{limits[-1]}: {effect}", limits[-1].path, f"{name} {wanted};"
    if re.search(r"\binclude\s", proxy.text):  # which may have the limit
        return None
    evidence = f"{proxy}: without {name}, the default of {default} applies: {effect}"
    return evidence, proxy.path, f"{name} {wanted};"


def _listens(port: str) -> bool:
    """Whether a program listens on a port of loopback. nginx tries each address of localhost, and logs all."""
    for host in ("127.0.0.1", "::1"):
        with contextlib.suppress(OSError, ValueError), socket.create_connection((host, int(port)), 0.5):
            return True
    return False
