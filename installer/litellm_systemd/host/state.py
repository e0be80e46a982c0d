"""Values that describe a host: what is there, what is wanted, and what leads from one to the other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class FileKind(Enum):
    """What stands at a path."""

    FILE = "file"
    LINK = "link"
    FOLDER = "folder"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FileState:
    """One path: its kind, content (the target, for a link), mode, owner and group.

    `keep_edits` marks a file that belongs to the user from the moment that he edits it: an edit is overwritten only
    if he says so. The content may be secret and doesn't show in `repr`. Mode, owner and group of a link mean nothing
    and are left at their defaults.
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
    """The record of a state that has been written."""
    return Record(state.digest, state.kind, state.mode, state.owner, state.group)


def link(path: str, target: str) -> FileState:
    """The state of a symbolic link."""
    return FileState(path, target.encode(), mode=0o777, kind=FileKind.LINK)


def folder(path: str, mode: int, owner: str = "root", group: str = "root") -> FileState:
    """The state of a folder."""
    return FileState(path, mode=mode, owner=owner, group=group, kind=FileKind.FOLDER)


@dataclass(frozen=True, slots=True)
class UnitState:
    """What systemd says of one unit, in its own words (org.freedesktop.systemd1(5)); empty where it isn't asked."""

    name: str
    load: str = "not-found"
    active: str = "inactive"
    enabled: str = ""
    fragment: str = ""
    need_reload: bool = False

    @property
    def is_active(self) -> bool:
        """Whether it runs, or is on its way to."""
        return self.active in ("active", "activating", "reloading", "refreshing")

    @property
    def is_enabled(self) -> bool:
        """Whether it starts at boot."""
        return self.enabled in ("enabled", "enabled-runtime", "alias")


@dataclass(frozen=True, slots=True)
class HostState:
    """What was found on the host.

    `files` holds the paths that were looked at and exist. `manifest` gives, for each path that an earlier run
    wrote or offered, what that was. `releases` are the complete ones.
    """

    files: Mapping[str, FileState] = field(default_factory=dict)
    manifest: Mapping[str, Record] = field(default_factory=dict)
    units: Mapping[str, UnitState] = field(default_factory=dict)
    releases: tuple[str, ...] = ()
    user_exists: bool = False

    def unit(self, name: str) -> UnitState:
        """The state of a unit; that of a missing one if it wasn't found."""
        return self.units.get(name, UnitState(name))

    def edited(self, path: str) -> bool:
        """Whether what stands at `path` is not what an earlier run wrote there."""
        found, record = self.files.get(path), self.manifest.get(path)
        return found is not None and (record is None or record.digest != found.digest)


class Running(Enum):
    """What is wanted of the service itself: that it runs; that it takes up changes if it runs; that it is let be."""

    STARTED = "started"
    AS_IT_IS = "as it is"
    UNTOUCHED = "untouched"


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What a host should look like: its release, folders and files, and the service enabled and running.

    `take` names the files that are to be written although the user edited them; `absent` those of ours that are to
    go.
    """

    release: str
    folders: tuple[FileState, ...] = ()
    files: tuple[FileState, ...] = ()
    enabled: bool = True
    running: Running = Running.STARTED
    take: frozenset[str] = frozenset()
    absent: tuple[str, ...] = ()


class Verb(Enum):
    """What an action does. The order of the values is the order in which a plan takes them."""

    STOP_TIMER = "stop timer"
    STOP = "stop"
    DISABLE = "disable"
    BUILD_RELEASE = "build release"
    SAVE_EDITED = "save edited"
    CREATE_USER = "create user"
    CREATE_FOLDERS = "create folders"
    WRITE = "write"
    TAKE_AWAY = "take away"
    RESTORE = "restore"
    REMOVE = "remove"
    REMOVE_EMPTY = "remove if empty"
    REMOVE_USER = "remove user"
    SET_ACCESS = "set mode and owner of"
    DAEMON_RELOAD = "daemon-reload"
    ENABLE = "enable"
    START = "start"
    RELOAD = "reload"
    RESTART = "restart"
    START_TIMER = "start timer"


@dataclass(frozen=True, slots=True)
class Action:
    """One step: what is done to what, and why.

    `after` is the state to write, for the verb WRITE; for SET_ACCESS that with the mode and owner to set.
    """

    verb: Verb
    target: str
    reason: str = ""
    after: FileState | None = None

    def __str__(self) -> str:
        return f"{self.verb.value} {self.target}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that the user edited and that is left alone, with what was to be written there.

    `is_news`: that isn't what the last run offered either, so that the user has to hear of it.
    """

    found: FileState
    offered: FileState
    is_news: bool

    @property
    def path(self) -> str:
        """Where it stands."""
        return self.offered.path


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps that lead from what is to what is wanted, in order. An empty one means that all is in place."""

    actions: tuple[Action, ...] = ()
    kept: tuple[Kept, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.actions)

    @property
    def effect(self) -> str:
        """What becomes of the service, in words."""
        verbs = {action.verb for action in self.actions}
        for verb, words in _EFFECTS.items():
            if verb in verbs:
                return words
        return "the service is left alone"


_EFFECTS = {
    Verb.RESTART: "the service is restarted",
    Verb.START: "the service is started",
    Verb.RELOAD: "the service is reloaded",
    Verb.STOP: "the service is stopped",
}
