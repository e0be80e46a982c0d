"""client: the settings of a client program for this gateway, printed or written to the files that it reads."""

from __future__ import annotations

import contextlib
import difflib
import grp
import os
import pwd
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from litellm_systemd.client_setup.merge import merge
from litellm_systemd.client_setup.table import CLIENTS, Client, ClientModel, Gateway, SettingsFile, new_text
from litellm_systemd.commands.config_files import read_gateway
from litellm_systemd.commands.init import Invoker, find_invoker
from litellm_systemd.commands.resolve import Request, Selection, resolve
from litellm_systemd.env.secrets import redact
from litellm_systemd.env.settings import Settings
from litellm_systemd.env.tls import read_certificate
from litellm_systemd.env.variables import MASTER_KEY
from litellm_systemd.errors import CannotCreate, InputError, MissingError, PermissionDenied, UsageError
from litellm_systemd.gateway.config import GatewayConfig
from litellm_systemd.gateway.config_types import REFERENCE
from litellm_systemd.gateway.installed_litellm import map_values
from litellm_systemd.host.effective import at_socket
from litellm_systemd.host.files import observe_file, write_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import key_command
from litellm_systemd.host.state import FileKind, FileState, render_diff
from litellm_systemd.host.stored_secrets import find_key
from litellm_systemd.report.report import Check, Outcome, Report, Table, render_count

#: Modes of LiteLLM's map that an agent can use. A model without a mode is one that the map does not have.
_MODES = frozenset({None, "chat", "responses"})

#: Homes are those of the running host.
_HOST = Layout()


@dataclass(frozen=True, slots=True)
class Target:
    """One file of the invoking user: its name for people, its path without links, its state now and the wanted text.

    `before` is None if there is no file.
    """

    shown: str
    path: Path
    before: FileState | None
    text: str = field(repr=False)
    has_key: bool

    @property
    def is_changed(self) -> bool:
        """Whether the text differs, or other users can read a file that gets the key."""
        if self.before is None or self.before.content != self.text.encode():
            return True
        return self.has_key and bool(self.before.mode & 0o077)


def list_clients() -> Report:
    rows = tuple(
        (each.name, each.title, ", ".join(f"~/{file.paths[-1]}" for file in each.files) or "(printed only)")
        for each in CLIENTS
    )
    return Report(
        "To print the settings of one: sudo litellmctl client NAME",
        table=Table(("NAME", "CLIENT", "FILES"), rows),
        data={
            "clients": [
                {"name": each.name, "title": each.title, "files": [list(file.paths) for file in each.files]}
                for each in CLIENTS
            ]
        },
    )


def client(
    request: Request,
    name: str,
    *,
    environ: Mapping[str, str],
    now: datetime,
    show_key: bool = False,
    write: bool = False,
) -> Report:
    """The settings of one client for this gateway.

    Args:
        request: names the environment and the configuration. The installed service comes before a `.env`.
        name: the name of the client.
        environ: the environment of this process, for SUDO_USER and HOME.
        now: the time for the names of backups.
        show_key: print the key of the gateway in place of a placeholder.
        write: write the settings, with the key, to the files of the invoking user. Existing files are backed up.

    Raises:
        InstallerError: there is no such client or configuration, the key is not known, or a file can't be merged or
            written. Then no file was changed, except if the write of a later file failed.
    """
    found = _find(name)
    if write and not found.files:
        hint = f"To print what to put into your program: sudo litellmctl client {name}"
        raise UsageError(f"{found.title} has no file of settings to write", hint)
    if write and show_key:
        raise UsageError("--write and --show-key exclude each other", "--write prints differences without the key.")
    selection = resolve(_prefer_installed(request), read_only=True)
    if selection.is_installed:
        selection = replace(selection, settings=at_socket(request.layout, selection.settings))
    config = read_gateway(request.layout, selection.config, selection.settings.region)
    models = build_models(config)
    if not models:
        raise InputError(f"{config.source} serves no model that {found.title} can use", "Add a model to it.")
    base_url, certificate_notes = _find_url(selection.settings)
    gateway = Gateway(base_url, models)
    if write or show_key:
        gateway = Gateway(base_url, models, _key(selection, config))
    report = _write(found, gateway, find_invoker(environ), now) if write else _print(request.layout, found, gateway)
    return replace(report, notes=(*report.notes, *_url_notes(selection), *certificate_notes))


def _prefer_installed(request: Request) -> Request:
    """The request for the installed service, if there is one and -e names no other environment.

    Users of agents run this in folders of projects, whose `.env` has nothing to do with the gateway.
    """
    layout = request.layout
    return replace(request, installed_only=request.env_file is None and layout.real(layout.service).exists())


