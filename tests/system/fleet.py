"""Instances of the service behind HAProxy, in a network with Redis, PostgreSQL and the fake Amazon Bedrock."""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from box import Answer, Box, Image, Namespaces, wait_until
from box_images import REPOSITORY
from lan import NETWORK, OUTSIDE, OUTSIDE_ADDRESS, Lan
from other_release import add_earlier_litellm, current
from replicas import ADDRESS as DATABASE_ADDRESS
from replicas import Replicas
from service import BASE, MODEL, ctl
from tests.balancers import balancer_environment, documented, find_balancer, substitute
from tests.fakes import USER
from tests.redis import Access, Redis

MASTER_KEY = "sk-fleet-0123456789abcdef0123456789abcdef"
#: Seconds between two health checks, and the failures after which an instance gets no requests.
CHECK_INTERVAL, CHECK_FAILURES = 1, 2
#: Seconds: twice what the health checks take to notice a 503.
DELAY = 2 * CHECK_INTERVAL * CHECK_FAILURES
_PORT, _STATS = 8080, 8404
_REDIS_PORT, _REDIS_PASSWORD = 6379, "redis-secret"
API = f"http://{OUTSIDE_ADDRESS}:8800"
#: The host number of the first instance.
_FIRST = 11
#: The release of an image with an earlier LiteLLM.
_EARLIER = "earlier"
#: The file in each instance that names the other release, which has the LiteLLM of the lock.
_LATER = "/root/later"
#: Instances that HAProxy knows; those that do not run are down.
MOST = 4

ENV = f"""\
HOST=0.0.0.0
NUM_WORKERS=1
TRUSTED_PROXIES={NETWORK}.0/24
BEHIND_LOAD_BALANCER=true
DEREGISTRATION_DELAY={DELAY}
LOAD_BALANCER_IDLE_TIMEOUT=620
KEEPALIVE_TIMEOUT=640
LITELLM_MASTER_KEY={MASTER_KEY}
DATABASE_URL=postgresql://litellm:secret@{DATABASE_ADDRESS}:5432/litellm
ALLOW_PLAINTEXT_DATABASE=true
REDIS_HOST={OUTSIDE_ADDRESS}
REDIS_PORT={_REDIS_PORT}
REDIS_PASSWORD={_REDIS_PASSWORD}
AWS_REGION_NAME=us-east-1
AWS_ACCESS_KEY_ID={USER.access_key}
AWS_SECRET_ACCESS_KEY={USER.secret_key}
AWS_BEDROCK_RUNTIME_ENDPOINT={API}
"""
#: No retries, so that LiteLLM hides no failure.
CONFIG = f"""\
model_list:
  - model_name: {MODEL}
    litellm_params: {{model: bedrock/us.anthropic.claude-sonnet-4-6}}
router_settings: {{num_retries: 0}}
litellm_settings: {{drop_params: true}}
general_settings: {{master_key: os.environ/LITELLM_MASTER_KEY}}
"""


#: The page with HAProxy's table.
_STATISTICS = f"""
listen statistics
    bind {OUTSIDE_ADDRESS}:{_STATS}
    stats enable
    stats uri /
"""


