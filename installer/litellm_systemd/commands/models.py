"""models: the models of a configuration, with their limits and end of life."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any

from litellm_systemd.aws.client import query_lifecycles
from litellm_systemd.commands.config_check import environment_check
from litellm_systemd.commands.config_files import read_gateway
from litellm_systemd.commands.resolve import Request, resolve
from litellm_systemd.gateway.config import GatewayConfig, LintFinding, Severity
from litellm_systemd.gateway.models import ServedModel, build_served, end_findings
from litellm_systemd.report.report import Check, Outcome, Report, Table, render_count

_COLUMNS = ("MODEL AND ITS ID", "REGION", "IN", "OUT", "CACHE", "LIFECYCLE")
#: Why a lifecycle is not that of Bedrock.
_NOT_QUERIED = "it was not queried (--offline)"


def models(request: Request, today: date, *, offline: bool = False) -> Report:
    """The models of a configuration; the lifecycle is that of Bedrock if it answers, else of LiteLLM's map.

    Args:
        request: names the environment and the configuration.
        today: the day for the end of life.
        offline: do not query Bedrock.

    Raises:
        InstallerError: there is no such configuration, or it can't be read.
    """
    selection = resolve(request, read_only=True)
    gateway, environ = read_gateway(request.layout, selection.config, selection.settings.region), selection.environ
    served = build_served(gateway, environ)
    served, refusal = (served, _NOT_QUERIED) if offline else query_lifecycles(gateway, served, environ)
    report = build_report(gateway, served, refusal, today)
    return replace(report, checks=(*report.checks, *environment_check(selection)))


def build_report(gateway: GatewayConfig, served: tuple[ServedModel, ...], refusal: str | None, today: date) -> Report:
    """The report. `refusal`: why Bedrock did not answer, None if it did."""
    rows = tuple(_row(each, today) for each in served)
    unasked = [each for each in served if each.is_called and each.life.status is None]
    notes = (
        [f"(map): by LiteLLM's model map and this release, not by Bedrock: {refusal}."] if unasked and refusal else []
    )
    findings = tuple(end_findings(gateway, served, today))
    return Report(
        f"{gateway.source} serves {render_count(len(gateway.names), 'model')}",
        tuple(_check(finding) for finding in findings),
        facts=tuple(_chains(gateway)),
        notes=tuple(notes),
        table=Table(_COLUMNS, rows),
        data={
            "source": gateway.source,
            "bedrock": {"asked": refusal is None, "refusal": refusal},
            "models": [_as_data(gateway, each, today) for each in served],
            "aliases": dict((*gateway.aliases, *gateway.hidden_aliases)),
            "fallbacks": {
                name: list(targets) for name in _all_names(gateway) if (targets := _targets(gateway, name))
            },
        },
    )


def _check(finding: LintFinding) -> Check:
    # A warning only: Bedrock decides whether it still serves the model.
    name = "ended" if finding.severity is Severity.ERROR else "ends"
    return Check(name, Outcome.WARNING, str(finding), finding.remedy)


def _row(served: ServedModel, today: date) -> tuple[str, ...]:
    entry, found = served.entry, served.found
    calls = found.text if found is not None else served.model.provider_model
    return (
        # Two lines, since neither can be shortened and a terminal can have 80 columns.
        f"{served.model.name}\n  {calls}",
        served.region or "-",
        _tokens(entry.context if entry is not None else None),
        _tokens(entry.output if entry is not None else None),
        {True: "yes", False: "no", None: "-"}[entry.caches if entry is not None else None],
        _lifecycle(served, today),
    )


def _tokens(count: int | None) -> str:
    """1000000 as `1M`, 128000 as `128k`, 8191 as `8,191`."""
    if count is None:
        return "-"
    units = ((1_000_000, "M"), (1_000, "k"))
    return next((f"{count // size}{unit}" for size, unit in units if count and count % size == 0), f"{count:,}")


def _lifecycle(served: ServedModel, today: date) -> str:
    if not served.is_called:
        return "mocked" if served.model.mocked else "-"
    status, ends = served.life.status, served.life.ends
    end = None if ends is None else f"{'ended' if ends <= today else 'ends'} {ends}"
    if status is not None:
        return status if end is None else f"{status}, {end}"
    return f"{end or 'no end'} (map)" if served.entry is not None else "not in the map"


def _chains(gateway: GatewayConfig) -> Iterator[tuple[str, str]]:
    """Each alias and each model with fallbacks, with their targets."""
    aliases = dict((*gateway.aliases, *gateway.hidden_aliases))
    for name in _all_names(gateway):
        steps = ([aliases[name]] if name in aliases else []) + [f"then {each}" for each in _targets(gateway, name)]
        if steps:
            yield name, ", ".join(steps)


def _all_names(gateway: GatewayConfig) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*gateway.names, *(alias for alias, _ in gateway.hidden_aliases))))


def _targets(gateway: GatewayConfig, name: str) -> tuple[str, ...]:
    """The models that are called if a model fails for any reason: its own fallbacks, else the default ones."""
    chains = {
        each.model: each.targets for each in gateway.fallbacks if each.kind in ("fallbacks", "default_fallbacks")
    }
    return tuple(each for each in chains.get(name, chains.get("*", ())) if each != name)


def _as_data(gateway: GatewayConfig, served: ServedModel, today: date) -> dict[str, Any]:
    found, entry, life = served.found, served.entry, served.life
    source = None if not served.is_called else "bedrock" if life.status is not None else "map" if entry else None
    return {
        "name": served.model.name,
        "aliases": [
            alias for alias, target in (*gateway.aliases, *gateway.hidden_aliases) if target == served.model.name
        ],
        "calls": served.model.provider_model,
        "mocked": served.model.mocked,
        "id": found.text if found is not None else None,
        "model": found.model if found is not None else None,
        "profile": found.geography if found is not None else None,
        "region": served.region,
        "context": entry.context if entry is not None else None,
        "output": entry.output if entry is not None else None,
        "caches": entry.caches if entry is not None else None,
        "lifecycle": {
            "status": life.status,
            "ends": None if life.ends is None else life.ends.isoformat(),
            "has_ended": life.ends is not None and life.ends <= today,
            "source": source,
        },
        "fallbacks": list(_targets(gateway, served.model.name)),
    }