def _find(name: str) -> Client:
    names = [each.name for each in CLIENTS]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]}?" if close else f"Known clients: {', '.join(names)}."
        raise UsageError(f"there is no client {name}", hint)
    return CLIENTS[names.index(name)]


def _key(selection: Selection, config: GatewayConfig) -> str:
    """The key that the gateway accepts. One that is written into the configuration replaces the variable.

    Raises:
        MissingError: no environment with the key is known.
    """
    settings, written = selection.settings, config.section("general_settings").get("master_key")
    if isinstance(written, str) and written and not written.startswith(REFERENCE):
        return written
    if selection.unknown or settings.generated_key or not settings.master_key:
        reason = selection.unknown or f"{selection.dotenv.source} has no {MASTER_KEY.name}"
        raise MissingError(
            f"the key of the gateway is not known: {reason}",
            "The install generates it and writes it down. Then run this again with sudo.",
        )
    return find_key(settings)


def _find_url(settings: Settings) -> tuple[str, tuple[str, ...]]:
    """The URL for clients, and notes. With HTTPS it has a name for which the certificate is valid."""
    if settings.tls is None:
        return settings.base_url, ()
    try:
        certificate = read_certificate(settings.tls.certificate)
    except InputError as error:
        return settings.base_url, (f"The URL needs a name of the certificate, which is not known: {error.message}.",)
    host = urlsplit(settings.base_url).hostname or ""
    names = [each for each in certificate.names if "*" not in each]
    notes = []
    if certificate.is_self_signed:
        trust = f"NODE_EXTRA_CA_CERTS={settings.tls.certificate} (Node.js), SSL_CERT_FILE (Python)"
        notes.append(f"The certificate is self-signed. A client trusts it with a copy of its file and {trust}.")
    if not certificate.names:
        notes.append("The certificate has no subjectAltName: clients refuse it whatever name they connect to.")
    elif not names:
        notes.append(f"The certificate is valid for {', '.join(certificate.names)} only: use such a name in the URL.")
    if host in names or not names:
        return settings.base_url, tuple(notes)
    notes.append(f"The certificate is valid for {', '.join(names)}: the name in the URL must lead to this host.")
    name = f"[{names[0]}]" if ":" in names[0] else names[0]
    return f"https://{name}:{settings.port}", tuple(notes)


def _url_notes(selection: Selection) -> Iterator[str]:
    if selection.unknown:
        yield f"The URL is the default one: {selection.unknown}."
    elif selection.settings.host in ("0.0.0.0", "::") and selection.settings.tls is None:  # noqa: S104 - compared
        yield "The URL is for clients on this host. On another machine, use the name of this host in it."


def build_models(config: GatewayConfig) -> tuple[ClientModel, ...]:
    """The models of a configuration that an agent can use, each name once, with limits and prices.

    `model_info` of the configuration takes precedence over LiteLLM's map.
    """
    found: dict[str, ClientModel] = {}
    for model in config.models:
        values = {**map_values(config, model), **config.info(model)}
        if "*" not in model.name and values.get("mode") in _MODES:
            found.setdefault(model.name, _build_model(model.name, values))
    return tuple(found.values())


def _build_model(name: str, values: Mapping[str, Any]) -> ClientModel:
    def number(key: str) -> Any:
        value = values.get(key)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    return ClientModel(
        name,
        context=number("max_input_tokens"),
        output=number("max_output_tokens"),
        input_cost=number("input_cost_per_token"),
        output_cost=number("output_cost_per_token"),
        cache_read_cost=number("cache_read_input_token_cost"),
        cache_write_cost=number("cache_creation_input_token_cost"),
        images=values.get("supports_vision") is True,
    )


def _data(found: Client, gateway: Gateway) -> dict[str, Any]:
    return {
        "client": found.name,
        "base_url": gateway.base_url,
        "model": gateway.main.name,
        "small_model": gateway.small.name,
        "models": [each.name for each in gateway.models],
    }


def _notes(found: Client, gateway: Gateway) -> tuple[str, ...]:
    # Not around a command that has quotation marks itself.
    return tuple(re.sub(r"`([^`']*)`", r"'\1'", gateway.fill(note)).replace("`", "") for note in found.notes)


