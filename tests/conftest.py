"""The order of the tests, what workers of pytest-xdist run together (`--dist loadgroup`), settings of hypothesis."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# A slow machine is no failure. CI uses the same examples each time; other runs search for new ones.
settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("REQUIRE_SYSTEM_TESTS") == "1",
)
settings.load_profile("patient")

# pytest-xdist sets it, and it is the width of all tables.
os.environ.pop("COLUMNS", None)

#: Tests of half a minute and more, the longest first: the last ones to run must be short, or a worker goes through
#: them alone. Some of the first need no installed image, and run while another worker makes it.
_LONGEST = (
    "test_doctor.py",
    "test_fleet.py",
    "test_releases.py::test_upgrades_and_rollbacks_under_load",
    "test_quickstart.py",
    "test_ec2.py",
    "test_clients.py",
    "test_upgrade_from_earlier.py",
    "test_backup.py",
    "test_scripts.py::test_quickstart_from_a_bundle",
    "test_transaction.py::test_killed_install_converges_under_load",
    "test_encrypted_secrets.py",
    "test_rehearse.py",
    "test_migrations.py",
    "test_transaction.py::test_killed_switch_converges_under_load",
    "test_database.py",
    "test_bedrock.py",
    "test_metrics_socket.py",
    "test_scripts.py::test_quickstart",
    "test_reload.py::test_failed_reload",
    "test_killed_processes.py",
    "test_zero_downtime.py",
    "test_doctor_aws.py",
    "test_attacks.py",
    "test_install_edge_cases.py::test_uninstall_and_purge",
    "test_doctor_logs.py",
    "test_rehearse_foreground.py",
    "test_install_root.py",
    "test_runtime_preload.py",
    "test_runtime_lifecycle.py",
    "test_reload.py",
    "test_hung_workers.py",
    "test_drain.py",
    "test_redis_outages.py",
    "test_verify.py",
    "test_transaction.py",
    "test_install.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the items, and keep those in one worker that share a fixture of their module, such as a box or a gateway.

    Each worker would otherwise make that fixture for itself.
    """
    items.sort(key=_rank)
    for item in items:
        if _shares(item):
            item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name}/{item.path.name}"))


def _rank(item: pytest.Item) -> int:
    if item.path.parent.name == "unit":
        return 0
    return next((rank for rank, name in enumerate(_LONGEST) if name in item.nodeid), len(_LONGEST))


def _shares(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function):
        return False
    definitions = item._fixtureinfo.name2fixturedefs
    return any(found[-1].scope == "module" for name, found in definitions.items() if name in item.fixturenames)
