"""key, user and team: list, create, change and delete them in LiteLLM's database.

One description of each resource (`Resource`) serves all verbs. The names of options, columns and data are LiteLLM's.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from litellm_systemd.client.gateway import Gateway, own_gateway
from litellm_systemd.client.management import Management
from litellm_systemd.command import uninterruptible
from litellm_systemd.commands.service import installed_settings
from litellm_systemd.commands.status import require_running
from litellm_systemd.env.variables import MASTER_KEY
from litellm_systemd.errors import InstallerError, Interrupted, MissingError, NotInstalled, UsageError
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.stored_secrets import find_key
from litellm_systemd.report.report import Check, Outcome, Report, Table, render_count
from litellm_systemd.report.spend_page import render_dollars

#: Seconds for one response.
_TIMEOUT = 30.0
#: The id of a key: LiteLLM stores the SHA-256 of a key, and not the key.
_TOKEN = re.compile("[0-9a-f]{64}")
#: How much of that id is shown, and accepted: enough to tell keys apart.
_SHORT = 12
_SHORTENED = re.compile(f"[0-9a-f]{{{_SHORT},63}}")

#: What every resource has.
_LIMITS = ("models", "max_budget", "budget_duration", "tpm_limit", "rpm_limit")
#: What a rotated key keeps, besides its expiry and its organization: every column of LiteLLM's table of keys that
#: LiteLLM takes for a new key.
CARRIED = (
    *_LIMITS,
    *("access_group_ids", "agent_id", "aliases", "allowed_cache_controls", "allowed_routes", "auto_rotate"),
    *("blocked", "budget_fallbacks", "budget_id", "budget_limits", "config", "key_alias", "key_type"),
    *("max_parallel_requests", "metadata", "model_max_budget", "object_permission", "permissions", "project_id"),
    *("rotation_interval", "router_settings", "spend", "team_id", "tpd_limit", "user_id"),
)


@dataclass(frozen=True, slots=True)
class Resource:
    """What LiteLLM keeps in its database, and the routes for it.

    Attributes:
        noun: its name for people.
        id: the field with the id; `name`: the one with the name that a person gives.
        listing: route, field of the rows, and parameter for the size of a page.
        create, update, delete: the routes.
        update_id: the field of a change that says which one; `delete_ids`: the field of a delete.
        own: its fields besides the limits, which a list shows.
        keys: the field with the number of its keys, which are deleted with it; empty if it has none.
    """

    noun: str
    id: str
    name: str
    listing: tuple[str, str, str]
    create: str
    update: str
    delete: str
    update_id: str
    delete_ids: str
    own: tuple[str, ...]
    keys: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a row that are published."""
        return (self.id, self.name, *self.own, *_LIMITS, "spend", "budget_reset_at", "created_at")


RESOURCES = {
    each.noun: each
    for each in (
        Resource(
            "key",
            id="token",
            name="key_alias",
            listing=("/key/list", "keys", "size"),
            create="/key/generate",
            update="/key/update",
            delete="/key/delete",
            update_id="key",
            delete_ids="keys",
            own=("key_name", "team_id", "team_alias", "user_id", "expires", "blocked", "last_active"),
        ),
        Resource(
            "user",
            id="user_id",
            name="user_email",
            listing=("/user/list", "users", "page_size"),
            create="/user/new",
            update="/user/update",
            delete="/user/delete",
            update_id="user_id",
            delete_ids="user_ids",
            own=("user_alias", "user_role", "teams", "key_count"),
            keys="key_count",
        ),
        Resource(
            "team",
            id="team_id",
            name="team_alias",
            listing=("/v2/team/list", "teams", "page_size"),
            create="/team/new",
            update="/team/update",
            delete="/team/delete",
            update_id="team_id",
            delete_ids="team_ids",
            own=("members_count", "keys_count", "blocked"),
            keys="keys_count",
        ),
    )
}
KEY = RESOURCES["key"]


def connect(layout: Layout, base_url: str | None, environ: Mapping[str, str]) -> Management:
    """The management API of the installed service, or of `base_url` with the key in $LITELLM_MASTER_KEY.

    Raises:
        InstallerError: nothing is installed, the service does not run, or this user cannot read its key.
    """
    if base_url is None:
        require_running(layout)
        try:
            settings = installed_settings(layout)
        except NotInstalled:
            raise NotInstalled(
                "To install the service: sudo litellmctl install. For another gateway, use --base-url."
            ) from None
        return Management(own_gateway(settings, find_key(settings), timeout=_TIMEOUT))
    key = environ.get(MASTER_KEY.name, "")
    if not key:
        raise UsageError(
            "there is no key for that gateway",
            f"Set it in the environment: {MASTER_KEY.name}. For the installed service, leave --base-url out.",
        )
    return Management(Gateway(base_url, key, _TIMEOUT))


