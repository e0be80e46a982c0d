"""The requirements lock, and its agreement with setup.cfg."""

from __future__ import annotations

import configparser
import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from litellm_systemd.errors import InputError
from litellm_systemd.gateway.packages import find_group, group_names, read_groups
from litellm_systemd.releases.requirements_lock import (
    Pin,
    lock_digest,
    parse_lock,
    pinned_versions,
    pins_for,
    render_lock,
    split_lock,
    target_environment,
)
from litellm_systemd.releases.source import SDNOTIFY
from litellm_systemd.resources import read_lock

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
A, B = "a" * 64, "b" * 64


def requirements() -> list[Requirement]:
    setup = configparser.ConfigParser(comment_prefixes=("#",))
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return [Requirement(line) for line in setup["options"]["install_requires"].split("\n") if line]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_lock_matches_setup(python: str, machine: str) -> None:
    """For every Python and machine the lock has each requirement of setup.cfg, at a version that it allows."""
    pins = parse_lock(read_lock())
    for patch in (0, 99):
        versions = pinned_versions(pins, target_environment(python, patch, machine))
        for wanted in requirements():
            if wanted.name == SDNOTIFY:
                continue
            found = versions[canonicalize_name(wanted.name)]
            assert wanted.specifier.contains(found), f"{wanted} has {found}: run scripts/lock.sh"


def test_lock_has_what_the_extras_need() -> None:
    """The lock has the requirements of `litellm[proxy]`, at versions that LiteLLM allows."""
    versions = pinned_versions(parse_lock(read_lock()), target_environment("3.12", 0, "x86_64"))
    litellm = distribution("litellm")
    if litellm.version != versions["litellm"]:
        pytest.skip(f"LiteLLM {litellm.version} is installed here, not that of the lock")
    extras = {extra for wanted in requirements() if wanted.name == "litellm" for extra in wanted.extras}
    assert extras == {"proxy"}
    environment = target_environment("3.12", 0, "x86_64")
    for needed in map(Requirement, litellm.requires or ()):
        if needed.marker is None or any(needed.marker.evaluate({**environment, "extra": extra}) for extra in extras):
            assert needed.specifier.contains(versions[canonicalize_name(needed.name)]), str(needed)


def test_lock_has_no_url() -> None:
    """Every entry has a version and SHA-256 hashes, and nothing in the lock is a URL of an index."""
    text = read_lock()
    assert all(pin.hashes for pin in parse_lock(text))
    assert not re.search(r"://|^#|^-|@", text, re.MULTILINE)


def test_lock_has_one_version_for_each_environment() -> None:
    """No environment gets two versions of a package: markers of one name exclude each other."""
    pins = parse_lock(read_lock())
    for python in PYTHONS:
        environment = target_environment(python, 5, "x86_64")
        names = [pin.name for pin in pins if pin.holds(environment)]
        assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("python", PYTHONS)
def test_groups_match_setup(python: str) -> None:
    """groups.lock has each extra of setup.cfg that is for users, at versions that it allows, next to the lock. Any
    groups together have one version of each package. docs/operations.md has a row for each.
    """
    setup = configparser.ConfigParser(comment_prefixes=("#",))
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    extras = {name: lines for name, lines in setup["options.extras_require"].items() if name not in ("bench", "test")}
    assert tuple(sorted(extras)) == group_names()
    environment = target_environment(python, 5, "aarch64")
    pins = parse_lock(read_lock() + read_groups())
    names = [pin.name for pin in pins if pin.holds(environment)]
    assert sorted(set(names)) == sorted(names)
    table = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8").partition("| group | for |")[2]
    for name, lines in extras.items():
        versions = pinned_versions(parse_lock(read_lock() + split_lock(read_groups())[1][name]), environment)
        for wanted in (Requirement(line) for line in lines.split("\n") if line):
            found = versions[canonicalize_name(wanted.name)]
            assert wanted.specifier.contains(found), f"{wanted} has {found}: run scripts/lock.sh"
            assert find_group(canonicalize_name(wanted.name)) == name
        assert f"`{name}`" in table


def test_round_trip() -> None:
    """A lock that is read and written again is the same lock."""
    pins = (Pin("a", "1.0", (A, B), 'python_version < "3.11"'), Pin("b-c", "2.post1", (B,)))
    assert parse_lock(render_lock(pins)) == pins
    shipped = parse_lock(read_lock())
    assert parse_lock(render_lock(shipped)) == shipped


@pytest.mark.parametrize(
    "text",
    [
        "a==1\n",
        f"a>=1 --hash=sha256:{A}\n",
        f"a==1.* --hash=sha256:{A}\n",
        f"a==1,==1 --hash=sha256:{A}\n",
        f"a @ https://example.invalid/a.whl --hash=sha256:{A}\n",
        f"--index-url https://example.invalid/ --hash=sha256:{A}\n",
        f"a==1 --hash=md5:{A}\n",
        f"a==1 ; nonsense --hash=sha256:{A}\n",
    ],
)
def test_invalid_lock(text: str) -> None:
    """An entry without a version, without a hash or with a URL is refused with the name of the file."""
    with pytest.raises(InputError, match=r"some\.lock: "):
        parse_lock(text, "some.lock")


def test_entries_for_a_target() -> None:
    """Another Python or machine gets its own entries, also those that apply to some of its patch releases."""
    lock = "\n".join(
        (
            f"old==1 ; python_full_version < '3.11.3' --hash=sha256:{A}",
            f"new==1 ; python_full_version >= '3.12' --hash=sha256:{A}",
            f"arm==1 ; platform_machine == 'aarch64' --hash=sha256:{A}",
            f"win==1 ; sys_platform == 'win32' --hash=sha256:{A}",
        )
    )
    pins = parse_lock(lock)
    assert [pin.name for pin in pins_for(pins, "3.11", "x86_64")] == ["old"]
    assert [pin.name for pin in pins_for(pins, "3.12", "aarch64")] == ["new", "arm"]
    assert lock_digest(lock) != lock_digest(lock + "\n")
