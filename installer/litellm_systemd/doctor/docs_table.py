"""The tables of causes in the documentation, out of the definitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from litellm_systemd.doctor.cause import Cause
from litellm_systemd.report.report import Outcome

BEGIN, END = "<!-- causes: made by python -m litellm_systemd.doctor -->", "<!-- causes: end -->"

_TITLES = {
    "host": "The host",
    "files": "Files",
    "environment": "Environment",
    "configuration": "Configuration",
    "unit": "Units",
    "port": "Port",
    "network": "The way to the models",
    "aws": "AWS",
    "service": "The running service",
    "journal": "The journal",
}


class _Placeholders(dict[str, str]):
    """What a template is filled with in the documentation: `{path}` becomes PATH."""

    def __missing__(self, name: str) -> str:
        return name.upper()


def replace_tables(text: str, causes: Iterable[Cause]) -> str:
    """The text of a page with the tables between the two marks made anew; ValueError if a mark is missing."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{render_tables(causes)}\n{END}{after}"


def render_tables(causes: Iterable[Cause]) -> str:
    """A Markdown table for each group, in the order of the causes. Each row can be linked to by the cause's id."""
    ordered = sorted(causes, key=lambda cause: list(_TITLES).index(cause.group))
    return "\n".join(
        line for group, rows in groupby(ordered, lambda each: each.group) for line in _table(group, rows)
    )


def _table(group: str, causes: Iterable[Cause]) -> Iterator[str]:
    yield f"\n### {_TITLES[group]}\n"
    yield "| cause | what it means | what mends it | `--fix` |"
    yield "|---|---|---|---|"
    for cause in causes:
        name = f'<a id="{cause.id}"></a>`{cause.id}`' + (" (warning)" if cause.outcome is Outcome.WARNING else "")
        cells = (name, cause.means, f"`{cause.mend.format_map(_Placeholders())}`", cause.fix or "–")
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
