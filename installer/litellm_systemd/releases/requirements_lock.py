"""The requirements lock: every package of a release at one version, with its hashes. `scripts/lock.sh` writes it.

A release may have additions: groups of packages for callbacks and the like, and packages of the user's own. Its lock
then has a section for each after the base. A section begins with the line `# with: NAME`, and has what it needs and
the base lacks. Two sections may have the same entry. So each can be removed, and what reads a lock without sections
reads this one too.

`packaging` is imported where it is needed: all verbs import this module, and few of them read a lock.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from litellm_systemd.errors import InputError
from litellm_systemd.gateway.packages import SECTION

LOCK = "requirements.lock"

#: Versions of LiteLLM that `upgrade --litellm` accepts. setup.cfg pins the one of the lock.
SUPPORTED_LITELLM = ">=1.108.7,<1.111"

_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Pin:
    """One entry: a package, its version, the SHA-256 of each file, and a marker (empty: for every environment)."""

    name: str
    version: str
    hashes: tuple[str, ...] = field(repr=False)
    marker: str = ""

    def merged(self, other: Pin) -> Pin:
        """Return the entry for the environments of either."""
        markers = {self.marker, other.marker}
        marker = "" if "" in markers else " or ".join(f"({each})" for each in sorted(markers))
        hashes = tuple(dict.fromkeys((*self.hashes, *other.hashes)))
        return replace(self, hashes=hashes, marker=self.marker if len(markers) == 1 else marker)

    def everywhere(self) -> Pin:
        """Return the entry without its marker."""
        return replace(self, marker="")

    def holds(self, environment: Mapping[str, str]) -> bool:
        """Whether the entry applies to that environment of `packaging.markers`."""
        from packaging.markers import Marker

        return not self.marker or Marker(self.marker).evaluate(dict(environment))


def parse_lock(text: str, where: str = LOCK) -> tuple[Pin, ...]:
    """Return the entries of a lock, in order, and one for each version of a package.

    Raises:
        InputError: an entry is not `name==version` with hashes, or names a URL.
    """
    found: dict[tuple[str, str], Pin] = {}
    for line in _logical_lines(text):
        pin = _parse_entry(line, where)
        key = (pin.name, pin.version)
        found[key] = found[key].merged(pin) if key in found else pin
    return tuple(found.values())


def split_lock(text: str) -> tuple[str, dict[str, str]]:
    """Return the base of a lock, and each addition with the entries of its section."""
    base, *rest = SECTION.split(text)
    return base, dict(zip(rest[::2], rest[1::2], strict=True))


def additions_of(lock: str) -> tuple[str, ...]:
    return tuple(split_lock(lock)[1])


def join_lock(base: str, sections: Mapping[str, str]) -> str:
    return base + "".join(f"# with: {name}\n{entries}" for name, entries in sections.items())


def _logical_lines(text: str) -> Iterator[str]:
    joined = re.sub(r"\\\n\s*", " ", text)
    return (line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#"))


def _parse_entry(line: str, where: str) -> Pin:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    head = line.split(" --hash=", 1)[0].strip()
    hashes = tuple(_HASH.findall(line))
    try:
        found = Requirement(head)
    except InvalidRequirement:
        raise InputError(f"{where}: not an entry of a lock: {head[:80]}", _REMEDY) from None
    versions = [item.version for item in found.specifier if item.operator == "=="]
    if found.url or len(versions) != 1 or len(list(found.specifier)) != 1 or "*" in versions[0] or not hashes:
        raise InputError(f"{where}: {head[:80]} isn't pinned to one version and its hashes", _REMEDY)
    return Pin(canonicalize_name(found.name), versions[0], hashes, str(found.marker or ""))


_REMEDY = "scripts/lock.sh writes a lock."


def lock_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def pinned_version(text: str, name: str) -> str:
    """Return the version of a package without a marker, such as LiteLLM itself; empty if the lock doesn't have it."""
    found = re.search(rf"^{re.escape(name)}==([^\s;\\]+)", text, re.MULTILINE)
    return found[1] if found else ""


def pinned_versions(pins: Iterable[Pin], environment: Mapping[str, str]) -> dict[str, str]:
    """Return name and version of every package that an environment gets."""
    return {pin.name: pin.version for pin in pins if pin.holds(environment)}


def litellm_versions(pins: Iterable[Pin]) -> tuple[str, ...]:
    """Return each version of LiteLLM that an environment may get: markers can give one lock several."""
    return tuple(pin.version for pin in pins if pin.name == "litellm")


def pins_for(pins: Iterable[Pin], python: str, machine: str) -> tuple[Pin, ...]:
    """Return the entries for any patch release of a Python (`3.11`) on Linux and that machine (`x86_64`)."""
    environments = [target_environment(python, patch, machine) for patch in (0, 99)]
    return tuple(pin for pin in pins if any(pin.holds(environment) for environment in environments))


def target_environment(python: str, patch: int, machine: str) -> dict[str, str]:
    """Return the marker environment of another Python or machine than this one."""
    from packaging.markers import default_environment

    full = f"{python}.{patch}"
    here = {name: str(value) for name, value in default_environment().items()}
    return here | {
        "python_version": python,
        "python_full_version": full,
        "implementation_version": full,
        "platform_machine": machine,
    }


def render_lock(pins: Iterable[Pin]) -> str:
    """Return the text of a lock, as pip and uv read it."""
    return "".join(_render_entry(pin) for pin in pins)


def _render_entry(pin: Pin) -> str:
    head = f"{pin.name}=={pin.version}" + (f" ; {pin.marker}" if pin.marker else "")
    return " \\\n".join([head, *(f"    --hash=sha256:{value}" for value in pin.hashes)]) + "\n"
