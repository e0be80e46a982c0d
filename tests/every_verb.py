"""Run every verb of litellmctl without root, and print the outcomes.

A program for the Python of a release or a venv: `python -I every_verb.py USER GROUP…` with numbers, as root; for
another user these count for nothing. Verbs and flags are those of the parser, so that new ones are included. Each run
is a fork in a folder of its own, which costs a tenth of a start of Python. Standard output is JSON: a list of
{arguments, stdout, code, out, err}, where `stdout` is `pipe`, `full`, `closed` or `broken`.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import litellm_systemd
from litellm_systemd.cli import cli, main

#: Arguments for verbs that would not end by themselves without root, or take minutes.
ARGUMENTS = {"bundle": ("-c", "nowhere.yml"), "top": ("--once",)}
TIMEOUT = 120
OPERATIONS = Path(__file__).resolve().parents[1] / "docs/operations.md"


def verbs(command: click.Command = cli, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Each verb with its words, such as ("config", "show")."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, below in command.commands.items():
        yield from verbs(below, *path, name)


def command_lines() -> Iterator[tuple[tuple[str, ...], bool]]:
    """Each verb with its required arguments, then the same with each of its flags and a flag `False`."""
    yield ("--help",), True
    for path, command in verbs():
        required = [each for each in command.params if isinstance(each, click.Argument) and each.required]
        values = [each.type.choices[0] if isinstance(each.type, click.Choice) else "demo.yml" for each in required]
        line = (*path, *map(str, values), *ARGUMENTS.get(path[0], ()))
        yield line, True
        for option in command.params:
            if isinstance(option, click.Option) and option.is_flag:
                yield from (((*line, spelling), False) for spelling in (*option.opts[-1:], *option.secondary_opts))


def run(line: tuple[str, ...], stdout: str, user: int, groups: list[int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        Path(folder).chmod(0o777)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os._exit(_become(line, stdout, (user, groups), folder, out.fileno(), err.fileno()))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [os.pread(each.fileno(), 1 << 20, 0).decode(errors="replace") for each in (out, err)]
    return {"arguments": " ".join(line), "stdout": stdout, "code": code, "out": texts[0], "err": texts[1]}


def _become(line: tuple[str, ...], stdout: str, who: tuple[int, list[int]], folder: str, out: int, err: int) -> int:
    """In the child: run litellmctl with those streams, and return its exit code."""
    code: Any = 1
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(err, 2)
    _OUTPUTS[stdout](out)
    os.chdir(folder)
    if os.geteuid() == 0:
        user, groups = who
        os.setgroups(groups)
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    signal.alarm(TIMEOUT)
    os.environ.clear()
    os.environ.update({"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "COLUMNS": "40"})
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    sys.argv = ["litellmctl", *line]
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 1


def _break() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


_OUTPUTS: dict[str, Callable[[int], Any]] = {
    "pipe": lambda out: os.dup2(out, 1),
    "full": lambda _out: os.dup2(os.open("/dev/full", os.O_WRONLY), 1),
    "closed": lambda _out: os.close(1),
    "broken": lambda _out: os.dup2(_break(), 1),
}


def import_verbs() -> None:
    """Import what the verbs import, once for all children, which may not be allowed to read it."""
    for package in ("commands", "doctor", "verify", "releases", "install", "report", "instances", "client_setup"):
        folder = Path(litellm_systemd.__path__[0]) / package
        for module in pkgutil.iter_modules([str(folder)]):
            if module.name != "__main__":
                importlib.import_module(f"litellm_systemd.{package}.{module.name}")


def every_run(user: int, groups: list[int]) -> Iterator[dict[str, Any]]:
    """Each verb, with groups once, without groups with each output and with each of its flags."""
    import_verbs()
    for line, is_bare in command_lines():
        if is_bare or not groups:
            for stdout in _OUTPUTS if is_bare and not groups else ("pipe",):
                yield run(line, stdout, user, groups)


def mistakes(runs: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the outcomes: a defect, an undocumented exit code, output that is lost silently."""
    codes = re.findall(
        r"^\| ([\d, ]+) \|", OPERATIONS.read_text(encoding="utf-8").split("## Exit codes")[1], re.MULTILINE
    )
    documented = {int(code) for row in codes for code in row.split(",")}
    normal = {run["arguments"]: run for run in runs if run["stdout"] == "pipe"}
    return [
        f"{run['arguments']} ({run['stdout']}): {wrong}" for run in runs for wrong in _wrong(run, normal, documented)
    ]


def _wrong(run: dict[str, Any], normal: dict[str, dict[str, Any]], documented: set[int]) -> Iterator[str]:
    if run["code"] not in documented - {70}:
        yield f"exit code {run['code']}: {run['err'][-500:]}"
    if re.search("Traceback|defect|Exception ignored", run["err"] + run["out"]):
        yield run["err"][-1000:]
    if run["stdout"] == "pipe" and run["code"] not in (0, 1, 2) and not (run["out"] + run["err"]).strip():
        yield "it fails without a message"
    usual = normal[run["arguments"]]
    is_lost = run["stdout"] in ("full", "closed") and usual["out"]
    if run["code"] != (74 if is_lost else usual["code"]):
        yield f"exit code {run['code']} in place of {usual['code']}"
    if is_lost and run["err"].count("litellmctl: standard output cannot be written: ") != 1:
        yield run["err"]


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:]]
    json.dump(list(every_run(numbers[0], numbers[1:])), sys.stdout)
