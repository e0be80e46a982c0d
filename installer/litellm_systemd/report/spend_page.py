"""The values for the template of `spend --html`: a chart of columns, stacked by group, and the totals. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta

from litellm_systemd.report.report import Report, render_count

#: Columns of the chart: each has so many days that there are not more. Colors: the last one is for all other groups.
_MOST_COLUMNS, _COLORS = 62, 7
#: The area for the columns, in the units of the drawing.
WIDTH, HEIGHT = 720, 200


@dataclass(frozen=True, slots=True)
class Spend:
    """What one group spent on one day (UTC), in US dollars; `failed` requests are counted in `requests` too."""

    day: str
    id: str
    name: str
    spend: float
    requests: int
    failed: int
    tokens_in: int
    tokens_out: int

    def __add__(self, other: Spend) -> Spend:
        """The sum, with the day and the names of the first one."""
        return replace(
            self,
            spend=self.spend + other.spend,
            requests=self.requests + other.requests,
            failed=self.failed + other.failed,
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
        )


@dataclass(frozen=True, slots=True)
class Segment:
    """A rectangle of the chart, with the text that a pointer shows."""

    x: float
    y: float
    width: float
    height: float
    color: int
    text: str


@dataclass(frozen=True, slots=True)
class SpendPage:
    """All values of the template. `totals` are rows of the table, each with its share of the first one in percent."""

    title: str
    by: str
    unit: str
    period: str
    segments: tuple[Segment, ...]
    legend: tuple[tuple[int, str], ...]
    top: str
    days: tuple[str, str]
    columns: tuple[str, ...]
    totals: tuple[tuple[tuple[str, ...], float], ...]
    notes: tuple[str, ...]


def build_spend_page(report: Report, rows: tuple[Spend, ...], first: date, days: int) -> SpendPage:
    """Build the page for a report of `spend`; a gateway whose models cost nothing gets a chart of its requests."""
    costs = any(row.spend for row in rows)
    values = [(row, row.spend if costs else float(row.requests)) for row in rows]
    by_group: dict[str, float] = {}
    for row, value in values:
        by_group[row.id] = by_group.get(row.id, 0.0) + value
    # Days are the columns already: one color.
    is_by_day = report.data["by"] == "day"
    ranked = sorted(by_group, key=lambda each: -by_group[each])
    colors = {each: 0 if is_by_day else min(number, _COLORS - 1) for number, each in enumerate(ranked)}
    names = {row.id: row.name for row in rows}
    legend = () if is_by_day else tuple((number, names[each]) for number, each in enumerate(ranked[: _COLORS - 1]))
    if len(ranked) >= _COLORS and not is_by_day:
        legend += ((_COLORS - 1, render_count(len(ranked) - _COLORS + 1, f"other {report.data['by']}")),)
    step = -(-days // _MOST_COLUMNS)
    columns: dict[int, dict[int, float]] = {}
    for row, value in values:
        column = columns.setdefault((date.fromisoformat(row.day) - first).days // step, {})
        column[colors[row.id]] = column.get(colors[row.id], 0.0) + value
    top = max((sum(each.values()) for each in columns.values()), default=0.0)
    table = report.table
    largest = max(by_group.values(), default=0.0)
    order = [each["id"] for each in report.data["groups"]]
    return SpendPage(
        title=report.title,
        by=report.data["by"],
        unit="US dollars" if costs else "requests",
        period="day" if step == 1 else f"{step} days",
        segments=_draw(columns, top, -(-days // step), dict(legend), (first, step), costs=costs),
        legend=legend,
        top=_render(top, costs=costs),
        days=(str(first), str(first + timedelta(days=days - 1))),
        columns=() if table is None else table.columns,
        totals=tuple(
            (cells, round(100 * by_group[each] / largest, 1) if largest else 0.0)
            for cells, each in zip(() if table is None else table.rows, order, strict=True)
        ),
        notes=report.notes,
    )


def _draw(
    columns: Mapping[int, Mapping[int, float]],
    top: float,
    number: int,
    names: Mapping[int, str],
    scale: tuple[date, int],
    *,
    costs: bool,
) -> tuple[Segment, ...]:
    first, step = scale
    width = WIDTH / number
    found: list[Segment] = []
    for column, parts in sorted(columns.items()):
        y = float(HEIGHT)
        for color, value in sorted(parts.items()):
            height = HEIGHT * value / top if top else 0.0
            y -= height
            day = first + timedelta(days=column * step)
            name = f"{names[color]}, " if color in names else ""
            text = f"{name}{day}: {_render(value, costs=costs)}"
            found.append(
                Segment(
                    round(column * width + width * 0.1, 2),
                    round(y, 2),
                    round(width * 0.8, 2),
                    round(height, 2),
                    color,
                    text,
                )
            )
    return tuple(found)


def _render(value: float, *, costs: bool) -> str:
    return render_dollars(value) if costs else f"{value:,.0f}"


def render_dollars(amount: float) -> str:
    """US dollars, with the digits that a small amount needs."""
    if amount >= 0.1 or amount == 0:
        return f"${amount:,.2f}"
    return f"${amount:.6f}".rstrip("0") if amount >= 0.000001 else "less than $0.000001"
