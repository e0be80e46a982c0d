"""The environment that systemd gives to the service, with its drop-ins, and where each variable comes from.

Source: systemd.exec(5), "Environment". Later ones override earlier ones: the environment of the manager, which comes
from DefaultEnvironment= and `systemctl set-environment`; PassEnvironment=; Environment=; each EnvironmentFile=.
UnsetEnvironment= applies at the end. The runtime adds the encrypted secrets (env/service_credential.py).
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.env.dotenv import Dotenv
from litellm_systemd.env.environment_file import EnvironmentFile, Fault, read_environment_bytes
from litellm_systemd.env.settings import Settings
from litellm_systemd.errors import CommandError, MissingError, PermissionDenied
from litellm_systemd.host.encrypted_secrets import read_secrets
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import is_booted
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.user_files import read_regular, require_trusted

#: The properties of the unit that decide on its environment.
PROPERTIES = (
    *("LoadState", "FragmentPath", "DropInPaths"),
    *("Environment", "EnvironmentFiles", "PassEnvironment", "UnsetEnvironment"),
)
#: Where a variable of `systemctl set-environment` comes from: no file has it.
MANAGER = "systemctl show-environment"
#: Set by systemd or by the unit itself, and of no use to a check: a program that root starts needs its own.
_OF_THE_PROCESS = re.compile(r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|XDG_\w+")
#: With these, a user who may write the file would run code or write files as root: litellmctl starts programs with
#: the environment.
_RUNS_CODE = re.compile(
    r"LD_\w+|GCONV_PATH|PYTHON\w+|BASH_ENV|ENV|OPENSSL_\w+|SSLKEYLOGFILE|AWS_CONFIG_FILE"
    r"|AWS_SHARED_CREDENTIALS_FILE|MALLOC_\w+"
)
_FILE = re.compile(r"(?P<path>.*) \(ignore_errors=(?P<optional>yes|no)\)")
#: One word of a list of assignments, as systemctl prints it.
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)', re.DOTALL)
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|([0-7]{3})|(.))", re.DOTALL)
_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


#: Why systemd does not load a folder.
_FOLDER = "it is a folder"


@dataclass(frozen=True, slots=True)
class UnusableFile:
    """An EnvironmentFile= that systemd cannot load, so that it does not start the service; `reason` in words."""

    path: str
    reason: str

    @property
    def is_folder(self) -> bool:
        """Whether a folder has the path of the file."""
        return self.reason == _FOLDER


@dataclass(frozen=True, slots=True)
class Overridden:
    """A variable that has another value in a later source: FILE:LINE of both, and the earlier file."""

    name: str
    where: str
    path: str
    by: str


@dataclass(frozen=True, slots=True)
class EffectiveEnvironment:
    """The variables with their origins, and what is wrong with the files.

    `faults` are the lines that systemd reads differently from how they look, by file.
    """

    dotenv: Dotenv
    faults: tuple[tuple[str, Fault], ...] = ()
    unusable: tuple[UnusableFile, ...] = ()
    overridden: tuple[Overridden, ...] = ()


@dataclass(frozen=True, slots=True)
class UnitLine:
    """An assignment in a unit file or drop-in: `section` as [Service], the setting's name and value."""

    path: str
    line: int
    section: str
    name: str
    value: str

    @property
    def where(self) -> str:
        """FILE:LINE."""
        return f"{self.path}:{self.line}"

    @property
    def assignment(self) -> str:
        """NAME=VALUE for a message; a long value is cut, and one that may have a secret is left out."""
        return f"{self.name}={'…' if self.name in ('Environment', 'SetCredential') else self.value[:80]}"


