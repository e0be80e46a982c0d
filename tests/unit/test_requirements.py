"""The requirements of setup.cfg: what the code imports, and LiteLLM as in the lock."""

from __future__ import annotations

import ast
import configparser
import hashlib
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from litellm_systemd.releases.requirements_lock import BAD_LITELLM, SUPPORTED_LITELLM, pinned_version
from litellm_systemd.releases.source import sdnotify_wheel
from litellm_systemd.resources import read_lock

REPOSITORY = Path(__file__).resolve().parents[2]
#: What setup.cfg lists for others: LiteLLM is imported by names in strings and imports prisma, uvicorn httptools.
NOT_IMPORTED = {"litellm", "prisma", "httptools"}


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
    return {canonicalize_name(owners[name][0]) for name in third_party}


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_requirements_are_what_is_imported() -> None:
    """setup.cfg declares each package that the code imports, and no others but three that others import."""
    assert set(declared()) - NOT_IMPORTED == imported() - NOT_IMPORTED
    assert set(declared()) >= NOT_IMPORTED


def test_pip_and_a_release_give_the_same_litellm() -> None:
    """setup.cfg pins LiteLLM to the version of the lock, one that `upgrade --litellm` accepts and that is not bad."""
    version = pinned_version(read_lock(), "litellm")
    assert str(declared()["litellm"].specifier) == f"=={version}"
    assert SpecifierSet(SUPPORTED_LITELLM).contains(version)
    assert version not in BAD_LITELLM


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
