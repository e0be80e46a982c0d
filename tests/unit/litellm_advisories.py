"""The advisories for LiteLLM that OSV has (https://google.github.io/osv.dev/post-v1-query/), in the form of our data.

`python -m tests.unit.litellm_advisories` writes them into releases/advisories.yml, which doctor reads.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from litellm_systemd.releases.advisories import DATA

PATH = Path(__file__).resolve().parents[2] / "installer/litellm_systemd/releases" / DATA
OSV = "https://api.osv.dev/v1/query"
PACKAGE = {"ecosystem": "PyPI", "name": "litellm"}


def fetch() -> Iterator[Mapping[str, Any]]:
    """All records of OSV for LiteLLM, page by page."""
    token = None
    while token != "":
        query = {"package": PACKAGE} | ({"page_token": token} if token else {})
        request = urllib.request.Request(OSV, json.dumps(query).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        yield from found.get("vulns", ())
        token = found.get("next_page_token", "")


def convert(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each vulnerability, the newest first; GitHub's own record if several databases have one."""
    seen: set[str] = set()
    found = []
    ordered = sorted(records, key=lambda record: (not record["id"].startswith("GHSA-"), record["id"]))
    for record in ordered:
        names = {record["id"], *record.get("aliases", ())}
        affected = sorted(set(_affected(record)))
        if not seen & names and affected and not record.get("withdrawn"):
            entry = {
                "id": record["id"],
                "aliases": sorted(names - {record["id"]}),
                "summary": record.get("summary") or record.get("details", "").partition("\n")[0][:120],
                "affected": affected,
                "source": f"https://osv.dev/vulnerability/{record['id']}",
            }
            found.append((record.get("published", ""), entry))
        seen |= names
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0], reverse=True)]


def _affected(record: Mapping[str, Any]) -> Iterator[str]:
    """The affected versions as specifiers (PEP 440); single versions if a record has no range of versions."""
    for item in record.get("affected", ()):
        if item.get("package", {}).get("name") != PACKAGE["name"]:
            continue
        ranges = [found for found in item.get("ranges", ()) if found["type"] == "ECOSYSTEM"]
        for found in ranges:
            yield from _specifiers(found["events"])
        if not ranges:
            yield from (f"=={version}" for version in item.get("versions", ()))


def _specifiers(events: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """A specifier for each pair of events (https://ossf.github.io/osv-schema/#affectedrangesevents-fields)."""
    start = ""
    for event in events:
        if "introduced" in event:
            start = event["introduced"]
        else:
            end = f"<{event['fixed']}" if "fixed" in event else f"<={event['last_affected']}"
            yield end if start == "0" else f">={start},{end}"
            start = ""
    if start:
        yield f">={start}"


def render(text: str, advisories: list[dict[str, Any]], today: date) -> str:
    """The text of the data with these advisories. Its comment and what lock.sh writes stay."""
    head = text.partition("checked: ")[0]
    body = yaml.safe_dump({"advisories": advisories}, sort_keys=False, width=1000, allow_unicode=True)
    return f"{head}checked: {today}\n{body}"


if __name__ == "__main__":
    PATH.write_text(render(PATH.read_text(encoding="utf-8"), convert(fetch()), date.today()), encoding="utf-8")