class Servers:
    """What the instances share: PostgreSQL, Redis, the fake Bedrock, and HAProxy in front of them."""

    def __init__(self, lan: Lan) -> None:
        self.lan = lan
        self.databases = Replicas(lan)
        access = Access(password=_REDIS_PASSWORD, address=OUTSIDE_ADDRESS, prefix=lan.prefix(OUTSIDE))
        self.redis = Redis(access, port=_REDIS_PORT)
        self._stack = ExitStack()
        self._haproxy: subprocess.Popen[bytes] | None = None
        self._folder = Path()

    def __enter__(self) -> Servers:
        """Start all except HAProxy."""
        with self._stack:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="litellm-fleet-")))
            fakes = (sys.executable, "-m", "tests.fakes", "--api", f"{OUTSIDE_ADDRESS}:8800")
            self._stack.callback(_kill, self._start("fakes", fakes, dict(os.environ)))
            self._stack.enter_context(self.redis)
            self._stack.enter_context(self.databases)
            self._stack.callback(self.stop_haproxy)
            wait_until(self._has_fakes, 60, "the fakes answer")
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _has_fakes(self) -> bool:
        with contextlib.suppress(OSError):
            return self.lan.http("GET", f"{API}/-/seen").status == 200
        return False

    def _start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                (*self.lan.prefix(OUTSIDE), *argv),
                cwd=REPOSITORY,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    # --- HAProxy ---

    def start_haproxy(self) -> None:
        configuration = self._folder / "haproxy.cfg"
        configuration.write_text(self._render_haproxy(), encoding="utf-8")
        argv = (find_balancer("haproxy"), "-W", "-f", str(configuration))
        self._haproxy = self._start("haproxy", argv, balancer_environment())

    def stop_haproxy(self) -> None:
        """Kill it with its connections."""
        if self._haproxy is not None:
            # The main process waits for the other one, which ends then, and its port is free.
            self._haproxy.send_signal(signal.SIGTERM)
            self._haproxy.wait(timeout=60)
            self._haproxy = None

    def reload_haproxy(self) -> None:
        """Let it start a new process, which takes over the port, as `systemctl reload haproxy` does."""
        assert self._haproxy is not None
        self._haproxy.send_signal(signal.SIGUSR2)

    def table(self) -> dict[str, dict[str, str]]:
        """HAProxy's statistics of each instance, by its name: the management guide, section 9.1."""
        text = self.lan.http("GET", f"http://{OUTSIDE_ADDRESS}:{_STATS}/;csv").text.lstrip("# ")
        rows = csv.DictReader(io.StringIO(text))
        return {row["svname"]: row for row in rows if row["pxname"] == "litellm" and row["svname"] != "BACKEND"}

    def wait_for(self, *names: str) -> None:
        """Wait until HAProxy sends requests to these instances and no others."""

        def serving() -> bool:
            with contextlib.suppress(OSError):
                return {name for name, row in self.table().items() if row["status"] == "UP"} == set(names)
            return False

        wait_until(serving, 120, f"HAProxy sends requests to {', '.join(names)}")

    def _render_haproxy(self) -> str:
        """The configuration of docs/load-balancer.md with health checks every second, and with statistics."""
        text = documented("haproxy")
        servers = "".join(f"    server {name(i)} {NETWORK}.{_FIRST + i}:4000\n" for i in range(MOST))
        text = re.sub(r"(?m)(^    server .*\n)+", servers, text)
        socket = f"stats socket {self._folder}/haproxy.sock mode 600 level admin expose-fd listeners"
        replaced = {
            "log /dev/log local0": socket,
            "bind :8080": f"bind {OUTSIDE_ADDRESS}:{_PORT}",
            "inter 5s": f"inter {CHECK_INTERVAL}s",
            f"fall {CHECK_FAILURES}": f"fall {CHECK_FAILURES}",
            "slowstart 30s": "",
            # A machine that runs other tests as well is slow, and a 503 still counts at once.
            "timeout connect 5s": "timeout connect 5s\n    timeout check 20s",
            "option httpchk\n": "option httpchk\n    http-response set-header x-instance %s\n",
        }
        return substitute(text, replaced) + _STATISTICS


def name(number: int) -> str:
    """The name of an instance in HAProxy and in the network."""
    return f"i{number + 1}"


def _kill(program: subprocess.Popen[bytes]) -> None:
    program.kill()
    program.wait(timeout=60)


