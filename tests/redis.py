"""Debian's redis-server for tests: on loopback, with a password, a user or TLS, and every way to lose it.

It holds nothing on disk, so a start takes 20 milliseconds, and what it held is lost with it.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from litellm_systemd.env.tls import TlsFiles
from tests.ports import free_port
from tests.unpacked import find_unpacked, unpacked_environment

_FOLDER = "redis"
#: The server, which is one by the name with which it is started. So no package is needed that has a unit.
_SERVER = "redis-check-rdb"
_CLIENT = "redis-cli"

#: How Redis begins a reply that is an error.
_ERROR = re.compile(r"[A-Z]{3,} ")
_SETTINGS = """
bind {address}
dir {folder}
save ""
appendonly no
loglevel warning
"""
_TLS = """
port 0
tls-port {port}
tls-cert-file {certificate}
tls-key-file {key}
tls-auth-clients no
"""


def why_no_redis() -> str | None:
    """Return why tests with Redis can't run here, None if they can."""
    if find_unpacked(_FOLDER, _SERVER) is None or find_unpacked(_FOLDER, _CLIENT) is None:
        return "there is no Redis. ./scripts/test.sh unpacks it"
    return None


def _program(name: str) -> str:
    return find_unpacked(_FOLDER, name) or name


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a server.

    `user`: an ACL user that may do everything, where the default user may do nothing. Without it, a password is that
    of the default user. `tls`: its files. `authority`: the file that clients verify it with. `address`: where it
    listens. `prefix`: the command that runs all programs, such as `ip netns exec NAME`.
    """

    password: str | None = None
    user: str | None = None
    tls: TlsFiles | None = None
    authority: Path | None = None
    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


class Redis:
    """A running server in a folder of its own below /tmp. Use it in a `with` statement.

    `settings`: more lines of redis.conf(5), such as `maxmemory 4mb` and `maxmemory-policy noeviction`.
    """

    def __init__(
        self, access: Access | None = None, *, settings: Sequence[str] = (), port: int | None = None
    ) -> None:
        self.access = access or Access()
        self.port = port or free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="litellm-redis-"))
        self._settings = tuple(settings)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Redis:
        (self.folder / "redis.conf").write_text("\n".join(self._lines()))
        (self.folder / "redis-server").symlink_to(_program(_SERVER))
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    @property
    def url(self) -> str:
        """Its URL with the password."""
        access = self.access
        login = f"{quote(access.user or '', safe='')}:{quote(access.password or '', safe='')}@"
        scheme = "rediss" if access.tls else "redis"
        return f"{scheme}://{login if access.password else ''}{access.address}:{self.port}"

    def variables(self) -> dict[str, str]:
        """The variables with which the service uses it."""
        access = self.access
        found = {
            "REDIS_HOST": access.address,
            "REDIS_PORT": str(self.port),
            "REDIS_USERNAME": access.user,
            "REDIS_PASSWORD": access.password,
            "REDIS_SSL": "true" if access.tls else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                (*self.access.prefix, str(self.folder / "redis-server"), str(self.folder / "redis.conf")),
                env=unpacked_environment(_FOLDER),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        limit = time.monotonic() + 30
        while self._ask("PING").stdout.strip() != "PONG":
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < limit, self._ask("PING")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it as systemd does, if it runs: clients see that the connection is closed."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, if it runs."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Let it hang: the kernel accepts connections and data, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    @contextmanager
    def killed(self) -> Iterator[None]:
        """Kill it for the block."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let it hang for the block."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    @contextmanager
    def full(self) -> Iterator[None]:
        """Let it refuse all writes with OOM for the block, as a server does that is full and may evict nothing."""
        self.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
        self.execute("CONFIG", "SET", "maxmemory", "1")
        try:
            yield
        finally:
            self.execute("CONFIG", "SET", "maxmemory", "0")

    def execute(self, *command: str) -> str:
        """Run a command as the user of `access`, and return the reply as redis-cli(1) prints it into a pipe."""
        done = self._ask(*command)
        reply = done.stdout.rstrip("\n")
        # Before version 7 there is no option to exit with 1 after an error.
        is_error = done.returncode != 0 or _ERROR.match(reply)
        assert not is_error, f"{command}: {reply}{done.stderr}"
        return reply

    def await_error(self, code: str) -> None:
        """Wait until commands get that error, such as BUSY."""
        limit = time.monotonic() + 30
        while not self._ask("PING").stdout.startswith(code):
            assert time.monotonic() < limit, self._ask("PING")
            time.sleep(0.02)

    def list_keys(self) -> list[str]:
        return sorted(self.execute("KEYS", "*").splitlines())

    def _lines(self) -> Iterator[str]:
        access = self.access
        yield _SETTINGS.format(address=access.address, folder=self.folder)
        if access.tls:
            yield _TLS.format(port=self.port, certificate=access.tls.certificate, key=access.tls.key)
            yield f"tls-ca-cert-file {access.authority or access.tls.certificate}"
        else:
            yield f"port {self.port}"
        if access.user:
            yield "user default off"
            yield f'user {access.user} on ">{access.password}" ~* &* +@all'
        elif access.password:
            yield f'requirepass "{access.password}"'
        else:
            yield "protected-mode no"
        yield from self._settings

    def _ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run redis-cli(1)."""
        access = self.access
        argv = [*access.prefix, _program(_CLIENT), "-h", access.address, "-p", str(self.port), "--no-auth-warning"]
        if access.password:
            argv += ("--user", access.user or "default", "--pass", access.password)
        if access.tls:
            argv += ("--tls", *(("--cacert", str(access.authority)) if access.authority else ("--insecure",)))
        return subprocess.run(
            (*argv, *command),
            env=unpacked_environment(_FOLDER),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        if self._process is not None:
            # One that hangs would not handle SIGTERM.
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(timeout=60)
            self._process = None
