"""The progress of a verb, on a real terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType

import pytest

#: Seconds of a step, so that its time is shown once. On a busy machine that may be late.
_PAUSE = 1.9
#: Two steps, the second one brief, a warning, and a report.
VERB = """
import time
from litellm_systemd.cli.program import say, show
from litellm_systemd.report.progress import Step
from litellm_systemd.report.report import Report
say.is_verbose = {verbose}
say(Step("starting the service", lambda: "importing LiteLLM"))
time.sleep({pause})
say("memory is short")
say(Step("verifying", is_brief=True))
time.sleep({pause})
show(Report("serves"), as_json=False)
"""


def run_on_terminal(verbose: bool, pause: float = 0, environ: Mapping[str, str] = MappingProxyType({})) -> str:
    """What the verb above writes to a terminal, without the time that its start takes."""
    main, terminal = pty.openpty()
    argv = (sys.executable, "-c", VERB.format(verbose=verbose, pause=pause))
    process = subprocess.Popen(argv, env={**os.environ, "TERM": "xterm", **environ}, stdout=terminal, stderr=terminal)
    os.close(terminal)
    written = b""
    try:
        while part := os.read(main, 4096):
            written += part
    except OSError:  # EIO: the last process has closed the terminal
        pass
    os.close(main)
    assert process.wait() == 0
    return written.decode().replace("\r\n", "\n").replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_elapsed_time_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a step shows its time and what it does at the moment. In the end only complete lines remain."""
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    written = run_on_terminal(verbose=True, pause=_PAUSE)
    assert re.search(r"\r\x1b\[K  [12] s, importing LiteLLM", written)
    assert re.search(r"\r\x1b\[K  verifying, [12] s", written)
    # A terminal shows what follows the last clearing of a line.
    remains = re.sub(r"[^\n]*\r\x1b\[K", "", written)
    assert remains == "  starting the service\n  memory is short\nserves\n"
    remains = re.sub(r"[^\n]*\r\x1b\[K", "", run_on_terminal(verbose=False))
    assert remains == "  memory is short\nserves\n"


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"CI": "true"}, {"TERM": "dumb"}])
def test_plain_terminal(plain: dict[str, str]) -> None:
    """With NO_COLOR, CI or TERM=dumb a terminal gets no line that is cleared again."""
    assert "\r" not in run_on_terminal(verbose=True, environ=plain)


def test_pipe() -> None:
    """Without a terminal there is no control character."""
    argv = (sys.executable, "-c", VERB.format(verbose=True, pause=0))
    done = subprocess.run(argv, env={**os.environ, "TERM": "xterm"}, capture_output=True, check=True, text=True)
    assert (done.stderr, done.stdout) == ("  starting the service\n  memory is short\n", "serves\n")


def test_elapsed_time_on_a_narrow_terminal() -> None:
    """A step that is longer than the line is cut, and its elapsed time is not."""
    written = run_on_terminal(verbose=False, pause=_PAUSE, environ={"COLUMNS": "12", "CI": "", "NO_COLOR": ""})
    assert re.search(r"\r\x1b\[K  veri, [12] s", written)
