"""What a check looks for, and what it finds: values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from litellm_systemd.host.state import Action
from litellm_systemd.report.report import Outcome

if TYPE_CHECKING:
    from litellm_systemd.doctor.snapshot import Snapshot

DOCS = "docs/troubleshooting.md"

#: For a release that can't run any more; litellmctl itself is one of its programs. As units/litellmctl.j2 has it.
REINSTALL = (
    "/usr/bin/python3 -m venv DIR && DIR/bin/pip install litellm-systemd"
    " && sudo DIR/bin/litellmctl install --installed    # or, in a checkout: sudo ./scripts/quickstart.sh"
)


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that can be wrong.

    `id` is stable and begins with the group. `means` says what it does to the service, `mend` is the command that
    mends it, a template for `str.format`. `outcome` is FAILED or WARNING, unless a finding says otherwise. `fix` says
    in words what `doctor --fix` does about it; empty if it does nothing.
    `needs`: causes that must be absent before this one can be looked for. `spared_by`: causes that spare the look if
    they are found, and don't if nobody could tell. `follows`: causes that bring this one about, so that it isn't
    worth a word beside them.
    """

    id: str
    means: str
    mend: str
    outcome: Outcome = Outcome.FAILED
    fix: str = ""
    needs: tuple[str, ...] = ()
    spared_by: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The first word of the id, such as `host`."""
        return self.id.split("-")[0]

    @property
    def link(self) -> str:
        """Where the documentation tells more."""
        return f"{DOCS}#{self.id}"

    def found(
        self,
        seen: str,
        *,
        outcome: Outcome | None = None,
        actions: tuple[Action, ...] = (),
        **values: str,
    ) -> Finding:
        """A finding of this cause; `values` fill the template of the remedy."""
        return Finding(self, seen, self.mend.format_map(values), outcome or self.outcome, actions)


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause that was found: what was `seen` (the line, the value), and the command that mends it here.

    `actions` are the steps that `--fix` takes.
    """

    cause: Cause
    seen: str
    mend: str
    outcome: Outcome
    actions: tuple[Action, ...] = ()


#: Yields what is wrong; and as plain text what was seen and isn't wrong, for `doctor --json` and a bug report.
Look = Callable[["Snapshot"], Iterator[Finding | str]]


@dataclass(frozen=True, slots=True)
class Probe:
    """A cause with the function that looks for it, which raises InstallerError or OSError where it can't."""

    cause: Cause
    look: Look


def looks_for(cause: Cause) -> Callable[[Look], Probe]:
    """Make a probe of a function."""
    return lambda look: Probe(cause, look)
