"""The plan for a host and its settings has exactly the actions of the case (from data files)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from litellm_systemd.host.state import PostgresState
from litellm_systemd.install.plan import plan_install, plan_rollback, plan_uninstall
from tests.unit.plan_hosts import make_desired, make_host, make_layout, simulate

CASES = Path(__file__).parent / "plan_cases"


def cases(name: str) -> pytest.MarkDecorator:
    loaded = yaml.safe_load((CASES / name).read_text(encoding="utf-8"))
    return pytest.mark.parametrize("case", [pytest.param(case, id=case["promise"]) for case in loaded])


@cases("install.yml")
def test_install(case: dict[str, Any]) -> None:
    """An install plans exactly the actions of the case, and lists the edited files that it keeps."""
    layout = make_layout(case)
    host = make_host(layout, case["host"])
    plan = plan_install(layout, make_desired(layout, case["asked"], host), host)
    assert [str(action) for action in plan.actions] == case["actions"]
    assert [kept.path for kept in plan.kept] == case.get("kept", [])
    assert [kept.path for kept in plan.kept if kept.is_news] == case.get("news", [])


@cases("install.yml")
def test_install_twice(case: dict[str, Any]) -> None:
    """After an install, the same request plans no file, no folder, no user and no release again."""
    layout = make_layout(case)
    host = make_host(layout, case["host"])
    after = simulate(plan_install(layout, make_desired(layout, case["asked"], host), host), host)
    again = plan_install(layout, make_desired(layout, case["asked"], after), after)
    left = [str(action) for action in again.actions if action.verb.value not in ("daemon-reload", "restart", "start")]
    assert left == []


@cases("uninstall.yml")
def test_uninstall(case: dict[str, Any]) -> None:
    """An uninstall plans exactly the actions of the case."""
    layout = make_layout(case)
    plan = plan_uninstall(layout, make_host(layout, case["host"]), purge=case["purge"])
    assert [str(action) for action in plan.actions] == case["actions"]


@cases("rollback.yml")
def test_rollback(case: dict[str, Any]) -> None:
    """A failed install is rolled back with exactly the actions of the case."""
    layout = make_layout(case)
    host = make_host(layout, case["host"])
    plan = plan_install(layout, make_desired(layout, case["asked"], host), host)
    back = plan_rollback(layout, plan.actions[: case.get("taken")], host)
    assert [str(action) for action in back.actions] == case["actions"]


def test_migration() -> None:
    """The database is migrated after the release is built and before anything is switched. Its undo comes first."""
    layout = make_layout({})
    host = make_host(layout, {"installed": {}, "releases": []})
    desired = replace(make_desired(layout, {"release": "r2"}, host), migrates="2 migrations, 1 of them breaking")
    plan = plan_install(layout, desired, host)
    migrate = "migrate the database for /opt/litellm-systemd/releases/r2 (2 migrations, 1 of them breaking)"
    assert [str(action) for action in plan.actions] == [
        "build release /opt/litellm-systemd/releases/r2",
        migrate,
        "write /opt/litellm-systemd/current (changed)",
        "restart litellm.service (/opt/litellm-systemd/current)",
    ]
    assert [str(action) for action in plan_rollback(layout, plan.actions, host).actions] == [
        "undo the migration of the database for /opt/litellm-systemd/releases/r2",
        "restore /opt/litellm-systemd/current",
        "restart litellm.service (/opt/litellm-systemd/current)",
    ]


def test_database_of_a_backup() -> None:
    """A dump is loaded after the database is created and before migrations. The undo empties what it drops later."""
    layout = make_layout({})
    host = replace(
        make_host(layout, {"releases": ["r1"]}),
        postgres=PostgresState("postgresql:own", has_cluster=True, is_online=True),
    )
    desired = replace(make_desired(layout, {}, host), migrates="those that are pending", dump="/x/database.dump")
    actions = plan_install(layout, desired, host).actions
    steps = ("create database", "load into the database", "migrate the database", "write")
    found = [next(i for i, action in enumerate(actions) if str(action).startswith(step)) for step in steps[:-1]]
    found.append(next(i for i, action in enumerate(actions) if action.target == layout.environment_file))
    assert found == sorted(found)
    undo = [str(action) for action in plan_rollback(layout, actions, host).actions]
    emptied = undo.index("empty the database, undoing the load of /x/database.dump")
    assert emptied < undo.index("drop if empty postgresql:own")
