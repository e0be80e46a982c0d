"""Outages of the database in a worker: how one is noticed, what goes on, and how it ends.

LiteLLM does not start while its database is down, and starts an engine every few seconds during an outage, each with
several lines in the log. Here a worker starts anyway, and asks PostgreSQL itself why it cannot be used. It connects
again a few seconds after the end of the outage.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import logging
import os
import re
from typing import Any

from litellm_systemd.env.database import parse_url
from litellm_systemd.runtime.worker.litellm_database import renew_own_token, renew_token
from litellm_systemd.runtime.worker.outage import Outage, first_line

_LOGGER = logging.getLogger(__name__)
_UTILS = "litellm.proxy.utils"
_URL = "DATABASE_URL"
#: Seconds between two checks, and for one.
_INTERVAL, _CHECK_TIMEOUT = 5.0, 3
#: Checks during an outage after which LiteLLM connects although the check fails, which uses another library.
_PATIENCE = 120
_REASON = "database_is_back"
#: What LiteLLM logs because of an outage.
_ABOUT_IT = re.compile(
    r"prisma|database|\bdb[ _.]|spend|connection attempts failed|query engine|go back for retry|baseline unavailable",
    re.IGNORECASE,
)
#: What it logs because of nothing else, also before the outage is noticed.
_UNREACHABLE = re.compile(
    r"can't reach database server|could not connect to the query engine|terminating connection due to", re.IGNORECASE
)


class _Outage(Outage):
    """`is_ending`: LiteLLM connects again."""

    is_ending = False


_OUTAGE = _Outage()


def cause() -> str:
    """Why the database cannot be used, empty if it can or if there is none."""
    return _OUTAGE.cause


def explains(text: str) -> bool:
    """Whether a line of LiteLLM is a consequence of the outage, which the main process reports once."""
    if _OUTAGE.cause:
        return _ABOUT_IT.search(text) is not None
    return _UNREACHABLE.search(text) is not None and _OUTAGE.suspect()


def apply() -> None:
    """Apply to LiteLLM's client of the database."""
    with contextlib.suppress(ImportError, AttributeError):
        client: Any = importlib.import_module(_UTILS).PrismaClient
        _wrap(client)


def _wrap(client: Any) -> None:
    connect, reconnect = client.connect, client.attempt_db_reconnect
    start, stop = client.start_db_health_watchdog_task, client.stop_db_health_watchdog_task
    tasks: dict[int, asyncio.Task[None]] = {}

    @functools.wraps(connect)
    async def connect_or_wait(self: Any) -> None:
        _OUTAGE.cause = await asyncio.to_thread(find_cause)
        if not _OUTAGE.cause:
            try:
                await connect(self)
            except Exception:
                _OUTAGE.cause = await asyncio.to_thread(find_cause)
                if not _OUTAGE.cause:
                    raise

    @functools.wraps(reconnect)
    async def reconnect_after_outage(self: Any, *args: Any, **options: Any) -> bool:
        if _OUTAGE.cause and not _OUTAGE.is_ending:
            return False  # each attempt would start an engine, and wait for it
        return bool(await reconnect(self, *args, **options))

    @functools.wraps(start)
    async def start_watching(self: Any) -> None:
        await start(self)
        tasks.setdefault(id(self), asyncio.get_running_loop().create_task(_watch(self)))

    @functools.wraps(stop)
    async def stop_watching(self: Any) -> None:
        if task := tasks.pop(id(self), None):
            task.cancel()
        await stop(self)

    client.connect, client.attempt_db_reconnect = connect_or_wait, reconnect_after_outage
    client.start_db_health_watchdog_task, client.stop_db_health_watchdog_task = start_watching, stop_watching


async def _watch(client: Any) -> None:
    checks = 0
    while True:
        # During an outage each request raises a suspicion.
        is_suspected = await _OUTAGE.wait(_INTERVAL) if not _OUTAGE.cause else await asyncio.sleep(_INTERVAL, False)
        if await _answers(client):
            if is_suspected:
                _LOGGER.warning("the database did not answer for a moment")
            _OUTAGE.cause = ""
            continue
        if not _OUTAGE.cause:
            checks = 0
            _OUTAGE.cause = await asyncio.to_thread(find_cause)
            continue
        checks += 1
        found = await asyncio.to_thread(find_cause)
        if not found or checks % _PATIENCE == 0:
            _OUTAGE.is_ending = True
            with contextlib.suppress(Exception):
                url = os.environ.get(_URL)
                await asyncio.to_thread(renew_own_token, os.environ)
                # A new token needs a new engine.
                is_new = os.environ.get(_URL) != url
                if await client.attempt_db_reconnect(reason=_REASON, force=True, force_recreate=is_new):
                    found = ""
            _OUTAGE.is_ending = False
        # If LiteLLM could not connect to a database that answers, its own watchdog goes on, and its lines count.
        _OUTAGE.cause = found


async def _answers(client: Any) -> bool:
    """Whether LiteLLM's engine reaches the database."""
    with contextlib.suppress(Exception):
        await asyncio.wait_for(client.db.query_raw("SELECT 1"), _CHECK_TIMEOUT)
        return True
    return False


def find_cause() -> str:
    """Why PostgreSQL refuses a connection, in its own words; empty if it accepts one. Blocks for a few seconds."""
    try:
        psycopg: Any = importlib.import_module("psycopg")
        # During an outage the token of LiteLLM expires.
        parameters = parse_url(renew_token(os.environ[_URL], os.environ)).libpq()
    except Exception as error:  # LiteLLM may be able to connect
        _LOGGER.debug("cannot check the database: %s", error)
        return ""
    try:
        psycopg.connect(**parameters, connect_timeout=_CHECK_TIMEOUT).close()
    except psycopg.OperationalError as error:
        return first_line(str(error)) or type(error).__name__
    return ""
