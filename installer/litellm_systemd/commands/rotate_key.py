"""rotate-key: replace the master key, with a time in which the service accepts the old one too."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.client.gateway import own_gateway
from litellm_systemd.commands.configs import current_release_of
from litellm_systemd.commands.resolve import Request
from litellm_systemd.commands.salt_key import require_salt_key
from litellm_systemd.commands.service_config import ServiceConfig, prove_service, resolve_service
from litellm_systemd.env.environment_file import set_assignment
from litellm_systemd.env.retired_keys import RetiredKey, digest_key, read_retired_keys, render_retired_keys
from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.env.settings import Dotenv, Settings, build_settings, parse_dotenv, read_dotenv
from litellm_systemd.env.variables import MASTER_KEY
from litellm_systemd.errors import InputError, InstallerError, NotInstalled, Unavailable, UsageError
from litellm_systemd.host.encrypted_secrets import encrypt_secrets, read_secrets
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import key_command, observe_host, read_installed
from litellm_systemd.host.state import DesiredState, FileState, HostState, Kept, Plan, Running, Verb, variables_of
from litellm_systemd.host.time_span import parse_time_span
from litellm_systemd.install.apply import Say, apply_install, changing
from litellm_systemd.install.plan import plan_install
from litellm_systemd.report.report import Report
from litellm_systemd.user_files import read_trusted, write_output

#: Seconds. The restart is a part of the overlap. A key that is accepted for longer is not replaced.
_MIN_OVERLAP, _MAX_OVERLAP = 300, 30 * 86400
#: The route that the old key is tried with. No model is called.
_ROUTE = "/v1/models"
_CONFIG_KEY = ("general_settings", "master_key")


@dataclass(frozen=True, slots=True)
class Rotation:
    """A new key, and until when (Unix time) the old one is accepted. `retired` are the keys of earlier rotations."""

    old: str
    new: str
    until: int
    retired: tuple[RetiredKey, ...]


def parse_overlap(text: str) -> int:
    """Seconds of a time span such as `10m`.

    Raises:
        UsageError: it is none, or neither 0 nor between 5 minutes and 30 days.
    """
    seconds = parse_time_span(text)
    if seconds is None or (seconds != 0 and not _MIN_OVERLAP <= seconds <= _MAX_OVERLAP):
        raise UsageError(
            f"--overlap {text} is not a time from 5 minutes to 30 days",
            "Write a number and a unit: 10m, 1h, 7d; or 0.",
        )
    return int(seconds)


def rotate_key(
    request: Request, *, overlap: int, key_file: str | None = None, wait: bool = False, say: Say = lambda _line: None
) -> Report:
    """Replace the master key without a lost request. The service accepts the old key for `overlap` seconds more.

    With `overlap` 0 it accepts no other old key either, such as one of an earlier rotation.

    Args:
        request: `env_file`, or the .env in its folder, gets the new key too, if it holds the old one.
        overlap: seconds.
        key_file: the file with the new key, `-` for standard input; None to generate it.
        wait: wait for another run to end.
        say: called with a line about each step.

    Raises:
        InstallerError: nothing was changed, or every change was undone: the old key is valid.
    """
    new = f"sk-{secrets.token_urlsafe(32)}" if key_file is None else _read_key(key_file)
    layout = request.layout
    if request.env_file is not None:
        read_dotenv(request.env_file)
    with changing(layout, "rotate-key", say, wait=wait) as executor:
        installed = read_installed(layout)
        if not installed:
            raise NotInstalled
        service = resolve_service(replace(request, env_file=None, installed_only=True, ask_instance=False))
        old, retired = _old_key(installed, service), read_retired_keys(installed)
        require_salt_key(service)
        rotation = Rotation(old, new, int(time.time()) + overlap, retired)
        if new == old:  # an earlier run may have been killed before it updated the .env
            return Report("nothing to do: this is the key already", notes=_update_file(request, rotation, say))
        warnings = _check_new_key(layout, installed, new)
        host = observe_host(layout, executor.systemctl)
        is_active = host.unit(contract.SERVICE).is_active
        if is_active and not _accepts(service.settings, old):
            raise Unavailable(
                f"the service does not accept the installed {MASTER_KEY.name}",
                "A drop-in may set another one: systemctl cat litellm. Or it runs with an earlier one:"
                " sudo litellmctl restart",
            )
        desired, plan = _plan(layout, host, rotation)
        apply_install(
            executor, plan, desired, host, lambda: _prove(service, rotation, overlap) if is_active else None
        )
        notes = _update_file(request, rotation, say)
    end = _render_time(rotation.until)
    title = f"the old key is accepted until {end}" if overlap else "the old key is refused"
    return Report(
        f"the master key was replaced; {title}",
        notes=(
            *warnings,
            *notes,
            f"To read the new key: {key_command(layout)}",
            "To configure a client: sudo litellmctl client",
        ),
        data={"changed": True, "overlap": overlap, "until": rotation.until, "active": is_active},
    )


def _read_key(source: str) -> str:
    name = "standard input" if source == "-" else source
    try:
        content = sys.stdin.buffer.read(65536) if source == "-" else read_trusted(Path(source))
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}", "Name a file with the key: --key-file FILE") from None
    except ValueError as error:
        raise InputError(f"{name} {error}", "Name a file with the key: --key-file FILE") from None
    words = content.decode(errors="replace").split()
    if len(words) != 1:
        found = "holds more than one word" if words else "is empty"
        raise InputError(
            f"{name} {found}", "Write the new key alone into it, or omit --key-file: a key is generated."
        )
    return words[0]


def _old_key(installed: Mapping[str, str], service: ServiceConfig) -> str:
    """The key that the service accepts now, if the environment decides on it."""
    settings = service.gateway.document.get(_CONFIG_KEY[0])
    written = settings.get(_CONFIG_KEY[1]) if isinstance(settings, Mapping) else None
    if written is not None and written != f"{contract.REFERENCE}{MASTER_KEY.name}":
        raise InputError(
            f"{service.gateway.source}: {'.'.join(_CONFIG_KEY)} is not {contract.REFERENCE}{MASTER_KEY.name}, so the"
            " environment does not decide on the key",
            f"Write {_CONFIG_KEY[1]}: {contract.REFERENCE}{MASTER_KEY.name} there, or replace the key there.",
        )
    old = installed.get(MASTER_KEY.name, "")
    if is_reference(old):
        raise InputError(
            f"{MASTER_KEY.name} is {old}: the key is kept in AWS",
            "Store the new key there. The old one is refused after, on each instance: sudo litellmctl reload",
        )
    return old


def _check_new_key(layout: Layout, installed: Mapping[str, str], new: str) -> tuple[str, ...]:
    """Refuse a key that a .env may not hold either, such as a placeholder. Returns the warnings about the key."""
    dotenv = Dotenv(layout.environment_file, {**installed, MASTER_KEY.name: new}, {MASTER_KEY.name: 0})
    where = f"{dotenv.where(MASTER_KEY.name)}: "
    try:
        settings = build_settings(dotenv, installed=installed, new_key=str)
    except InputError as error:
        raise InputError(
            f"the new key cannot be used: {error.message.removeprefix(where)}",
            "Write another key, or omit --key-file: a key is generated.",
        ) from None
    return tuple(each.removeprefix(where) for each in settings.warnings if each.startswith(where))


def _plan(layout: Layout, host: HostState, rotation: Rotation) -> tuple[DesiredState, Plan]:
    """Write the environment file, and the encrypted secrets if the key is there, and restart a service that runs.

    The rest of the environment file stays as it is, edits by hand too, which later installs still recognize as such.
    """
    earlier = rotation.retired
    if rotation.until <= time.time():  # no old key may remain valid
        earlier = tuple(replace(each, until=min(each.until, rotation.until)) for each in earlier)
    retired = (RetiredKey(digest_key(rotation.old), rotation.until), *earlier)
    changes = {contract.RETIRED_KEYS: render_retired_keys(retired), MASTER_KEY.name: rotation.new}
    found = host.files.get(layout.environment_file)
    if found is None:
        raise NotInstalled
    files, encrypted = [], read_secrets(layout)
    if MASTER_KEY.name in encrypted:
        files.append(FileState(layout.secrets, encrypt_secrets({**encrypted, **changes}), mode=0o600))
        # What is in the environment file too overrides the encrypted value.
        written = variables_of(found)
        changes = {name: value for name, value in changes.items() if name in written}
    files.append(replace(found, content=with_assignments(found.content, changes), keep_edits=False))
    desired = DesiredState(
        current_release_of(layout, host), files=tuple(files), enabled=False, running=Running.AS_IT_IS
    )
    plan = plan_install(layout, desired, host)
    kept: tuple[Kept, ...] = ()
    if host.edited(layout.environment_file):
        pristine = layout.real(f"{layout.pristine}/{host.manifest[layout.environment_file].digest}")
        if pristine.is_file():
            offered = replace(found, content=with_assignments(pristine.read_bytes(), changes))
            kept = (Kept(found, offered, is_news=False),)
    # No copy of the old key.
    actions = tuple(each for each in plan.actions if each.verb is not Verb.SAVE_EDITED)
    return desired, Plan(actions, kept)


def with_assignments(content: bytes, changes: Mapping[str, str]) -> bytes:
    """The content of an environment file with other values of some variables."""
    text = content.decode(errors="surrogateescape")  # a comment may be in another encoding
    for name, value in changes.items():
        text = set_assignment(text, name, value)
    return text.encode(errors="surrogateescape")


def _prove(service: ServiceConfig, rotation: Rotation, overlap: int) -> None:
    """Verify that the service accepts the new key, and the old one only during the overlap.

    Raises:
        Unavailable: it does not.
    """
    settings = service.settings
    settings = replace(settings, environment={**settings.environment, MASTER_KEY.name: rotation.new})
    prove_service(replace(service, settings=settings))
    accepted = _accepts(settings, rotation.old)
    if accepted is not (overlap > 0 and time.time() < rotation.until):
        raise Unavailable(f"the new service {'still accepts' if accepted else 'refuses'} the old key")


def _accepts(settings: Settings, key: str) -> bool:
    return own_gateway(settings, key).get(_ROUTE).ok


def _update_file(request: Request, rotation: Rotation, say: Say) -> tuple[str, ...]:
    """Update the .env that the next install would use. Returns what the user should know."""
    path = request.env_file or request.cwd / ".env"
    if not os.path.lexists(path):
        return ()
    try:
        return _update_dotenv(path, rotation, say)
    except (OSError, InstallerError) as error:
        reason = error.message if isinstance(error, InstallerError) else str(error)
        return (f"{path} was not updated: {reason}. If it has {MASTER_KEY.name}, remove that line.",)


def _update_dotenv(path: Path, rotation: Rotation, say: Say) -> tuple[str, ...]:
    """Write the new key into a .env with an old one, so that the next install does not find that one there."""
    dotenv = read_dotenv(path)
    present, line = dotenv.values.get(MASTER_KEY.name), dotenv.lines.get(MASTER_KEY.name)
    if present in (None, rotation.new) or line is None:
        return ()
    if digest_key(present) not in {digest_key(rotation.old), *(each.digest for each in rotation.retired)}:
        return (
            f"{path}:{line}: {MASTER_KEY.name} is another key, which the next install would use. Remove the line.",
        )
    lines = read_trusted(path).decode().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(present, rotation.new)
    text = "".join(lines)
    if parse_dotenv(text, str(path)).values.get(MASTER_KEY.name) != rotation.new:
        return (f"{path}:{line}: {MASTER_KEY.name} is an old key, which the next install refuses. Remove the line.",)
    status = path.stat()
    write_output(path, text.encode(), status.st_mode & 0o777, owner=(status.st_uid, status.st_gid))
    say(f"write {path}")
    return (f"{path}:{line}: {MASTER_KEY.name} is the new key now.",)


def _render_time(moment: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