def list_rows(api: Management, resource: Resource, filters: Mapping[str, str | None]) -> Report:
    """List all, or those of a team or a user (`filters`: team_id, user_id; names are accepted)."""
    path, name, size = resource.listing
    query = _owners(api, filters)
    if resource is KEY:
        query |= {"return_full_object": "true"}
    found, is_cut = api.rows(path, name, size, **query)
    if any(row.get("team_id") for row in found) and resource is KEY:
        team = RESOURCES["team"]
        teams = {row[team.id]: row[team.name] for row in api.rows(*team.listing)[0]}
        found = [{**row, "team_alias": teams.get(row.get("team_id"))} for row in found]
    rows = tuple(_published(resource, row) for row in found)
    notes = (f"There are more: these are the first {len(rows):,}.",) if is_cut else ()
    return Report(
        render_count(len(rows), resource.noun),
        table=_build_table(resource, rows) if rows else None,
        notes=notes,
        data={f"{resource.noun}s": list(rows)},
    )


def create(api: Management, resource: Resource, wanted: Mapping[str, Any]) -> Report:
    """Create one with these fields. The key of a new key is in the report, and nowhere else.

    Raises:
        InstallerError: LiteLLM refuses it, or the team or the user does not exist.
        UsageError: a user with that id or a team with that name exists.
    """
    if resource.noun == "user":
        # Otherwise LiteLLM creates a key without limits, too.
        body = {**wanted, "auto_create_key": False}
        identifier = wanted["user_id"]
        if any(row["user_id"] == identifier for row in _search(api, resource, identifier)):
            raise _exists(resource, identifier)
    else:
        body = {**wanted, **_owners(api, wanted)}
        # LiteLLM takes the name of a team twice, and neither team could be named by it any more.
        if resource.noun == "team" and _has_name(api, resource, wanted[resource.name]):
            raise _exists(resource, wanted[resource.name])
    try:
        row = api.post(resource.create, body)
    except Interrupted as error:
        error.hint = f"The {resource.noun} may have been created: litellmctl {resource.noun} list"
        raise
    return _report_new(api, resource, row, f"created {resource.noun} {_label(resource, row)}")


def _has_name(api: Management, resource: Resource, name: str) -> bool:
    return any(row.get(resource.name) == name for row in _search(api, resource, name))


def _exists(resource: Resource, name: str) -> UsageError:
    change = shlex.join(("litellmctl", resource.noun, "update", name))
    return UsageError(f"{resource.noun} {name} exists already", f"To change it: sudo {change}.")


def _report_new(api: Management, resource: Resource, row: Mapping[str, Any], title: str) -> Report:
    shown = _published(resource, row)
    facts, notes = tuple(_facts(resource, shown)), _unserved_models(api, row.get("models") or ())
    data: dict[str, Any] = {resource.noun: shown}
    if resource is KEY:
        facts = (("key", row["key"]), *facts)
        data["key"] = {**shown, "key": row["key"]}
        notes = (*notes, "This is the only time that the key is shown: LiteLLM keeps its hash.")
    return Report(title, facts=facts, notes=notes, data=data)


def update(api: Management, resource: Resource, which: str, changes: Mapping[str, Any]) -> Report:
    """Change fields of one; a value that is None removes a limit.

    Raises:
        InstallerError: there is none with that id or name, or LiteLLM refuses the change.
    """
    if not changes:
        raise UsageError("no change is named", "Name one, such as --max-budget 20.")
    row = find(api, resource, which)
    api.post(resource.update, {**changes, **_owners(api, changes), resource.update_id: row[resource.id]})
    row = find(api, resource, row[resource.id])
    return Report(
        f"changed {resource.noun} {_label(resource, row)}",
        facts=tuple(_facts(resource, _published(resource, row))),
        notes=(*_unserved_models(api, changes.get("models") or ()), _CACHE_NOTE),
        data={resource.noun: _published(resource, row)},
    )


_CACHE_NOTE = (
    "Without Redis, a worker remembers a key for up to 60 s (user_api_key_cache_ttl) and acts on this after that. To"
    " make all act on it now: sudo litellmctl reload"
)


def delete(api: Management, resource: Resource, which: str, confirm: Callable[[str], bool]) -> Report:
    """Delete one, and its keys with it, if `confirm` agrees. What was spent stays in the reports.

    Raises:
        InstallerError: there is none with that id or name, or LiteLLM refuses.
    """
    row = find(api, resource, which)
    label = f"{resource.noun} {_label(resource, row)}"
    number = int(row.get(resource.keys) or 0) if resource.keys else 0
    also = f" and its {render_count(number, 'key')}" if number else ""
    verb = "revoke" if resource is KEY else "delete"
    if not confirm(f"{verb.capitalize()} {label}{also}?"):
        return Report("nothing was changed", data={"deleted": None})
    if resource is KEY:
        _revoke(api, row)
    else:
        api.post(resource.delete, {resource.delete_ids: [row[resource.id]]})
    notes = (_CACHE_NOTE,) if resource is KEY or number else ()
    return Report(f"{verb}d {label}{also}", notes=notes, data={"deleted": row[resource.id], "keys": number})


