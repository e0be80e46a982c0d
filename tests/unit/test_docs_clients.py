"""docs/clients.md against the clients of tests/clients."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.clients.programs import PROGRAMS, Program

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "tests/clients"


def version(program: Program) -> str:
    if program.name.endswith("-python") or program.package == "aider-chat":
        requirements = "".join(path.read_text() for path in FOLDER.glob("*.txt"))
        return str(re.findall(rf"^{program.package}==(\S+)$", requirements, re.MULTILINE)[0])
    given = json.loads((FOLDER / "package.json").read_text())
    return str((given["dependencies"] | given["optionalDependencies"])[program.package])


def test_table() -> None:
    """The table of docs/clients.md has each client with its tested version, its API and its answer to a crash."""
    rows = []
    for each in PROGRAMS:
        api = ", ".join(f"`{path}`" for path in each.api.split(", "))
        broken = "repeats the request" if each.repeats else "reports it"
        rows.append(f"| {each.name} | `{each.package}` | {version(each)} | {api} | {broken} |\n")
    assert "".join(rows) in (REPOSITORY / "docs/clients.md").read_text()