def observe_environment(
    layout: Layout, properties: Mapping[str, str] | None = None, *, with_secrets: bool = True
) -> EffectiveEnvironment:
    """The environment of the service at its next start; that of the installed file alone if systemd has no unit.

    Args:
        layout: the host or image.
        properties: `PROPERTIES` of the service, if they are known already.
        with_secrets: whether to decrypt the encrypted secrets.

    Raises:
        MissingError: the installed environment file is missing.
        PermissionDenied: this user cannot read one of the files.
        Unavailable: the secrets cannot be decrypted.
    """
    manager = ""
    if layout.is_host and is_booted():
        # Without an answer of systemd, the installed file is still known.
        with contextlib.suppress(CommandError):
            properties = properties or Systemctl(layout).show(contract.SERVICE, *PROPERTIES)
            manager = Systemctl(layout).manager_environment()
    if not properties or properties.get("LoadState") != "loaded":
        files = (layout.environment_file, *((layout.salt,) if os.path.lexists(layout.real(layout.salt)) else ()))
        properties = {"EnvironmentFiles": "\n".join(f"{path} (ignore_errors=no)" for path in files)}
    found = _Environment(layout)
    found.add_manager(manager)
    found.add_passed(properties.get("PassEnvironment", "").split())
    lines = tuple(read_unit_lines(layout, properties))
    found.add_assignments(split_assignments(properties.get("Environment", "")), lines)
    for path, is_optional in _environment_files(properties.get("EnvironmentFiles", "")):
        found.add_file(path, is_optional=is_optional)
    found.remove(properties.get("UnsetEnvironment", "").split(), lines)
    if with_secrets:
        found.add_secrets()
    return found.result()