def rotate(api: Management, which: str, overlap: int, now: datetime) -> Report:
    """Create a key with the limits of another one, then revoke that one, or let it expire after `overlap` seconds.

    The new key takes over the alias. If the old one cannot be revoked, both are valid, and the report says so.

    Raises:
        InstallerError: there is no such key, or it has expired, or LiteLLM refuses the new one. Nothing was changed.
    """
    old = _find_rotated(api, which)
    token, alias = old["token"], old.get("key_alias")
    parked = f"{alias}{_PARKED}{token[:_SHORT]})"
    body = build_successor(old, now)
    # Interrupted in between, the caller would not see the new key, or the old one would keep the other alias.
    with uninterruptible():
        if alias:
            api.post(KEY.update, {"key": token, "key_alias": parked})
        try:
            new = api.post(KEY.create, body)
        except InstallerError:
            if alias:
                api.post(KEY.update, {"key": token, "key_alias": alias})
            raise
        try:
            _retire(api, old, overlap, now)
            failed: tuple[Check, ...] = ()
        except InstallerError as error:
            hint = f"To revoke it: sudo litellmctl key revoke {token}"
            failed = (Check("old key", Outcome.FAILED, f"it is still valid: {error.message}", hint),)
    until = (now + timedelta(seconds=overlap)).astimezone().strftime("%Y-%m-%d %H:%M")
    end = f"the old key is valid until {until}" if overlap else "the old key is revoked"
    title = "both keys are valid" if failed else end
    report = _report_new(api, KEY, new, f"rotated key {alias or token[:_SHORT]}; {title}")
    left = tuple(
        f"An earlier rotation was interrupted: sudo litellmctl key revoke {row['token']}"
        for row in (_search(api, KEY, f"{alias}{_PARKED}") if alias else ())
        if row["token"] != token and not row.get("expires")
    )
    return replace(
        report,
        checks=failed,
        notes=(*report.notes, *left, *(() if failed or overlap else (_CACHE_NOTE,))),
        data={**report.data, "old": {"token": token, "overlap": overlap, "revoked": not failed and not overlap}},
    )


def _find_rotated(api: Management, which: str) -> dict[str, Any]:
    """The key to rotate, with its alias; also if a killed rotation has changed that, and has created no key."""
    try:
        return find(api, KEY, which)
    except MissingError:
        rows = _search(api, KEY, f"{which}{_PARKED}")
        left = [each for each in rows if each["key_alias"] == f"{which}{_PARKED}{each['token'][:_SHORT]})"]
        if len(left) != 1:
            raise
        return {**left[0], "key_alias": which}


#: Between the alias of a key and a part of its id, while its successor has the alias alone.
_PARKED = " (rotated "


