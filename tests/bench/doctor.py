"""`sudo .venv/bin/python -m tests.bench.doctor`: the time of doctor if something never responds.

It runs in a box with a fake AWS on loopback and a configuration with several models in four regions.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import box_images
from aws_endpoints import HOLE, METADATA_AGAIN, RESOLVED, SWALLOW_METADATA, move, resolve, start_named_aws
from box import Box, Namespaces
from broken_aws import PAIR, REGION, control, register_key
from broken_hosts import KEEP_ENV, OLD_ENV
from doctor_helpers import INSTALLED, doctor, ids, sh
from service import set_env, set_up

from .command_line import run
from .table import as_markdown, here_and_now, say, spread

#: Seconds.
_GOAL = 5.0
_REGIONS = {"us-east-1": "us", "eu-central-1": "eu", "ap-northeast-1": "jp", "ap-southeast-2": "au"}
_MODELS = ("claude-sonnet-4-6", "claude-haiku-5-5")
_RUNTIMES = tuple(f"bedrock-runtime.{region}.amazonaws.com" for region in _REGIONS)
_STS = "sts.us-east-1.amazonaws.com"
_MUTE = "127.0.0.2"
_LISTEN = f"import socket, time; s = socket.create_server(('{_MUTE}', 443), backlog=99); time.sleep(1e6)"
_USE_PAIR = KEEP_ENV + "; ".join(f"echo {line} >> /etc/litellm/litellm.env" for line in PAIR.splitlines())
#: The shell command that breaks something, and the one that repairs it.
CASES = {
    "DNS drops every query": (resolve(HOLE), RESOLVED),
    "the endpoints drop every connection": (move(HOLE, *_RUNTIMES), RESOLVED),
    "the endpoints accept connections and stay silent": (
        f'systemd-run --quiet --unit=mute python3 -c "{_LISTEN}"; {move(_MUTE, *_RUNTIMES)}',
        f"{RESOLVED}; systemctl stop mute",
    ),
    "STS drops every connection": (f"{_USE_PAIR}; {move(HOLE, _STS)}", f"{RESOLVED}; {OLD_ENV}"),
    "the metadata drop every connection": (SWALLOW_METADATA, METADATA_AGAIN),
    "the metadata accept connections and stay silent": (
        control("metadata", hop_limit_reached=True),
        control("metadata", hop_limit_reached=False),
    ),
    "DNS and the metadata drop everything": (f"{resolve(HOLE)}; {SWALLOW_METADATA}", f"{METADATA_AGAIN}; {RESOLVED}"),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """The seconds of each run, and the causes that doctor reported."""

    seconds: tuple[float, ...]
    causes: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. The exit code reports whether it could measure."""
    return run("doctor", __doc__ or "", 7, _measure_and_render, argv)


def _measure_and_render(times: int) -> str:
    with Namespaces() as namespaces, Box(namespaces, box_images.host_image()) as box:
        say("* a box with the service installed")
        box_images.install_demo(box)
        return render(dict(_measure_all(box, times)))


def _measure_all(box: Box, times: int) -> Iterator[tuple[str, Measured]]:
    start_named_aws(box, *_RUNTIMES)
    sh(box, register_key())
    set_env(box, f"{REGION}CONFIG_FILE=iam_role_config.yml\n")
    say("* nothing is wrong")
    yield "nothing is wrong, one region", _measure(box, times)
    set_up(box, REGION, build_config())
    for name, (damage, repair) in CASES.items():
        say(f"* {name}")
        sh(box, damage)
        yield name, _measure(box, times)
        sh(box, repair)


def build_config() -> str:
    """Several models in each of the regions, as JSON, which is YAML."""
    models = [
        {
            "model_name": f"{model}-{prefix}",
            "litellm_params": {"model": f"bedrock/converse/{prefix}.anthropic.{model}", "aws_region_name": region},
        }
        for region, prefix in _REGIONS.items()
        for model in _MODELS
    ]
    settings = {"drop_params": True}
    key = {"master_key": "os.environ/LITELLM_MASTER_KEY"}
    return json.dumps({"model_list": models, "litellm_settings": settings, "general_settings": key})


def _measure(box: Box, times: int) -> Measured:
    seconds, report = [], {}
    for _ in range(times):
        begin = time.monotonic()
        report = doctor(box, program=INSTALLED)
        seconds.append(time.monotonic() - begin)
    return Measured(tuple(seconds), tuple(dict.fromkeys(ids(report))))


def render(found: Mapping[str, Measured]) -> str:
    """The table as Markdown: each case with the median, the minimum and maximum seconds, and the causes."""
    rows = [["", "median", "from", "to", f"wanted: ≤ {_GOAL:g} s", "named"]]
    for name, measured in found.items():
        seconds = measured.seconds
        verdict = "reached" if max(seconds) <= _GOAL else "**missed**"
        rows.append([name, *spread(seconds), verdict, ", ".join(f"`{each}`" for each in measured.causes) or "–"])
    times = len(next(iter(found.values())).seconds)
    where = f"{here_and_now()}; each {times} times. Load of the machine: {os.getloadavg()[2]:.1f}.\n"
    return f"{where}\n{as_markdown(rows)}"


if __name__ == "__main__":
    sys.exit(main())
