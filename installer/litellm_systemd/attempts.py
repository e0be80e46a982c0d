"""What is kept of a change that failed, for whoever wants to know why."""

from __future__ import annotations

import shutil
import time

from litellm_systemd.command import run
from litellm_systemd.errors import InstallerError
from litellm_systemd.files import write_file
from litellm_systemd.model import FileState, Kind, Plan
from litellm_systemd.steps import Executor
from litellm_systemd.systemctl import journal_argv

#: So many attempts are kept.
_KEPT = 5


def keep_attempt(executor: Executor, plan: Plan, error: BaseException) -> str:
    """Put away plan, error, new files and the service's last lines; where they are, in a sentence.

    Empty if there is no room for them: that must not keep anybody from going back.
    """
    layout = executor.layout
    folder = f"{layout.failed}/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    story = "\n".join([f"{type(error).__name__}: {error}", "", "The plan was:", *map(str, plan.actions), ""])
    texts = {"error.txt": story.encode(), "journal.txt": _last_lines(executor)}
    for action in plan.actions:
        if action.after is not None and action.after.kind is Kind.FILE:
            texts[action.target.strip("/").replace("/", "-")] = action.after.content
    try:
        for name, content in texts.items():
            write_file(layout, FileState(f"{folder}/{name}", content, mode=0o600))
        # The newest have the greatest names.
        for old in sorted(layout.real(layout.failed).iterdir())[:-_KEPT]:
            shutil.rmtree(old)
    except (OSError, InstallerError):
        return ""
    return f"The failed attempt is kept in {folder}."


def _last_lines(executor: Executor) -> bytes:
    if not executor.layout.is_host:
        return b""
    try:
        return run(journal_argv(lines=200, quiet=True), check=False).stdout.encode()
    except InstallerError:
        return b""