def build_successor(old: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The request for a key with what `old`, a row of /key/list, may do and has spent.

    Raises:
        UsageError: it has expired.
    """
    body = {name: old[name] for name in CARRIED if old.get(name) not in (None, {}, [])}
    if old.get("org_id"):
        body["organization_id"] = old["org_id"]
    if permission := body.get("object_permission"):
        body["object_permission"] = {
            name: value for name, value in permission.items() if name != "object_permission_id" and value is not None
        }
    if old.get("expires"):
        left = int((parse_time(old["expires"]) - now).total_seconds())
        if left <= 0:
            raise UsageError("the key has expired", "To create a new one: litellmctl key create")
        body["duration"] = f"{left}s"
    return body


def _retire(api: Management, old: Mapping[str, Any], overlap: int, now: datetime) -> None:
    if not overlap:
        _revoke(api, old)
    elif not old.get("expires") or parse_time(old["expires"]) > now + timedelta(seconds=overlap):
        api.post(KEY.update, {KEY.update_id: old["token"], "duration": f"{overlap}s"})


def _revoke(api: Management, key: Mapping[str, Any]) -> None:
    """Block a key, then delete it. If that fails, the key is valid as before, or blocked if it was.

    With Redis, LiteLLM makes all workers forget a key that it blocks. A key that it deletes is forgotten only by the
    worker that deletes it (`delete_verification_tokens` in key_management_endpoints.py of 1.108.7).
    """
    token = key[KEY.id]
    api.post("/key/block", {"key": token})
    try:
        api.post(KEY.delete, {KEY.delete_ids: [token]})
    except InstallerError:
        if not key.get("blocked"):
            api.post("/key/unblock", {"key": token})
        raise


def find(api: Management, resource: Resource, which: str) -> dict[str, Any]:
    """The row with that id or name. A key is found by the start of its id, as lists show it, and by itself, too.

    Raises:
        MissingError: there is none.
        UsageError: several have that name.
    """
    if resource is KEY and which.startswith("sk-"):
        which = hashlib.sha256(which.encode()).hexdigest()
    found = [row for row in _search(api, resource, which) if which in (row[resource.id], row.get(resource.name))]
    exact = [row for row in found if row[resource.id] == which] or found
    if not exact and resource is KEY and _SHORTENED.fullmatch(which):
        every = api.rows(*resource.listing, return_full_object="true")[0]
        exact = [row for row in every if row[resource.id].startswith(which)]
    if not exact:
        raise MissingError(
            f"there is no {resource.noun} {which[:_SHORT] if _TOKEN.fullmatch(which) else which}",
            f"To list them: sudo litellmctl {resource.noun} list",
        )
    if len(exact) > 1:
        ids = ", ".join(row[resource.id] for row in exact)
        raise UsageError(f"{len(exact)} {resource.noun}s have the name {which}", f"Name one by its id: {ids}.")
    return exact[0]


def _search(api: Management, resource: Resource, text: str) -> list[dict[str, Any]]:
    """The rows whose id or name contains the text; LiteLLM has no exact search for each of them."""
    path, name, size = resource.listing
    more = {"return_full_object": "true"} if resource is KEY else {}
    return api.rows(path, name, size, search=text, **more)[0] if text else []


def _owners(api: Management, fields: Mapping[str, Any]) -> dict[str, str]:
    """The ids of the team and the user that fields name by id or name. LiteLLM takes ids that do not exist."""
    owners = (RESOURCES["team"], RESOURCES["user"])
    return {each.id: find(api, each, fields[each.id])[each.id] for each in owners if fields.get(each.id)}


def _unserved_models(api: Management, models: Any) -> tuple[str, ...]:
    """A note about models that the gateway does not list; LiteLLM takes any name."""
    if not models:
        return ()
    listed = {row.get("id") for row in api.get("/v1/models").get("data", ())}
    unknown = [name for name in models if name not in listed and "*" not in name and not name.startswith("all-")]
    verb = "is not a model" if len(unknown) == 1 else "are not models"
    return (f"{', '.join(unknown)} {verb} of this gateway. Its models: litellmctl models",) if unknown else ()


def _published(resource: Resource, row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in resource.fields}


def _label(resource: Resource, row: Mapping[str, Any]) -> str:
    name = row.get(resource.name) or str(row[resource.id])
    return name[:_SHORT] if _TOKEN.fullmatch(name) else name


def parse_time(text: str) -> datetime:
    """A moment of LiteLLM's API; UTC if it names no zone."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _facts(resource: Resource, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "id", str(row[resource.id])
    for title, value in _cells(resource, row):
        if value not in ("", "-") and title != "id":
            yield title, value


def _build_table(resource: Resource, rows: tuple[Mapping[str, Any], ...]) -> Table:
    """All columns that have a value in a row."""
    cells = [dict(_cells(resource, row)) for row in rows]
    titles = [title for title in cells[0] if any(row[title] not in ("", "-") for row in cells)]
    return Table(tuple(titles), tuple(tuple(row[title] for title in titles) for row in cells))


def _cells(resource: Resource, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    identifier = str(row[resource.id])
    names = (
        (resource.name.removeprefix(f"{resource.noun}_"), row.get(resource.name) or ""),
        ("id", identifier[:_SHORT] if _TOKEN.fullmatch(identifier) else identifier),
    )
    # The id of a user is the name that a person gave; those of keys and teams are made up.
    yield from reversed(names) if resource.noun == "user" else names
    if resource is KEY:
        yield "team", row.get("team_alias") or row.get("team_id") or ""
    yield "models", ", ".join(row.get("models") or ()) or "all"
    yield "spend", render_dollars(row.get("spend") or 0.0)
    yield "budget", _budget(row)
    yield "tpm", _number(row.get("tpm_limit"))
    yield "rpm", _number(row.get("rpm_limit"))
    if resource is KEY:
        yield "user", row.get("user_id") or ""
        yield "expires", _day(row.get("expires"))
        yield "used", _day(row.get("last_active"))
    elif resource.noun == "user":
        yield "role", row.get("user_role") or ""
    if resource.keys:
        yield "keys", _number(row.get(resource.keys))
    yield "state", "blocked" if row.get("blocked") else ""


def _budget(row: Mapping[str, Any]) -> str:
    if row.get("max_budget") is None:
        return "-"
    each = f" each {row['budget_duration']}" if row.get("budget_duration") else ""
    return render_dollars(row["max_budget"]) + each


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:,}"


def _day(moment: str | None) -> str:
    return "" if not moment else parse_time(moment).astimezone().strftime("%Y-%m-%d %H:%M")