class Fleet:
    """Instances from one image, by their names, and the servers around them."""

    def __init__(self, namespaces: Namespaces, servers: Servers, image: Image, options: Mapping[str, Any]) -> None:
        self.servers, self.lan = servers, servers.lan
        self.boxes: dict[str, Box] = {}
        self._namespaces, self._image, self._options = namespaces, image, options
        self._numbers = iter(range(MOST))
        self._made: list[Box] = []

    def add(self, count: int = 1) -> list[str]:
        """Boot more instances at once: as in an Auto Scaling group, nothing but the image decides what they are."""
        numbers = [next(self._numbers) for _ in range(count)]
        boxes = {name(number): self._make(number) for number in numbers}
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(Box.boot, boxes.values()))
        self.boxes |= boxes
        return list(boxes)

    def later(self) -> str:
        """The release that follows the one of the image."""
        return next(iter(self.boxes.values())).read(_LATER)

    def kill(self, lost: str) -> None:
        """Kill all processes of an instance. It does not come back."""
        self.boxes.pop(lost).kill()

    def close(self) -> None:
        for box in self._made:
            box.close()

    def _make(self, number: int) -> Box:
        path = self.lan.add_host(name(number), _FIRST + number)
        box = Box(self._namespaces, self._image, network=path, **self._options)
        self._made.append(box)
        return box

    # --- requests ---

    def connection(self, *, timeout: float) -> http.client.HTTPConnection:
        """An open connection to HAProxy."""
        return self.lan.http_connection(OUTSIDE_ADDRESS, _PORT, timeout=timeout)

    def chat(self, bearer: str, via: str) -> Answer:
        """The answer of one instance to a short chat."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
        return self._ask(via, "/v1/chat/completions", body, bearer)

    def generate_key(self, **limits: Any) -> str:
        """A new virtual key, which the first instance has made."""
        answer = self._ask(next(iter(self.boxes)), "/key/generate", limits, MASTER_KEY)
        assert answer.status == 200, answer.text
        return str(answer.json()["key"])

    def _ask(self, via: str, path: str, body: Mapping[str, Any], bearer: str) -> Answer:
        headers = {"Authorization": f"Bearer {bearer}"}
        return self.boxes[via].http("POST", f"{BASE}{path}", body=body, headers=headers)


def make_image(
    namespaces: Namespaces, servers: Servers, base: Image, options: Mapping[str, Any], *, earlier: bool
) -> Image:
    """Install the service with the settings of an instance, once. `base`: an image with a release for a database.

    With `earlier`, the service has an earlier LiteLLM, and the release of `base` is there as well.
    """
    path = servers.lan.add_host("golden", 100)
    with Box(namespaces, base, network=path, **options) as golden:
        golden.write("/root/.env", ENV, 0o600)
        golden.write("/root/fleet.yml", CONFIG)
        ctl(golden, "stop")
        unit = golden.run(("systemctl", "list-units", "--plain", "--no-legend", "postgresql@*")).stdout.split()[0]
        golden.systemctl("disable", "--now", unit)
        environment = {"AWS_ENDPOINT_URL_STS": API, "AWS_ENDPOINT_URL_BEDROCK": API}
        settings = ("--env-file", "/root/.env", "-c", "/root/fleet.yml")
        release = current(golden)
        if earlier:
            golden.write(_LATER, release)
            add_earlier_litellm(golden, release, _EARLIER)
            release = _EARLIER
        argv = (f"/opt/litellm-systemd/releases/{release}/bin/litellmctl", "install", *settings)
        golden.run((*argv, "--no-verify", "--no-start"), env=environment, timeout=300)
        return golden.save()


@contextmanager
def started(
    namespaces: Namespaces, base: Image, options: Mapping[str, Any], count: int, *, earlier: bool = False
) -> Iterator[Fleet]:
    """A fleet with that number of instances behind HAProxy. The other arguments are those of `make_image`."""
    with Lan(namespaces) as lan, Servers(lan) as servers:
        image = make_image(namespaces, servers, base, options, earlier=earlier)
        fleet = Fleet(namespaces, servers, image, options)
        try:
            servers.start_haproxy()
            servers.wait_for(*fleet.add(count))
            yield fleet
        finally:
            fleet.close()