class _Environment:
    """The variables as they are added, in the order of systemd."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._values: dict[str, str] = {}
        self._lines: dict[str, int] = {}
        self._files: dict[str, str] = {}
        self._faults: list[tuple[str, Fault]] = []
        self._unusable: list[UnusableFile] = []
        self._overridden: list[Overridden] = []

    def _set(self, name: str, value: str, path: str, line: int | None) -> None:
        if self._values.get(name, value) != value and path != self._files[name] != MANAGER:
            before = Dotenv("", self._values, self._lines, self._files).where(name)
            by = path if line is None else f"{path}:{line}"
            self._overridden.append(Overridden(name, before, self._files[name], by))
        self._values[name], self._files[name] = value, path
        self._lines.pop(name, None)
        if line is not None:
            self._lines[name] = line

    def add_manager(self, text: str) -> None:
        defaults = tuple(
            each for each in read_manager_files(self._layout, "system.conf") if each.name == "DefaultEnvironment"
        )
        self._add_all(split_assignments(text), defaults, MANAGER)

    def add_passed(self, names: Iterable[str]) -> None:
        known: dict[str, str] = {}
        with contextlib.suppress(PermissionError):  # only root can read it
            known = read_environ(Path("/proc/1/environ")) if names else {}
        self._add_all({name: known[name] for name in names if name in known}, (), MANAGER)

    def add_assignments(self, values: Mapping[str, str], lines: tuple[UnitLine, ...]) -> None:
        ours = tuple(each for each in lines if (each.section, each.name) == ("[Service]", "Environment"))
        self._add_all(values, ours, self._layout.service)

    def _add_all(self, values: Mapping[str, str], lines: tuple[UnitLine, ...], default: str) -> None:
        for name, value in values.items():
            if not _OF_THE_PROCESS.fullmatch(name):
                assigns = re.compile(rf"(?:^|[\s\"']){re.escape(name)}=")
                origin = next((each for each in reversed(lines) if assigns.search(each.value)), None)
                self._set(name, value, origin.path if origin else default, origin.line if origin else None)

    def add_file(self, pattern: str, *, is_optional: bool) -> None:
        is_own = pattern == self._layout.environment_file
        paths = [pattern]
        if glob.has_magic(pattern):
            paths = sorted(glob.glob(str(self._layout.real(pattern))))  # noqa: PTH207 - as glob(3) does
            if not paths and not is_optional:
                self._unusable.append(UnusableFile(pattern, "no file has such a name"))
        for path in paths:
            try:
                read, reason = self._read(path)
            except FileNotFoundError:
                if is_own:
                    raise MissingError(f"{path} is missing") from None
                read, reason = EnvironmentFile(), "it does not exist"
            if reason and not is_optional:
                self._unusable.append(UnusableFile(path, reason))
            else:
                self._faults += [(path, fault) for fault in read.faults]
            is_safe = is_own or _is_trusted(self._layout.real(path))
            for name, value in read.values.items():
                if is_safe or not _RUNS_CODE.fullmatch(name):
                    self._set(name, value, path, read.lines[name])

    def _read(self, path: str) -> tuple[EnvironmentFile, str]:
        """The variables of one file, and the reason why systemd rejects it; FileNotFoundError if there is none."""
        try:
            content = read_regular(self._layout.real(path))
            return read_environment_bytes(content, Systemctl(self._layout).known_version)
        except PermissionError:
            raise PermissionDenied(
                f"{path} is readable by root only, since it holds keys", "Run the command with sudo."
            ) from None
        except (IsADirectoryError, ValueError) as error:
            return EnvironmentFile(), _FOLDER if isinstance(error, IsADirectoryError) else f"it {error}"
        except NotADirectoryError:
            raise FileNotFoundError(path) from None

    def remove(self, entries: Iterable[str], lines: tuple[UnitLine, ...]) -> None:
        for entry in entries:
            name, has_value, value = entry.partition("=")
            if name in self._values and (not has_value or self._values[name] == value):
                del self._values[name]
                origins = (each for each in lines if each.name == "UnsetEnvironment" and name in each.value)
                for origin in origins:
                    self._files[name], self._lines[name] = origin.path, origin.line

    def add_secrets(self) -> None:
        for name, value in read_secrets(self._layout).items():
            if name not in self._values:
                self._set(name, value, self._layout.secrets, None)

    def result(self) -> EffectiveEnvironment:
        dotenv = Dotenv(self._layout.environment_file, self._values, self._lines, self._files)
        # What another file sets after all is not lost.
        faults = (each for each in self._faults if not each[1].lost or set(each[1].lost) - self._values.keys())
        return EffectiveEnvironment(dotenv, tuple(faults), tuple(self._unusable), tuple(self._overridden))


def _is_trusted(path: Path) -> bool:
    try:
        require_trusted(path)
    except (PermissionDenied, OSError, ValueError):
        return False
    return True


def _environment_files(text: str) -> Iterator[tuple[str, bool]]:
    for line in text.splitlines():
        if found := _FILE.fullmatch(line):
            yield found["path"], found["optional"] == "yes"


def split_assignments(text: str) -> dict[str, str]:
    """The variables in a list as `systemctl show` prints it (shell_maybe_quote() in src/basic/escape.c)."""
    words = (_ESCAPE.sub(_unescape, word[1]) if word[1] is not None else word[2] for word in _WORD.finditer(text))
    return dict(word.split("=", 1) for word in words if "=" in word)


def _unescape(match: re.Match[str]) -> str:
    if match[1] or match[2]:
        return chr(int(match[1], 16) if match[1] else int(match[2], 8))
    return _CONTROL.get(match[3], match[3])


def read_unit_lines(layout: Layout, properties: Mapping[str, str]) -> Iterator[UnitLine]:
    """The assignments of a unit: those of its file, then those of its drop-ins in systemd's order."""
    for path in (properties.get("FragmentPath", ""), *properties.get("DropInPaths", "").split()):
        if path:
            yield from read_lines(layout, path)


#: Where systemd looks for units and their drop-ins, the least important first (systemd.unit(5)).
_UNIT_FOLDERS = (
    *("/usr/lib/systemd/system", "/usr/local/lib/systemd/system", "/run/systemd/system", "/etc/systemd/system"),
    *("/run/systemd/system.control", "/etc/systemd/system.control"),
)


