"""The versions of LiteLLM that no release may contain: the one list of them.

Standard library only: scripts/lock.sh runs `python -m litellm_systemd.releases.bad_versions VERSION`, which fails
with the reason if the version is listed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from litellm_systemd.errors import InputError


@dataclass(frozen=True, slots=True)
class BadVersion:
    """A version that was published with malicious code: why it is refused, and the URL that reports it."""

    version: str
    reason: str
    source: str

    def __str__(self) -> str:
        return f"LiteLLM {self.version} is refused: {self.reason} ({self.source})"


BAD_LITELLM = (
    BadVersion("1.82.7", "it steals AWS keys and other secrets", "https://github.com/BerriAI/litellm/issues/24512"),
    BadVersion("1.82.8", "it steals AWS keys and other secrets", "https://github.com/BerriAI/litellm/issues/24512"),
    # Removed from the index. The same day: https://github.com/cocoindex-io/cocoindex/releases/tag/v1.0.26
    BadVersion(
        "1.107.0",
        "it is reported as compromised, with a credential stealer and a backdoor",
        "https://github.com/JuliusBrussee/caveman/releases/tag/middleware-python-v1.0.1",
    ),
)


def find_bad(version: str) -> BadVersion | None:
    """Return the entry of a version, in any spelling of it and with any local part (PEP 440)."""
    return next((bad for bad in BAD_LITELLM if _normalize(bad.version) == _normalize(version)), None)


def _normalize(version: str) -> str:
    public = version.strip().lower().removeprefix("v").partition("+")[0]
    return re.sub(r"(\.0+)+$", "", public)


def refuse_bad_litellm(versions: Iterable[str], hint: str) -> None:
    """Check versions of LiteLLM before they are used.

    Raises:
        InputError: one of them is bad.
    """
    for bad in filter(None, map(find_bad, versions)):
        raise InputError(str(bad), hint)


if __name__ == "__main__":
    try:
        refuse_bad_litellm(sys.argv[1:], "")
    except InputError as error:
        sys.exit(error.message)
