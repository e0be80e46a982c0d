"""The packages that a configuration needs in addition to LiteLLM's own, and the groups of packages that have them.

LiteLLM imports the package of a callback, guardrail, cache or provider when a configuration names it. A release has
such a package if it was built with it: see releases/additions.py. The groups are in groups.lock, which
scripts/lock.sh writes from the extras of setup.cfg.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from litellm_systemd.gateway.callbacks import CALLBACK_SETTINGS
from litellm_systemd.gateway.config_types import GatewayConfig, KeyPath, mappings
from litellm_systemd.gateway.snapshot import Need, load_snapshot

#: The line that begins the packages of a group in groups.lock, or of an addition in the lock of a release.
SECTION = re.compile(r"^# with: (.+)\n", re.MULTILINE)
_PURPOSE = re.compile(r"^# needs: (.+)", re.MULTILINE)
_ENTRY = re.compile(r"^([a-zA-Z0-9._-]+)==", re.MULTILINE)

#: Values of general_settings.key_management_system, with what they import.
_KEY_MANAGERS = {"azure_key_vault": "azure-keyvault-secrets", "google_kms": "google-cloud-kms"}


@dataclass(frozen=True, slots=True)
class Missing:
    """A package that `name` at `path` of a configuration needs, and the group that has it, None without one."""

    path: KeyPath
    name: str
    package: str
    group: str | None


def missing_packages(config: GatewayConfig, present: Container[str]) -> tuple[Missing, ...]:
    """What a configuration needs, except the packages in `present` (canonical names): one entry for each group."""
    found: dict[str, Missing] = {}
    for path, name, packages in _needs(config):
        lacking = [each for each in packages if each not in present]
        groups = {group: each for each in reversed(lacking) if (group := find_group(each)) is not None}
        for group, package in groups.items():
            found.setdefault(group, Missing(path, name, package, group))
        have = frozenset().union(*(_groups()[group] for group in groups))
        for package in lacking:
            if find_group(package) is None and package not in have:
                found.setdefault(package, Missing(path, name, package, None))
    return tuple(found.values())


def locked_names(lock: str) -> frozenset[str]:
    """The canonical names of all packages in a lock."""
    return frozenset(map(canonical, _ENTRY.findall(lock)))


def canonical(name: str) -> str:
    """The canonical name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def read_groups() -> str:
    """The text of groups.lock: a section for each group, with the packages that it adds to requirements.lock."""
    return (files("litellm_systemd") / "groups.lock").read_text(encoding="utf-8")


def find_group(package: str) -> str | None:
    """The group that is for a package; None if there is none."""
    return next((name for name, names in _purposes().items() if package in names), None)


def group_names() -> tuple[str, ...]:
    """The names of the groups, sorted."""
    return tuple(sorted(_groups()))


@cache
def _groups() -> Mapping[str, frozenset[str]]:
    return {name: locked_names(entries) for name, entries in _sections().items()}


@cache
def _purposes() -> Mapping[str, frozenset[str]]:
    """The packages that setup.cfg names for each group."""
    return {name: frozenset(" ".join(_PURPOSE.findall(entries)).split()) for name, entries in _sections().items()}


def _sections() -> Mapping[str, str]:
    _, *rest = SECTION.split(read_groups())
    return dict(zip(rest[::2], rest[1::2], strict=True))


def _needs(config: GatewayConfig) -> Iterator[tuple[KeyPath, str, tuple[str, ...]]]:
    """The position, the name and the packages of everything in a configuration that needs some."""
    snapshot = load_snapshot()
    for path, name in _callback_names(config):
        # A group with the name of a callback is what that callback needs.
        if name in _purposes():
            yield path, name, tuple(sorted(_purposes()[name]))
        elif name in snapshot.callbacks:
            yield path, name, _packages(snapshot.callbacks[name])
    for index, guardrail in enumerate(mappings(config.document.get("guardrails"))):
        params = guardrail.get("litellm_params")
        kind = params.get("guardrail") if isinstance(params, Mapping) else None
        if isinstance(kind, str) and kind in snapshot.guardrails:
            yield ("guardrails", index, "litellm_params", "guardrail"), kind, _packages(snapshot.guardrails[kind])
    settings = config.section("litellm_settings")
    cached = settings.get("cache_params")
    kind = cached.get("type") if settings.get("cache") and isinstance(cached, Mapping) else None
    if isinstance(kind, str) and kind in snapshot.cache_types:
        yield ("litellm_settings", "cache_params", "type"), kind, _packages(snapshot.cache_types[kind])
    manager = config.section("general_settings").get("key_management_system")
    if isinstance(manager, str) and manager in _KEY_MANAGERS:
        yield ("general_settings", "key_management_system"), manager, (_KEY_MANAGERS[manager],)
    for model in config.models:
        need = snapshot.provider_needs.get(model.provider or "")
        if model.provider is not None and need is not None and not model.mocked:
            # Others are for few requests: pillow for images to Ollama, databricks-sdk for those without a key.
            known = tuple(each for each in _packages(need) if find_group(each) is not None)
            yield (*model.key, "litellm_params", "model"), model.provider, known


def _packages(need: Need) -> tuple[str, ...]:
    return tuple(map(canonical, need.packages))


def _callback_names(config: GatewayConfig) -> Iterator[tuple[KeyPath, str]]:
    settings = config.section("litellm_settings")
    for key in CALLBACK_SETTINGS:
        value = settings.get(key)
        if isinstance(value, str):
            yield ("litellm_settings", key), value
        elif isinstance(value, list):
            yield from ((("litellm_settings", key, i), each) for i, each in enumerate(value) if isinstance(each, str))
