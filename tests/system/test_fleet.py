"""Instances behind HAProxy with Redis and PostgreSQL: what clients notice while parts of it change or fail.

There are 32 clients, and half of them stream. Each answer is checked to its last word. The tests share one fleet, and
each leaves three instances that serve.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from box import Image, Namespaces, wait_until
from fleet import Fleet, started
from fleet_load import Load, loaded
from other_release import current, earlier_litellm, switch
from service import ctl, state

from litellm_systemd.releases.requirements_lock import pinned_version
from litellm_systemd.releases.source import find_source

#: The requests a minute of a key with a limit.
LIMIT = 5


@pytest.fixture(scope="module")
def fleet(namespaces: Namespaces, database_image: Image, measured: dict[str, Any]) -> Iterator[Fleet]:
    """Three instances with an earlier LiteLLM."""
    with started(namespaces, database_image, measured, 3, earlier=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def bearer(fleet: Fleet) -> str:
    """The virtual key of the clients."""
    return fleet.generate_key()


def assert_none_failed(load: Load) -> None:
    """Check that the answer to each request was complete and correct."""
    assert load.failed == []
    assert len(load.outcomes) > 64


def test_rolling_upgrade(fleet: Fleet, bearer: str) -> None:
    """An upgrade of LiteLLM on one instance after the other fails no request. The first one migrates the database.
    The others serve with their earlier LiteLLM until it is their turn, also with new keys of the first one.
    """
    release, later = fleet.later(), pinned_version(find_source().lock, "litellm")
    migrations = [fleet.servers.databases.count_migrations()]
    with loaded(fleet, bearer) as load:
        for name, box in fleet.boxes.items():
            assert fleet.chat(bearer, name).headers["x-litellm-version"] == earlier_litellm()
            code, said = switch(box, release)
            assert (code, current(box)) == (0, release), said
            assert fleet.chat(bearer, name).headers["x-litellm-version"] == later
            key = fleet.generate_key()
            assert [fleet.chat(key, each).status for each in fleet.boxes] == [200] * 3
            migrations.append(fleet.servers.databases.count_migrations())
            load.wait_for_each(*fleet.boxes)
    assert_none_failed(load)
    assert migrations[0] < migrations[1] == migrations[2] == migrations[3]


def test_planned_stops(fleet: Fleet, bearer: str) -> None:
    """`systemctl stop`, `systemctl restart` and `litellmctl drain` of one instance fail no request."""
    stopped, restarted, drained = fleet.boxes.values()
    with loaded(fleet, bearer) as load:
        stopped.systemctl("stop", "litellm")
        assert state(stopped)["ActiveState"] == "inactive"
        stopped.systemctl("start", "litellm")
        load.wait_for_each(*fleet.boxes)
        restarted.systemctl("restart", "litellm")
        load.wait_for_each(*fleet.boxes)
        ctl(drained, "drain")
        assert state(drained)["ActiveState"] == "inactive"
        drained.systemctl("start", "litellm")
        load.wait_for_each(*fleet.boxes)
    assert_none_failed(load)


def test_lost_instance_and_its_replacement(fleet: Fleet, bearer: str) -> None:
    """If an instance is killed, its requests in flight fail and none after. The one that replaces it gets its first
    request when it is ready.
    """
    lost = list(fleet.boxes)[-1]
    with loaded(fleet, bearer) as load:
        begin = time.monotonic()
        fleet.kill(lost)
        end = time.monotonic()
        [new] = fleet.add()
        load.wait_for_each(*fleet.boxes)
    assert [each for each in load.failed if each.began > end or each.ended < begin] == []
    ready = fleet.boxes[new].show("litellm.service", "ActiveEnterTimestampMonotonic").popitem()[1]
    assert min(each.began for each in load.served_by(new)) > int(ready) / 1e6


def test_restarts_of_the_load_balancer(fleet: Fleet, bearer: str) -> None:
    """A reload of HAProxy fails no request. A restart fails those in flight, and none after."""
    with loaded(fleet, bearer) as load:
        fleet.servers.reload_haproxy()
        load.wait_for_each(*fleet.boxes)
        assert load.failed == []
        fleet.servers.stop_haproxy()
        fleet.servers.start_haproxy()
        fleet.servers.wait_for(*fleet.boxes)
        back = time.monotonic()
        load.wait_for_each(*fleet.boxes)
    assert [each for each in load.failed if each.began > back] == []


def count_admitted(fleet: Fleet) -> int:
    """The number of requests that a new key with `LIMIT` may send at once to all instances together."""
    key = fleet.generate_key(rpm_limit=LIMIT)
    targets = list(fleet.boxes) * (LIMIT + 1)
    with ThreadPoolExecutor(len(fleet.boxes)) as pool:
        statuses = list(pool.map(lambda name: fleet.chat(key, name).status, targets))
    assert set(statuses) <= {200, 429}
    return statuses.count(200)


def test_outage_of_redis(fleet: Fleet, bearer: str) -> None:
    """All instances together keep the limit of a key. While Redis is down no request fails, and each instance counts
    alone. Afterwards they count together again.
    """
    assert count_admitted(fleet) == LIMIT
    with loaded(fleet, bearer) as load:
        with fleet.servers.redis.killed():
            assert count_admitted(fleet) == LIMIT * len(fleet.boxes)
            load.wait_for_each(*fleet.boxes)
        wait_until(lambda: count_admitted(fleet) == LIMIT, 30, "the limit is shared again")
    assert_none_failed(load)


def test_restart_and_failover_of_postgres(fleet: Fleet, bearer: str) -> None:
    """A restart of PostgreSQL and a failover to its standby, which gets its address, fail no request with a key that
    the workers know. Soon after that all instances use the database again, which has all keys.
    """
    earlier = fleet.generate_key()
    with loaded(fleet, bearer) as load:
        fleet.servers.databases.restart()
        load.wait_for_each(*fleet.boxes)
        fleet.servers.databases.add_standby()
        fleet.servers.databases.fail_over()
        load.wait_for_each(*fleet.boxes)
    assert_none_failed(load)
    wait_until(lambda: {fleet.chat(earlier, name).status for name in fleet.boxes} == {200}, 120, "the key is found")
    assert_shared_keys(fleet)


def assert_shared_keys(fleet: Fleet) -> None:
    """Check that a key works on all instances as soon as it is made, and on none after it was revoked on one."""
    maker = next(iter(fleet.boxes))
    key = fleet.generate_key()
    assert [fleet.chat(key, name).status for name in reversed(fleet.boxes)] == [200] * 3
    ctl(fleet.boxes[maker], "key", "revoke", hashlib.sha256(key.encode()).hexdigest(), "--yes")
    wait_until(lambda: {fleet.chat(key, name).status for name in fleet.boxes} == {401}, 30, "the key is refused")
