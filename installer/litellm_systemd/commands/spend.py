"""spend: what keys, users, teams and models cost, a day at a time; as a table, CSV and a page with a chart.

LiteLLM adds up each day in UTC, in tables that no budget resets. Without a licence it returns them by
/user/daily/activity and /team/daily/activity: `export` has one row for each day and key, user or team, and
`aggregated` has the models by the names that clients use.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from litellm_systemd.client.management import Management
from litellm_systemd.commands.verify import require_place, write_page
from litellm_systemd.errors import UsageError
from litellm_systemd.install.render import render_spend
from litellm_systemd.report.report import Report, Table, printable
from litellm_systemd.report.spend_page import Spend, build_spend_page, render_dollars

#: For each grouping: the route, and the parameters of it.
GROUPINGS: dict[str, tuple[str, dict[str, str]]] = {
    "key": ("/user/daily/activity/export", {"export_type": "daily_with_keys"}),
    "user": ("/user/daily/activity/export", {"export_type": "daily_with_users"}),
    "team": ("/team/daily/activity/export", {"export_type": "daily"}),
    "model": ("/user/daily/activity/aggregated", {"api_key_limit": "1"}),
    "day": ("/user/daily/activity/export", {"export_type": "daily"}),
}
#: Days of one request, which bounds the response; and of a report.
_DAYS_AT_ONCE, _MOST_DAYS = 7, 1100
#: What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@")
#: The id of the master key in LiteLLM's tables.
_MASTER = "litellm_proxy_master_key"
_COLUMNS = ("spend", "requests", "failed", "tokens in", "tokens out")


@dataclass(frozen=True, slots=True)
class SpendQuery:
    """The first and the last day (UTC), and what to group by: a key of `GROUPINGS`."""

    first: date
    last: date
    by: str

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1


def parse_since(text: str, today: date) -> date:
    """The first day, from `7d` (today and the six days before) or a date such as 2026-01-31.

    Raises:
        UsageError: it is neither, or is in the future, or too long ago.
    """
    first = None
    if match := re.fullmatch(r"(\d{1,4})d", text.strip()):
        first = today - timedelta(days=max(int(match[1]), 1) - 1)
    elif re.fullmatch(r"\d{4}-\d\d-\d\d", text.strip()):
        try:
            first = date.fromisoformat(text.strip())
        except ValueError:
            first = None
    if first is None or not 0 <= (today - first).days < _MOST_DAYS:
        raise UsageError(
            f"--since {text} is not a time from today to {_MOST_DAYS} days ago",
            "Write a number of days, such as 7d, or a date (UTC), such as 2026-01-31.",
        )
    return first


def read_spend(api: Management, query: SpendQuery) -> tuple[Spend, ...]:
    """The spend of each day and group, in the order of the days.

    Raises:
        InstallerError: there is no database, or LiteLLM refuses.
    """
    path, parameters = GROUPINGS[query.by]
    sums: dict[tuple[str, str], Spend] = {}
    start = query.first
    while start <= query.last:
        end = min(start + timedelta(days=_DAYS_AT_ONCE - 1), query.last)
        found = api.get(path, start_date=start, end_date=end, **parameters, **_format(query.by))
        for each in _read_models(found) if query.by == "model" else _read_rows(found, query.by):
            key = (each.day, each.id)
            sums[key] = each if key not in sums else sums[key] + each
        start = end + timedelta(days=1)
    return tuple(sorted(sums.values(), key=lambda each: (each.day, -each.spend)))


def _format(by: str) -> dict[str, str]:
    return {} if by == "model" else {"format": "json"}


def _read_rows(rows: Iterable[dict[str, Any]], by: str) -> Iterator[Spend]:
    for row in rows:
        identifier, label = {
            "key": (row["api_key"], row["key_alias"]),
            "user": (row["entity_id"], row["user_email"]),
            "team": (row["entity_id"], row["entity_alias"]),
            "day": (row["date"], None),
        }[by]
        yield _build(row["date"], identifier or "", label, row, by)


def _read_models(answer: dict[str, Any]) -> Iterator[Spend]:
    for day in answer["results"]:
        for name, found in day["breakdown"]["model_groups"].items():
            yield _build(day["date"], name, None, found["metrics"], "model")


def _build(day: str, identifier: str, label: str | None, row: dict[str, Any], by: str) -> Spend:
    short = "master key" if identifier == _MASTER else identifier[:12] if by == "key" else identifier
    name = label or short or f"no {by}"
    numbers = (row["api_requests"], row["failed_requests"], row["prompt_tokens"], row["completion_tokens"])
    return Spend(day, identifier, name, float(row["spend"] or 0), *(int(number or 0) for number in numbers))


def report_spend(rows: tuple[Spend, ...], query: SpendQuery) -> Report:
    """The totals of each group, the most expensive first; of days, the latest first.

    Report.data: since, until (UTC), by, total, groups (totals), days (one row for each day and group).
    """
    totals: dict[str, Spend] = {}
    for row in rows:
        totals[row.id] = row if row.id not in totals else totals[row.id] + row
    if query.by == "day":
        ordered = sorted(totals.values(), key=lambda each: each.day, reverse=True)
    else:
        ordered = sorted(totals.values(), key=lambda each: (-each.spend, -each.requests, each.name))
    total = sum(each.spend for each in ordered)
    requests = sum(each.requests for each in ordered)
    span = f"{query.first} to {query.last} (UTC)"
    return Report(
        f"{render_dollars(total)} for {requests:,} request{'' if requests == 1 else 's'}, {span}",
        table=Table((query.by, *_COLUMNS), tuple(map(_cells, ordered))) if ordered else None,
        notes=("What was spent in the last 15 s may be missing: LiteLLM writes it later.",) if not ordered else (),
        data={
            "since": str(query.first),
            "until": str(query.last),
            "by": query.by,
            "total": total,
            "groups": [{key: value for key, value in asdict(each).items() if key != "day"} for each in ordered],
            "days": [asdict(each) for each in rows],
        },
    )


def _cells(each: Spend) -> tuple[str, ...]:
    counts = (each.requests, each.failed, each.tokens_in, each.tokens_out)
    return (each.name, render_dollars(each.spend), *(f"{count:,}" for count in counts))


def render_csv(rows: tuple[Spend, ...], by: str) -> str:
    """One line for each day and group, for spreadsheets."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = () if by == "day" else (by, "id")
    writer.writerow(("day", *names, *(column.replace(" ", "_") for column in _COLUMNS)))
    for each in rows:
        texts = (each.day,) if by == "day" else (each.day, each.name, each.id)
        shown = map(printable, texts)
        safe = (f"'{text}" if text.lstrip().startswith(_FORMULA) else text for text in shown)
        writer.writerow((*safe, f"{each.spend:.8f}", each.requests, each.failed, each.tokens_in, each.tokens_out))
    return out.getvalue().rstrip("\n")


def spend(api: Management, query: SpendQuery, html: Path | None) -> tuple[Report, tuple[Spend, ...]]:
    """The report and its rows, and the page if `html` names a file.

    Raises:
        CannotCreate: the page cannot be written.
        InstallerError: there is no database, or LiteLLM refuses.
    """
    if html is not None:
        require_place(html)
    rows = read_spend(api, query)
    report = report_spend(rows, query)
    if html is not None:
        write_page(html, render_spend(build_spend_page(report, rows, query.first, query.days)))
    return report, rows
