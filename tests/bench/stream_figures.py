"""Summarize streams and render their table. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .figures import Target, median, percentile, ratio
from .table import Rows, as_markdown

#: The streams at once for the target of the first token.
REFERENCE = 64


@dataclass(frozen=True, slots=True)
class Case:
    """An API and a route of LiteLLM. `model`: its name in the configuration."""

    name: str
    title: str
    path: str
    model: str


CHAT = Case("chat", "/v1/chat/completions", "/v1/chat/completions", "shipped")
MESSAGES = Case("messages", "/v1/messages", "/v1/messages", "shipped")
CONVERSE = Case("messages-converse", "/v1/messages, converse route", "/v1/messages", "converse")
RESPONSES = Case("responses", "/v1/responses", "/v1/responses", "shipped")
CASES = (CHAT, MESSAGES, CONVERSE, RESPONSES)


@dataclass(frozen=True, slots=True)
class Cell:
    """What a number of streams needed, in seconds.

    Attributes:
        events: the events of all complete streams.
        processor: processor time of the service, until it is idle after the last stream.
        first: the times to the first word of each complete stream.
        direct: the same for direct calls to the upstream, with the same number of streams.
        elapsed: from the first request to the end of the last stream.
        upstream: processor time of the upstream.
        clients: processor time of the clients.
        failures: the streams that failed, by reason.
    """

    events: int
    processor: float
    first: tuple[float, ...]
    direct: tuple[float, ...]
    elapsed: float
    upstream: float
    clients: float
    failures: Mapping[str, int]


#: By service, name of the case and number of streams: the cells of all rounds.
Cells = Mapping[tuple[str, str, int], Sequence[Cell]]


def per_event(cells: Sequence[Cell]) -> float | None:
    """Processor time of the service for an event in milliseconds, the median of the rounds."""
    return median([ratio(cell.processor * 1000, cell.events) for cell in cells])


def per_core(cells: Sequence[Cell]) -> float | None:
    """The events of a second of processor time."""
    return ratio(1000, per_event(cells))


def overhead(cells: Sequence[Cell], share: float) -> float | None:
    """The milliseconds that the gateway adds until the first word: a percentile over the streams of all rounds.

    From each stream the median of the direct calls of its round is subtracted.
    """
    added = []
    for cell in cells:
        base = median(cell.direct) or 0.0
        added += [(first - base) * 1000 for first in cell.first]
    return percentile(added, share) if added else None


def judge(cells: Cells) -> list[Target]:
    """Evaluate the targets, each at the measured number of streams next to `REFERENCE`."""
    ours, plain, same = ("ours2", MESSAGES), ("plain2", CONVERSE), ("plain2", MESSAGES)
    word, event = ("p99 added to the first word, of two plain workers", "processor time of an event, of plain")
    return [
        _judge(cells, ("ours1", MESSAGES), ("plain1", CONVERSE), per_event, f"{event} converse route, 1 worker", 0.3),
        _judge(cells, ours, plain, per_event, f"{event} converse route, 2 workers", 0.3),
        _judge(cells, ours, plain, _slowest, f"{word}, converse route", 0.5),
        _judge(cells, ours, same, _slowest, f"{word}, same route", 0.5),
    ]


def _judge(
    cells: Cells,
    ours: tuple[str, Case],
    base: tuple[str, Case],
    figure: Callable[[Sequence[Cell]], float | None],
    name: str,
    limit: float,
) -> Target:
    def get(service: str, case: Case, level: int) -> Sequence[Cell]:
        return cells.get((service, case.name, level), ())

    levels = {level for _, _, level in cells if get(*ours, level) and get(*base, level)}
    level = min(levels, key=lambda each: abs(each - REFERENCE), default=REFERENCE)
    value = ratio(figure(get(*ours, level)), figure(get(*base, level)))
    return Target(f"{ours[1].title}, {level} streams: {name}", value, limit)


def _slowest(cells: Sequence[Cell]) -> float | None:
    return overhead(cells, 0.99)


def render(cells: Cells, services: Mapping[str, str]) -> str:
    """All figures. `services`: names and titles. The ratios compare services with the same number of workers."""
    levels = sorted({level for _, _, level in cells})
    rows: Rows = [["", *services.values(), "1 to 1 worker", "2 to 2 workers"]]
    for case in CASES:
        for level in levels:
            found = {name: cells.get((name, case.name, level), ()) for name in services}
            if not any(found.values()):
                continue
            for what, form, figure in (
                ("processor time of an event", "{:.3f} ms", per_event),
                ("events a second and core", "{:.0f}", per_core),
                ("p50 added to the first word", "{:.0f} ms", lambda each: overhead(each, 0.5)),
                ("p99 added to the first word", "{:.0f} ms", _slowest),
            ):
                values = {name: figure(each) for name, each in found.items()}
                ratios = [ratio(values.get(f"ours{number}"), values.get(f"plain{number}")) for number in (1, 2)]
                numbers = [_number(value, form) for value in values.values()]
                rows.append(
                    [
                        f"{case.title}, {level} streams: {what}",
                        *numbers,
                        *(_number(each, "{:.2f} x") for each in ratios),
                    ]
                )
            if failed := [_failures(each) for each in found.values()]:
                rows.append([f"{case.title}, {level} streams: failed", *failed, "–", "–"])
    return f"{_targets(judge(cells))}\n{as_markdown(rows)}\n{_others(cells, levels)}"


def _failures(cells: Sequence[Cell]) -> str:
    if not cells:
        return "–"
    failed, whole = sum(sum(cell.failures.values()) for cell in cells), sum(len(cell.first) for cell in cells)
    return f"{failed} of {failed + whole}"


def _targets(targets: Sequence[Target]) -> str:
    rows: Rows = [["target", "wanted", "measured", ""]]
    rows += [[each.name, f"≤ {each.limit:g} x", _number(each.value, "{:.2f} x"), each.verdict] for each in targets]
    return as_markdown(rows)


def _others(cells: Cells, levels: Sequence[int]) -> str:
    """The highest use of processors by what is not measured, which must not be the bottleneck."""
    rows: Rows = [["streams", "upstream, processors", "clients, processors"]]
    for level in levels:
        found = [cell for (_, _, each), many in cells.items() if each == level for cell in many]
        upstream = max(cell.upstream / cell.elapsed for cell in found)
        clients = max(cell.clients / cell.elapsed for cell in found)
        rows.append([str(level), f"{upstream:.2f}", f"{clients:.2f}"])
    return as_markdown(rows)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
