"""What is known of versions of LiteLLM without a network: security advisories, and the day of the locked version.

advisories.yml is part of the package. Its comment says what writes it. `packaging` and `yaml` are imported where they
are needed, since all verbs import this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

DATA = "advisories.yml"


@dataclass(frozen=True, slots=True)
class Advisory:
    """A security advisory: its id and aliases, and the versions that it affects, one specifier (PEP 440) a range."""

    id: str
    aliases: tuple[str, ...]
    summary: str
    affected: tuple[str, ...]
    source: str

    def fix_for(self, version: str) -> str | None:
        """Return the version with the fix for an affected version, empty without one; None if it is not affected."""
        from packaging.specifiers import SpecifierSet

        for specifier in map(SpecifierSet, self.affected):
            if specifier.contains(version, prereleases=True):
                return next((each.version for each in specifier if each.operator == "<"), "")
        return None


def list_advisories() -> Iterator[Advisory]:
    """Return the advisories that this package knows, in the order of the file."""
    for entry in _data()["advisories"]:
        yield Advisory(
            entry["id"], tuple(entry["aliases"]), entry["summary"], tuple(entry["affected"]), entry["source"]
        )


def published_day(version: str) -> str:
    """Return the day on which a version of LiteLLM was published (ISO 8601); empty if it is not known here."""
    found = _data()
    return str(found["released"]) if str(found["litellm"]) == version else ""


def _data() -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.safe_load((files(__package__) / DATA).read_text(encoding="utf-8"))
    return found
