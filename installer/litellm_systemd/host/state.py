"""Values that describe a host: the observed state, the desired state, the plan between them, and differences as text.

Secrets are masked in the text of a difference. Pure.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from litellm_systemd.contract import SECRETS_FILE
from litellm_systemd.env.dotenv import render_assignments
from litellm_systemd.env.environment_file import parse_environment_file
from litellm_systemd.env.secrets import MASK, is_secret_variable, mask_environment, mask_lines, mask_yaml, redact


class FileKind(Enum):
    FILE = "file"
    LINK = "link"
    FOLDER = "folder"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FileState:
    """One path: its kind, content (for a link, its target), mode, owner and group.

    `keep_edits` marks a file whose edits are kept: it is overwritten only if the user requests it. The content may be
    secret and does not appear in `repr`. Mode, owner and group of a link have no meaning and keep their defaults.
    """

    path: str
    content: bytes = field(default=b"", repr=False)
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    kind: FileKind = FileKind.FILE
    keep_edits: bool = field(default=False, compare=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hex."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True)
class Record:
    """What an earlier run wrote at a path: SHA-256 of the content in hex, kind, mode, owner and group."""

    digest: str
    kind: FileKind = FileKind.FILE
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"


def record_of(state: FileState) -> Record:
    return Record(state.digest, state.kind, state.mode, state.owner, state.group)


def is_edited(found: FileState | None, record: Record | None) -> bool:
    """Whether the content of a path is not what an earlier run wrote there; a path without a record counts as edited.

    A missing path is not edited.
    """
    return found is not None and (record is None or record.digest != found.digest)


def link(path: str, target: str) -> FileState:
    return FileState(path, target.encode(), mode=0o777, kind=FileKind.LINK)


def folder(path: str, mode: int, owner: str = "root", group: str = "root") -> FileState:
    return FileState(path, mode=mode, owner=owner, group=group, kind=FileKind.FOLDER)


@dataclass(frozen=True, slots=True)
class UnitState:
    """The state of one unit in systemd's terms (org.freedesktop.systemd1(5)); empty where it was not queried.

    `invocation` is another one after each start of the unit, and the same one after a reload.
    """

    name: str
    load: str = "not-found"
    active: str = "inactive"
    enabled: str = ""
    fragment: str = ""
    need_reload: bool = False
    invocation: str = ""

    @property
    def is_active(self) -> bool:
        """Whether the unit runs or is starting."""
        return self.active in ("active", "activating", "reloading", "refreshing")

    @property
    def is_enabled(self) -> bool:
        """Whether the unit starts at boot."""
        return self.enabled in ("enabled", "enabled-runtime", "alias")


def in_words(state: str) -> str:
    """The ActiveState or LoadState of a unit as the end of a sentence."""
    return {"failed": "has failed", "not-found": "does not exist"}.get(state, f"is {state}")


@dataclass(frozen=True, slots=True)
class PostgresState:
    """The PostgreSQL of this host: whether it has a cluster, runs, starts at boot, and has role and database of the
    service.

    `url`: of that database. `package`: the command that installs PostgreSQL, empty if it is installed.
    """

    url: str
    package: str = ""
    has_cluster: bool = False
    is_online: bool = False
    is_enabled: bool = False
    has_role: bool = False
    has_database: bool = False

    @property
    def missing(self) -> str:
        """What `set up` does, in words; empty if there is nothing to do."""
        steps = (
            self.package,
            "" if self.has_cluster or self.package else "create a cluster",
            "" if self.is_online else "start",
            "" if self.is_enabled else "enable",
        )
        return ", ".join(filter(None, steps))


@dataclass(frozen=True, slots=True)
class HostState:
    """The observed state of the host.

    `files` are the observed paths that exist. `manifest` has a record for each path that an earlier run wrote or
    offered. `releases` are the complete releases. `postgres` is observed if the service is to have a database
    there.
    """

    files: Mapping[str, FileState] = field(default_factory=dict)
    manifest: Mapping[str, Record] = field(default_factory=dict)
    units: Mapping[str, UnitState] = field(default_factory=dict)
    releases: tuple[str, ...] = ()
    user_exists: bool = False
    postgres: PostgresState | None = None

    def unit(self, name: str) -> UnitState:
        """The state of a unit; the state of a missing unit if it was not observed."""
        return self.units.get(name, UnitState(name))

    def edited(self, path: str) -> bool:
        """Whether the file at `path` differs from what an earlier run wrote there."""
        return is_edited(self.files.get(path), self.manifest.get(path))


class Running(Enum):
    """Whether to start the service, to apply changes only if it runs, or to leave it alone."""

    STARTED = "started"
    AS_IT_IS = "as it is"
    UNTOUCHED = "untouched"


@dataclass(frozen=True, slots=True)
class DesiredState:
    """The state that a host should have: release, folders, files, and the service enabled and running.

    `take` are the files to overwrite although the user edited them; `absent` are installed files to remove; `loads`
    are the files of the active configuration, which a reload reads again. `migrates` says why the database is
    migrated, empty if it is not.
    """

    release: str
    folders: tuple[FileState, ...] = ()
    files: tuple[FileState, ...] = ()
    enabled: bool = True
    running: Running = Running.STARTED
    take: frozenset[str] = frozenset()
    absent: tuple[str, ...] = ()
    loads: tuple[str, ...] = ()
    migrates: str = ""
    dump: str = ""


class Verb(Enum):
    """What an action does. The order of the values is their order in a plan."""

    STOP_TIMER = "stop timer"
    STOP = "stop"
    DISABLE = "disable"
    # Before PostgreSQL is installed, which no undo removes: a part of the release may be missing.
    BUILD_RELEASE = "build release"
    SET_UP_POSTGRES = "set up PostgreSQL for"
    SAVE_EDITED = "save edited"
    CREATE_USER = "create user"
    CREATE_FOLDERS = "create folders"
    CREATE_ROLE = "create role of"
    CREATE_DATABASE = "create database"
    LOAD_DATABASE = "load into the database"
    MIGRATE = "migrate the database for"
    RESTORE_DATABASE = "undo the migration of the database for"
    WRITE = "write"
    TAKE_AWAY = "take away"
    RESTORE = "restore"
    REMOVE = "remove"
    REMOVE_EMPTY = "remove if empty"
    EMPTY_DATABASE = "empty the database, undoing the load of"
    DROP_DATABASE = "drop if empty"
    DROP_ROLE = "drop role of"
    REMOVE_USER = "remove user"
    SET_ACCESS = "set mode and owner of"
    DAEMON_RELOAD = "daemon-reload"
    ENABLE = "enable"
    START = "start"
    RELOAD = "reload"
    RESTART = "restart"
    CLOSE = "close"
    START_TIMER = "start timer"


@dataclass(frozen=True, slots=True)
class Action:
    """One step of a plan: verb, target and reason.

    `after` is the state to write (WRITE), the mode and owner to set (SET_ACCESS), or what to save in place of the
    edited file (SAVE_EDITED).
    """

    verb: Verb
    target: str
    reason: str = ""
    after: FileState | None = None

    def __str__(self) -> str:
        return f"{self.verb.value} {self.target}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that the user edited and that is kept, with the new content that it was offered.

    `is_news`: the offered content is not that of the last run, so that it is reported.
    """

    found: FileState
    offered: FileState
    is_news: bool

    @property
    def path(self) -> str:
        return self.offered.path


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps from the observed to the desired state, in order. An empty plan: there is nothing to do."""

    actions: tuple[Action, ...] = ()
    kept: tuple[Kept, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.actions)

    @property
    def effect(self) -> str:
        """What happens to the service, as text."""
        verbs = {action.verb for action in self.actions}
        for verb, words in _EFFECTS.items():
            if verb in verbs:
                return words
        return "the service is not affected"


_EFFECTS = {
    Verb.RESTART: "the service is restarted",
    Verb.START: "the service is started",
    Verb.RELOAD: "the service is reloaded",
    Verb.STOP: "the service is stopped",
}


def variables_of(file: FileState) -> dict[str, str]:
    return parse_environment_file(file.content.decode(errors="replace"))


def mask_secrets(file: FileState) -> FileState:
    """An environment file with its secrets masked, and without comments, which may have secrets in them."""
    return replace(file, content=render_assignments(mask_environment(variables_of(file))).encode())


def describe_drift(found: FileState | None, record: Record) -> str:
    """All differences in words; empty if there is none."""
    if found is None:
        return "is gone"
    if found.kind is not record.kind:
        return f"is a {found.kind.value}, and was a {record.kind.value}"
    edited = found.kind is not FileKind.FOLDER and is_edited(found, record)
    return ", ".join(filter(None, ("edited" if edited else "", access_drift(found, record))))


def access_drift(found: FileState, record: Record) -> str:
    """The differences of mode and owner in words; empty if there is none. Those of a link mean nothing."""
    if FileKind.LINK in (found.kind, record.kind):
        return ""
    changes = []
    if found.mode != record.mode:
        changes.append(f"mode {found.mode:04o}, was {record.mode:04o}")
    if (found.owner, found.group) != (record.owner, record.group):
        changes.append(f"owner {found.owner}:{found.group}, was {record.owner}:{record.group}")
    return ", ".join(changes)


def render_diff(before: FileState | None, after: FileState | None) -> str:
    """A unified diff of two states of one path, either of which may be absent, with a line for mode and owner.

    Secrets are masked; the line of a secret that changed is still in the difference. Of environment files (*.env)
    the variables are compared.
    """
    path = (after or before or FileState("?")).path
    return "\n".join((*_attributes(before, after), *_content(path, before, after)))


def _attributes(before: FileState | None, after: FileState | None) -> Iterator[str]:
    if before is None or after is None:
        return
    if before.kind is not after.kind:
        yield f"{after.path}: a {before.kind.value}, to be a {after.kind.value}"
    elif after.kind is not FileKind.LINK and _access(before) != _access(after):
        yield f"{after.path}: {_access(before)}, to be {_access(after)}"


def _access(state: FileState) -> str:
    return f"mode {state.mode:04o} {state.owner}:{state.group}"


def _content(path: str, before: FileState | None, after: FileState | None) -> Iterator[str]:
    # A line is compared with its secrets and shown without them. NUL, which no text file has, separates the two.
    old, new = ([f"{shown}\0{line}" for shown, line in _lines(state)] for state in (before, after))
    names = (path if before else "/dev/null", path if after else "/dev/null")
    for line in difflib.unified_diff(old, new, *names, lineterm=""):
        yield line.partition("\0")[0]


def _lines(state: FileState | None) -> Iterator[tuple[str, str]]:
    """Each line as shown, and as in the file."""
    if state is None or state.kind in (FileKind.FOLDER, FileKind.OTHER):
        return
    text = state.content.decode(errors="replace")
    if state.kind is FileKind.LINK:
        yield f"link to {text}", text
    elif state.path == SECRETS_FILE:
        yield "encrypted secrets", text
    elif state.path.endswith(".env"):
        # A value can have several lines, and all but the first would look harmless.
        for name, value in parse_environment_file(text).items():
            shown = MASK if is_secret_variable(name, value) else redact(json.dumps(value))
            yield f"{name}={shown}", value
    else:
        mask = mask_yaml if state.path.endswith((".yml", ".yaml")) else mask_lines
        shown_lines, lines = mask(text).split("\n"), text.split("\n")
        yield from (
            zip(shown_lines, lines, strict=True) if lines[-1] else zip(shown_lines[:-1], lines[:-1], strict=True)
        )
