"""The migrations and the schema that a release ships: those of its litellm-proxy-extras."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from litellm_systemd.database.migration_sql import Changes
from litellm_systemd.errors import ProgramError


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration: the name of its folder, and its SQL."""

    name: str
    script: bytes

    @property
    def checksum(self) -> str:
        """SHA-256 in hex, as Prisma records it."""
        return hashlib.sha256(self.script).hexdigest()

    @property
    def sql(self) -> str:
        return self.script.decode()


def read_migrations(package: Path) -> tuple[Migration, ...]:
    """The migrations of a litellm-proxy-extras, in order; empty if it has none."""
    files = sorted(package.glob("migrations/*/migration.sql"))
    return tuple(Migration(path.parent.name, path.read_bytes()) for path in files)


def own_package() -> Path:
    """The folder of the litellm-proxy-extras of this Python.

    Raises:
        ProgramError: it has none.
    """
    found = find_spec("litellm_proxy_extras")
    if found is None or found.origin is None:
        raise ProgramError("this release has no migrations of LiteLLM", "Build it again: sudo litellmctl upgrade")
    return Path(found.origin).parent


def package_of(release: Path) -> Path:
    """The folder of the litellm-proxy-extras of the release in that folder."""
    found = next(release.glob("lib/python*/site-packages/litellm_proxy_extras"), None)
    return release / "no-litellm-proxy-extras" if found is None else found


def breaking_statements(migrations: Iterable[Migration], names: Container[str]) -> dict[str, tuple[str, ...]]:
    """Of the migrations with these names, those that a release without them may not work with, and why."""
    changes = Changes()
    found = {each.name: changes.breaking(each.sql) for each in migrations if each.name in names}
    return {name: statements for name, statements in found.items() if statements}