def _print(layout: Layout, found: Client, gateway: Gateway) -> Report:
    files = [(f"~/{each.paths[-1]}", each.form.value, new_text(each, gateway)) for each in found.files]
    code = gateway.fill(found.code)
    checks = [Check(path, Outcome.OK, f"# {path}\n{text}") for path, _form, text in files]
    if code:
        checks.append(Check(found.title, Outcome.OK, code))
    notes = list(_notes(found, gateway))
    if any(each.has_key for each in found.files) or "key" in found.code or "authorization" in found.code:
        notes.append(f"The key: --show-key prints it here, or: {key_command(layout)}")
    title = f"To write them to your files: sudo litellmctl client {found.name} --write" if files else ""
    return Report(
        title,
        tuple(checks),
        notes=tuple(notes),
        data={
            **_data(found, gateway),
            "files": [{"path": path, "format": form, "text": text} for path, form, text in files],
            "code": code,
        },
        plain=True,
    )


def _write(found: Client, gateway: Gateway, invoker: Invoker, now: datetime) -> Report:
    with _as_user(invoker):
        # All files are read and merged before the first one is written.
        targets = [_build_target(each, gateway, invoker.home) for each in found.files]
        changed = [each for each in targets if each.is_changed]
        checks, diffs = [], []
        for each in targets:
            after = _after(each, invoker)
            if each in changed:
                diffs.append(redact(render_diff(each.before, after), gateway.key))
                checks.append(_replace(each, after, now))
            else:
                checks.append(Check(each.shown, Outcome.OK, "has these settings"))
    title = f"{found.title}: wrote {render_count(len(changed), 'file')}" if changed else "nothing to do"
    return Report(
        title,
        tuple(checks),
        notes=_notes(found, gateway) if changed else (),
        diffs=tuple(diffs),
        data={**_data(found, gateway), "written": [str(each.path) for each in changed]},
    )


@contextlib.contextmanager
def _as_user(invoker: Invoker) -> Iterator[None]:
    """Use the rights of the invoking user for files: a link in their home then leads to nothing they can't change."""
    if os.geteuid() != 0 or invoker.uid == 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([invoker.gid])
    os.setegid(invoker.gid)
    os.seteuid(invoker.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _build_target(file: SettingsFile, gateway: Gateway, home: Path) -> Target:
    """Read a file of the user and merge the settings into it.

    Raises:
        CannotCreate: the path leads out of the home, or something else than a file is there.
        PermissionDenied: the user cannot read it.
        InputError: it can't be merged.
    """
    name = next((each for each in file.paths if os.path.lexists(home / each)), file.paths[-1])
    shown, path = f"~/{name}", Path(os.path.realpath(home / name))
    if not home.is_dir():
        raise MissingError(f"there is no home {home}", "Run the command as the user who runs the client.")
    if not path.is_relative_to(os.path.realpath(home)):
        raise CannotCreate(f"{home / name} leads to {path}, out of the home", "Replace the link, or edit it by hand.")
    before = observe_file(_HOST, str(path))
    if before is not None and before.kind is not FileKind.FILE:
        raise CannotCreate(f"{home / name} is a {before.kind.value}, and must be a file", "Move it away.")
    try:
        text = path.read_bytes().decode() if before is not None else ""
    except OSError as error:
        raise PermissionDenied(f"{home / name}: {error.strerror}", "Correct its owner or its mode.") from None
    except UnicodeDecodeError:
        raise InputError(f"{home / name}: not UTF-8", "Nothing was changed. Correct the file.") from None
    merged = merge(text, file.form, file.build(gateway), str(home / name), file.initial)
    return Target(shown, path, before, merged, file.has_key)


def _after(target: Target, invoker: Invoker) -> FileState:
    owner, group = _name_of(invoker)
    mode = 0o644 if target.before is None else target.before.mode
    mode = mode & 0o700 | 0o600 if target.has_key else mode
    return FileState(str(target.path), target.text.encode(), mode, owner, group)


def _name_of(invoker: Invoker) -> tuple[str, str]:
    """The names of the user and of their group; numbers if the databases do not have them."""
    names = [str(invoker.uid), str(invoker.gid)]
    with contextlib.suppress(KeyError):
        names[0] = pwd.getpwuid(invoker.uid).pw_name
    with contextlib.suppress(KeyError):
        names[1] = grp.getgrgid(invoker.gid).gr_name
    return names[0], names[1]


def _replace(target: Target, after: FileState, now: datetime) -> Check:
    detail = "written"
    if target.before is not None:
        backup = f"{target.path}.{now:%Y%m%dT%H%M%SZ}.bak"
        write_file(_HOST, FileState(backup, target.before.content, 0o600, after.owner, after.group))
        detail = f"written; the earlier one is {backup}"
    write_file(_HOST, after)
    return Check(target.shown, Outcome.CHANGED, detail)
