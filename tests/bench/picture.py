"""Draw the picture for the README: the results of the four services in five small bar charts.

The picture has a background, so that it is legible in GitHub's dark and light themes. It is as wide as a README on
GitHub, so a font size in points is correct there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from .figures import CTL_RESTART, RESTART, Summary, reference
from .peers import OURS, PEERS

_LABELS = {
    "plain1": "litellm\n1 worker",
    "plain2": "litellm\n2 workers",
    "gunicorn": "litellm, gunicorn\n2 workers",
    "ours": "litellm-systemd\n2 workers",
}
_CARD, _EDGE, _TEXT, _FAINT, _BAR, _OURS = "#ffffff", "#d0d7de", "#1f2328", "#59636e", "#b6bfc9", "#0969da"
_INCHES = (8.7, 3.1)
_DOTS = 200
#: Room for the number to the right of the longest bar, in lengths of that bar.
_ROOM = 1.62


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    value: Callable[[Summary], float | None]
    form: str


_PANELS = (
    _Panel("failed requests\nat a restart", lambda each: _at_restart(each, "failed"), "{:,.0f}"),
    _Panel("longest silence\nat a restart", lambda each: _at_restart(each, "longest_gap"), "{:.1f} s"),
    _Panel("slowest 1 %\nof the answers", lambda each: _number(reference(each)["p99"]), "{:.0f} ms"),
    _Panel("memory\n", lambda each: _number(each["pss"]), "{:.0f} MiB"),
    _Panel("start\nto ready", lambda each: _number(each["start_ready"]), "{:.1f} s"),
)


def draw(results: dict[str, Any], folder: Path) -> Path:
    mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 8.5, "text.color": _TEXT})
    figure = Figure(figsize=_INCHES, dpi=_DOTS)
    _draw_card(figure)
    figure.text(0.03, 0.91, "Four ways to run LiteLLM as a service", size=12, weight="bold")
    figure.text(0.03, 0.835, _subtitle(results), color=_FAINT)
    figure.text(0.03, 0.05, _footnote(results["summary"]), size=7.5, color=_FAINT)
    for number, (panel, axes) in enumerate(zip(_PANELS, _place(figure), strict=True)):
        _draw_panel(axes, panel, results["summary"], labelled=number == 0)
    path = folder / "benchmark.png"
    figure.savefig(path, transparent=True)
    return path


def _draw_card(figure: Figure) -> None:
    width, height = _INCHES
    aspect = width / height
    shape = FancyBboxPatch(
        (0.006, 0.006 * aspect), 0.988, 1 - 0.012 * aspect, boxstyle="round,pad=0,rounding_size=0.012",
        mutation_aspect=aspect, transform=figure.transFigure, facecolor=_CARD, edgecolor=_EDGE, linewidth=1,
        zorder=-1,
    )  # fmt: skip
    figure.add_artist(shape)


def _place(figure: Figure) -> list[Axes]:
    left, right, gap = 0.165, 0.985, 0.018
    width = (right - left - gap * (len(_PANELS) - 1)) / len(_PANELS)
    return [figure.add_axes((left + (width + gap) * number, 0.14, width, 0.5)) for number in range(len(_PANELS))]


def _draw_panel(axes: Axes, panel: _Panel, summaries: dict[str, Summary], labelled: bool) -> None:
    values = [panel.value(summaries[peer.name]) for peer in PEERS]
    longest = max((value for value in values if value), default=1.0)
    for row, (peer, value) in enumerate(zip(PEERS, values, strict=True)):
        colour = _OURS if peer is OURS else _BAR
        text = "–" if value is None else panel.form.format(value)
        axes.barh(row, value or 0, height=0.58, color=colour)
        axes.text(
            (value or 0) + longest * 0.05, row, text, va="center", weight="bold" if peer is OURS else "normal",
            color=_OURS if peer is OURS else _TEXT,
        )  # fmt: skip
    axes.set_xlim(0, longest * _ROOM)
    axes.set_ylim(len(PEERS) - 0.5, -0.5)
    axes.set_title(panel.title, loc="left", size=8.5, weight="bold", color=_TEXT, pad=6)
    axes.set_facecolor("none")
    axes.set_xticks([])
    axes.set_yticks(range(len(PEERS)), [_LABELS[peer.name] for peer in PEERS] if labelled else [])
    axes.tick_params(length=0, labelcolor=_TEXT)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "left")
        spine.set_color(_EDGE)
    for peer, label in zip(PEERS, axes.get_yticklabels(), strict=False):
        label.set(weight="bold" if peer is OURS else "normal", color=_OURS if peer is OURS else _TEXT)


def _subtitle(results: dict[str, Any]) -> str:
    machine = results["machine"]
    return (
        f"The same LiteLLM {machine['litellm']} on {machine['processors']} processors, 16 clients, a mocked model. "
        "Shorter is better."
    )


def _footnote(summaries: dict[str, Summary]) -> str:
    event = summaries[OURS.name]["events"][RESTART]
    return (
        f"Restart: systemctl restart, and for litellm-systemd litellmctl restart. With systemctl restart "
        f"{event['failed'] or 'none'} of its requests failed; the longest waited {event['longest_gap']:.1f} s."
    )


def _at_restart(summary: Summary, what: str) -> float | None:
    """The failures of one restart, or the longest wait of all. Our service uses its own command."""
    events = summary["events"]
    event = events.get(CTL_RESTART, events[RESTART])
    return _number(event[what] / event["times"] if what == "failed" else event[what])


def _number(value: float | None) -> float | None:
    return value
