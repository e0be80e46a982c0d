"""The requirements of setup.cfg: what the code imports, and LiteLLM as in the lock."""

from __future__ import annotations

import ast
import configparser
import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator
from datetime import date
from importlib.metadata import packages_distributions
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from litellm_systemd.releases.advisories import list_advisories, published_day
from litellm_systemd.releases.bad_versions import find_bad
from litellm_systemd.releases.requirements_lock import SUPPORTED_LITELLM, pinned_version
from litellm_systemd.releases.source import sdnotify_wheel
from litellm_systemd.resources import read_lock
from tests.unit.litellm_advisories import convert, render

REPOSITORY = Path(__file__).resolve().parents[2]
#: What setup.cfg lists for others: LiteLLM imports prisma, uvicorn httptools. LiteLLM and prometheus-client are
#: imported by names in strings.
NOT_IMPORTED = {"litellm", "prisma", "httptools", "prometheus-client"}
#: What LiteLLM requires in the version that fits.
OF_LITELLM = {"litellm-proxy-extras", "redis"}


def declared() -> dict[str, Requirement]:
    setup = configparser.ConfigParser(comment_prefixes=("#",))
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    found = [Requirement(line) for line in setup["options"]["install_requires"].split("\n") if line]
    return {canonicalize_name(wanted.name): wanted for wanted in found}


def imported() -> set[str]:
    """The third-party distributions that the code imports, at the top of a module or inside a function."""
    files = (REPOSITORY / "installer/litellm_systemd").rglob("*.py")
    modules = {name.split(".")[0] for file in files for name in _imports(file)}
    third_party = modules - sys.stdlib_module_names - {"litellm_systemd"}
    owners = packages_distributions()
    found: set[str] = {canonicalize_name(owners[name][0]) for name in third_party}
    return found - OF_LITELLM


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_requirements_are_what_is_imported() -> None:
    """setup.cfg declares each package that the code imports, and no others but those of the list."""
    assert set(declared()) - NOT_IMPORTED == imported() - NOT_IMPORTED
    assert set(declared()) >= NOT_IMPORTED


def test_pip_and_a_release_give_the_same_litellm() -> None:
    """setup.cfg pins LiteLLM to the version of the lock, one that `upgrade --litellm` accepts and that is not bad."""
    version = pinned_version(read_lock(), "litellm")
    assert str(declared()["litellm"].specifier) == f"=={version}"
    assert SpecifierSet(SUPPORTED_LITELLM).contains(version)
    assert find_bad(version) is None


def test_locked_litellm_has_a_day_and_no_advisory() -> None:
    """doctor knows when the LiteLLM of the lock was published, and no advisory that covers it."""
    version = pinned_version(read_lock(), "litellm")
    assert date.fromisoformat(published_day(version)) <= date.today(), "run scripts/lock.sh"
    assert [advisory.id for advisory in list_advisories() if advisory.fix_for(version) is not None] == []


def test_sdnotify_is_the_upstream_code_at_the_declared_version() -> None:
    """The wheel in the package has the version of setup.cfg, and its code is that of the source on PyPI."""
    wheel = sdnotify_wheel()
    name, version = wheel.name.split("-")[:2]
    assert str(declared()["sdnotify"]) == f"{name}=={version}"
    with zipfile.ZipFile(wheel) as archive:
        code = {item: archive.read(item) for item in archive.namelist() if item.endswith(".py")}
    assert {item: hashlib.sha256(content).hexdigest() for item, content in code.items()} == {
        "sdnotify/__init__.py": "9d966498789f704ff2fac75fa3b44f7fa127da9ef8a81c89447edb5ffd62fecc"
    }


OSV_RECORDS = json.loads("""[
    {"id": "PYSEC-2026-1", "aliases": ["GHSA-a", "CVE-1"], "published": "2026-01-01T00:00:00Z", "affected": [
        {"package": {"name": "litellm"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}]},
    {"id": "GHSA-a", "aliases": ["CVE-1"], "summary": "A", "published": "2026-01-02T00:00:00Z", "affected": [
        {"package": {"name": "litellm"}, "ranges": [
            {"type": "GIT", "events": [{"introduced": "0"}]},
            {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.2"}]},
            {"type": "ECOSYSTEM", "events": [{"introduced": "1.3"}, {"last_affected": "1.4"}]}]}]},
    {"id": "PYSEC-2026-2", "summary": "B", "published": "2026-02-01T00:00:00Z", "affected": [
        {"package": {"name": "other"}, "versions": ["9"]}, {"package": {"name": "litellm"}, "versions": ["1.9"]}]},
    {"id": "PYSEC-2026-3", "summary": "C", "withdrawn": "2026-02-01T00:00:00Z", "affected": [
        {"package": {"name": "litellm"}, "versions": ["1.9"]}]}
]""")


def test_advisories_are_those_of_osv() -> None:
    """The records of OSV become one entry for each vulnerability, with its ranges of versions, the newest first."""
    entries = convert(OSV_RECORDS)
    assert [(each["id"], each["affected"]) for each in entries] == [
        ("PYSEC-2026-2", ["==1.9"]),
        ("GHSA-a", ["<1.2", ">=1.3,<=1.4"]),
    ]
    text = render(
        "# comment\nlitellm: 1.2.3\nreleased: 2026-01-01\nchecked: x\nadvisories: []\n", entries, date(2026, 3, 1)
    )
    assert text.startswith(
        "# comment\nlitellm: 1.2.3\nreleased: 2026-01-01\nchecked: 2026-03-01\nadvisories:\n- id: PYSEC"
    )
    assert yaml.safe_load(text)["advisories"] == entries
