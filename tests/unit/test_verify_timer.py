"""--verify-every: its values, and the default of a later install."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from litellm_systemd.commands.releases import leaves_timer
from litellm_systemd.errors import UsageError
from litellm_systemd.host.layout import Layout
from litellm_systemd.install.render import check_interval, find_interval
from tests.unit.plan_hosts import make_host

LAYOUT = Layout()


@pytest.mark.parametrize(
    ("text", "span"),
    [
        *(("15min", "15min"), ("1h 30min", "1h30min"), ("90s", "90s"), ("1D", "1d"), ("OFF", "off"), ("2hr", "2hr")),
        ("15 minutes", "15minutes"),
    ],
)
def test_times(text: str, span: str) -> None:
    """A time span of systemd.time(7) and `off` are accepted."""
    assert check_interval(text) == span


@pytest.mark.parametrize(
    "text", ["", "15", "0min", "59s", "32d", "soon", "15 minuets", "100.", "infinity", "-1h", "1h\nExecStart=x"]
)
def test_invalid_times(text: str) -> None:
    """A number without a unit, less than a minute, more than a month, and any other text is refused."""
    with pytest.raises(UsageError, match="--verify-every"):
        check_interval(text)


def test_a_later_install_keeps_it() -> None:
    """The interval is that of the installed timer; without one, or with a foreign one, it is off."""
    assert find_interval(LAYOUT, make_host(LAYOUT, {"installed": {"verify_every": "1h30min"}})) == "1h30min"
    assert find_interval(LAYOUT, make_host(LAYOUT, {"installed": {}})) == "off"
    theirs = {"files": {LAYOUT.verify_timer: {"content": "[Timer]\nOnUnitActiveSec=5min\n"}}}
    assert find_interval(LAYOUT, make_host(LAYOUT, theirs)) == "off"


def test_an_edited_interval_is_kept() -> None:
    """An interval that was edited in the installed file is kept."""
    edited = {
        "installed": {"verify_every": "15min"},
        "files": {LAYOUT.verify_timer: {"content": "[Timer]\nOnUnitActiveSec=5min\n"}},
    }
    assert find_interval(LAYOUT, make_host(LAYOUT, edited)) == "5min"


def test_a_release_from_before_the_timer(tmp_path: Path) -> None:
    """A rollback to a release that does not support the timer warns if the timer is installed."""
    layout = Layout(root=tmp_path)
    units = Path("lib/python3.12/site-packages/litellm_systemd/units")
    for name in ("old", "new"):
        (layout.real(layout.release(name)) / units).mkdir(parents=True)
    # As in this package: the unit that current releases ship.
    (template,) = (path for path in files("litellm_systemd.units").iterdir() if path.name.endswith(".timer.j2"))
    (layout.real(layout.release("new")) / units / template.name).touch()
    assert not leaves_timer(layout, "old")
    layout.real(layout.units).mkdir(parents=True)
    layout.real(layout.verify_timer).touch()
    assert leaves_timer(layout, "old")
    assert not leaves_timer(layout, "new")