def find_drop_ins(layout: Layout, unit: str) -> tuple[Path, ...]:
    """The drop-ins of a unit, and those of all units of its type, such as service.d; whether systemd runs or not.

    Of several with one name, the last one is valid.
    """
    names = (f"{unit.rpartition('.')[2]}.d", f"{unit}.d")
    folders = (layout.real(f"{folder}/{name}") for name in names for folder in _UNIT_FOLDERS)
    return tuple(path for folder in folders for path in sorted(folder.glob("*.conf")))


def read_manager_files(layout: Layout, name: str) -> Iterator[UnitLine]:
    """The assignments of a file such as system.conf and of its drop-ins, in order (systemd-system.conf(5))."""
    folders = ("/usr/lib/systemd", "/usr/local/lib/systemd", "/run/systemd", "/etc/systemd")
    main = next((path for each in reversed(folders) if layout.real(path := f"{each}/{name}").exists()), None)
    drop_ins: dict[str, str] = {}
    for folder in folders:
        for found in layout.real(f"{folder}/{name}.d").glob("*.conf"):
            drop_ins[found.name] = f"{folder}/{name}.d/{found.name}"
    for each in (main, *(path for _, path in sorted(drop_ins.items()))):
        if each is not None:
            yield from read_lines(layout, each)


def read_lines(layout: Layout, path: str) -> Iterator[UnitLine]:
    """The assignments of one file of systemd's; none if it cannot be read."""
    try:
        lines = layout.real(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # it was removed after systemd loaded it
        return
    section, begin, text = "", 0, ""
    for number, line in enumerate(lines, 1):
        if line.strip().startswith(("#", ";")):
            continue
        begin = begin or number
        text += line.strip()
        if line.endswith("\\"):
            text = text[:-1] + " "
            continue
        name, is_assignment, value = (part.strip() for part in text.partition("="))
        if name.startswith("[") and not is_assignment:
            section = name
        elif is_assignment:
            yield UnitLine(path, begin, section, name, value)
        begin, text = 0, ""


def listen_addresses(listen: str) -> tuple[str, ...]:
    """The TCP addresses in the property Listen of a socket unit, such as `127.0.0.1:4000 (Stream)`."""
    return tuple(re.findall(r"(\S+:\d+) \(Stream\)", listen))


def at_socket(layout: Layout, settings: Settings) -> Settings:
    """The settings with the address on which the socket unit listens, which may differ from that of the variables."""
    if not (layout.is_host and is_booted()):
        return settings
    addresses = listen_addresses(Systemctl(layout).show(contract.SOCKET, "Listen").get("Listen", ""))
    if not addresses or settings.listen in addresses:
        return settings
    host, _, port = addresses[0].rpartition(":")
    return replace(settings, host=host.strip("[]"), port=int(port))


def read_environ(path: Path) -> dict[str, str]:
    """The environment with which a process was started (proc(5))."""
    pairs = path.read_bytes().decode(errors="replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


#: systemd sets these for every process (systemd.exec(5), "Environment variables in spawned processes").
_OF_SYSTEMD = re.compile(
    r"INVOCATION_ID|SYSTEMD_\w+|MEMORY_PRESSURE_\w+|(?:RUNTIME|STATE|CACHE|LOGS|CONFIGURATION|CREDENTIALS)_DIRECTORY"
    r"|JOURNAL_STREAM|NOTIFY_SOCKET|MAINPID|MANAGERPID|WATCHDOG_\w+|LISTEN_\w+|TERM|PIDFILE|MONITOR_\w+|FDSTORE"
)


def is_service_variable(name: str) -> bool:
    """Whether a variable of a process comes from a file or a unit, and is not one that systemd sets by itself."""
    return _OF_SYSTEMD.fullmatch(name) is None and _OF_THE_PROCESS.fullmatch(name) is None
