"""How the benchmark of streams summarizes its measurements. The measurements themselves are never asserted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench.stream_figures import CONVERSE, MESSAGES, Cell, Cells, judge, overhead, per_core, per_event, render

CELL = Cell(
    events=1000,
    processor=0.5,
    first=(0.11, 0.31),
    direct=(0.01,),
    elapsed=2.0,
    upstream=0.4,
    clients=0.2,
    failures={},
)


def build_cells(ours: Cell, plain: Cell = CELL, level: int = 64) -> Cells:
    cells = {(f"ours{number}", MESSAGES.name, level): [ours] for number in (1, 2)}
    return {**cells, **{(f"plain{number}", CONVERSE.name, level): [plain] for number in (1, 2)}}


def test_processor_time_of_an_event() -> None:
    """The processor time of a cell is divided by its events; the median of the rounds counts."""
    cells = [CELL, replace(CELL, processor=0.1), replace(CELL, processor=0.7)]
    assert per_event(cells) == pytest.approx(0.5)
    assert per_core(cells) == pytest.approx(2000)


def test_cell_without_a_complete_stream_has_no_figures() -> None:
    """If all streams fail, the table shows dashes and the failures in place of figures."""
    dead = replace(CELL, events=0, first=(), failures={"reset": 64})
    assert (per_event([dead]), per_core([dead]), overhead([dead], 0.99)) == (None, None, None)
    assert "64 of 64" in render(build_cells(dead), {"ours2": "ours", "plain2": "plain"})


def test_first_word_without_the_direct_call() -> None:
    """The gateway's part is what the direct calls of the same round don't explain."""
    slow = replace(CELL, first=(1.02,), direct=(0.01, 0.02, 9.0))
    assert overhead([CELL, slow], 0.5) == pytest.approx(300)
    assert overhead([CELL, slow], 0.99) == pytest.approx(1000)


@pytest.mark.parametrize(("processor", "verdict"), [(0.15, "reached"), (0.16, "missed by 0.02 x (6.7%)")])
def test_target_of_an_event(processor: float, verdict: str) -> None:
    """Our /v1/messages is compared with the converse route of plain LiteLLM."""
    assert judge(build_cells(replace(CELL, processor=processor)))[0].verdict == verdict


def test_targets_use_the_level_next_to_64() -> None:
    """A quick run without 64 streams is judged at the level that it has."""
    assert "16 streams" in judge(build_cells(CELL, level=16))[0].name


def test_shares_of_upstream_and_clients() -> None:
    """The table shows how many processors the upstream and the clients used."""
    assert "| 64      | 0.20                 | 0.10                |" in render(build_cells(CELL), {"ours2": "ours"})
