"""Why a start failed: the last error in the journal of that start, what it means, and what fixes it. Pure.

systemd reports how the main process ended ("exit code 1"). The cause is in the lines before that: the exception of a
traceback, a message of the runtime, or a line of systemd itself about a step that failed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from litellm_systemd.host.effective import UnitLine
from litellm_systemd.logs.events import ERROR, INFO, WARNING, LogEvent, read_events
from litellm_systemd.logs.known_messages import SIGNATURES

_TRACEBACK = "Traceback (most recent call last):"
#: Characters of a message that is quoted.
_MAX_QUOTE = 300
#: A place in the user's own code, as the runtime appends it to a message.
_PLACE = re.compile(r"\((?P<path>/[^():]+):(?P<line>\d+)\)$")
_FRAME = re.compile(r'^ +File "(?P<path>[^"]+)", line (?P<line>\d+)', re.MULTILINE)
#: A line that looks like an error, of a program that does not set priorities: Python, the dynamic linker, a shell.
_LOOKS_LIKE_ERROR = re.compile(
    r"(?:error|exception)\b|\b(?:fatal|failed|cannot|can't|denied|killed|no such file|not found)\b", re.IGNORECASE
)
#: Lines that report the end of a process or of a start, not why, and what the dynamic linker ignores.
_CONSEQUENCE = re.compile(
    r"Main process exited|Failed with result|Failed to start|Control process exited|Scheduled restart job"
    r"|Start request repeated too quickly|no worker became ready|asyncio: deallocating|Dependency failed"
    r"|cannot be preloaded .{0,99}: ignored"
)


#: The loggers of LiteLLM. Their warnings, such as one about "failed sign-in attempts", end no start.
_LITELLM = re.compile(r"LiteLLM(?: \w+)?: ")


@dataclass(frozen=True, slots=True)
class KnownError:
    """An error that keeps the service from starting: what it `means`, and the `remedy`, a template of `str.format`.

    `settings` are those of a unit that may cause it: if a drop-in has one, that line is the cause. Groups of the
    regular expression fill the remedy.
    """

    regex: str
    means: str
    remedy: str
    settings: tuple[str, ...] = ()


def _of_signature(name: str, *settings: str) -> KnownError:
    """A known message of a running service that can end a start as well."""
    found = next(one for one in SIGNATURES if one.name == name)
    return KnownError(found.regex, found.means, found.remedy, settings)


_RESTART = "; then: sudo litellmctl restart"
_PATHS = (
    *("BindPaths", "BindReadOnlyPaths", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths"),
    *("NoExecPaths", "TemporaryFileSystem", "RootDirectory", "RootImage", "PrivateTmp", "PrivateDevices"),
    *("MountImages", "ProtectHome", "ProtectSystem", "PrivateUsers", "ProtectProc", "ProcSubset"),
)
#: With too little address space, also a thread or a library fails.
_MEMORY = ("LimitAS", "LimitDATA", "LimitSTACK")
_DAMAGED = "sudo litellmctl releases verify    # if it names damaged files: sudo litellmctl doctor --fix"

#: Tried in this order: what is specific comes first.
KNOWN_ERRORS = (
    _of_signature("too-many-files", "LimitNOFILE"),
    _of_signature("too-many-tasks", "TasksMax", "LimitNPROC", *_MEMORY),
    _of_signature("out-of-memory", *_MEMORY, "LimitRSS", "MemoryMax", "MemoryHigh"),
    _of_signature("no-space", "TemporaryFileSystem", "PrivateTmp"),
    KnownError(
        r"No usable temporary directory|File too large",
        "The service cannot write files: a limit of their size, or its sandbox, prevents it",
        "systemctl show litellm -p LimitFSIZE -p ReadWritePaths    # correct it in a drop-in" + _RESTART,
        ("LimitFSIZE", "PrivateTmp", "ReadOnlyPaths", "InaccessiblePaths", "TemporaryFileSystem", "BindPaths"),
    ),
    KnownError(
        r"failed to map segment from shared object|cannot apply additional memory protection",
        "A library of the release cannot be loaded: its file system is mounted with noexec, or a policy or a limit of"
        " the memory prevents it",
        'sudo mount -o remount,exec "$(findmnt -no TARGET -T {prefix})"    # and remove noexec from /etc/fstab'
        + _RESTART,
        ("NoExecPaths", "ExecPaths", "MemoryDenyWriteExecute", *_MEMORY),
    ),
    KnownError(
        r"LiteLLM rejects (?P<path>\S+): (?!.*\(/opt/)",
        "LiteLLM does not load the configuration",
        "sudoedit {path}    # correct what the message names; then: sudo litellmctl start",
    ),
    KnownError(
        # With LoadCredential= it reads a copy.
        r"TLS_(?:CERT|KEY)_FILE=\S+: (?:Permission denied|No such file)",
        "The service cannot read the file, and its unit passes no copy: the variable was set without an install",
        "sudo litellmctl install --installed    # writes LoadCredential= into the unit, and starts the service",
    ),
    KnownError(
        r"/etc/litellm/\S+ can't be read\. The service runs as",
        "The user litellm, or the sandbox of the service, cannot read the configuration",
        "sudo litellmctl doctor --fix    # if it finds no wrong mode or owner: systemctl cat litellm",
        (*_PATHS, "User", "Group", "SupplementaryGroups"),
    ),
    KnownError(
        rf"No module named '?(?:{'|'.join(sorted(sys.stdlib_module_names))})\b",
        "The standard library of the release's Python is incomplete, or the user litellm cannot read it",
        "sudo apt-get install --reinstall $(dpkg -l 'libpython3*' | awk '/^ii/ {{print $2}}')    # or: sudo dnf"
        " reinstall 'python3*'; for another Python, reinstall that one; then: sudo litellmctl start",
    ),
    KnownError(
        r"No module named '?(?P<module>[\w.]+)",
        "A Python package or module is missing",
        _DAMAGED,
    ),
    KnownError(
        r"cannot open shared object file|file too short|invalid ELF header|undefined symbol|symbol lookup error"
        r"|version `[^']+' not found|bad marshal data|marshal data too short|bad magic number in"
        r"|source code string cannot contain null bytes|partially initialized module|cannot import name"
        r"|init_fs_encoding|No module named 'encodings'|error while loading shared libraries",
        "A file of the release or of its Python is missing or damaged",
        _DAMAGED,
    ),
    KnownError(
        r"NO_CERTIFICATE_OR_CRL_FOUND|\[X509|PEM lib|\[SSL\] .{0,60}load_verify|no certificate or crl found",
        "A CA file that a variable names has no usable certificate",
        "grep -nE 'SSL_CERT_FILE|SSL_CERT_DIR|CA_BUNDLE' {environment_file}    # correct the file that it names"
        + _RESTART,
    ),
    KnownError(
        r"Read-only file system(?:: '(?P<path>[^']+)')?",
        "The service cannot write: the file system is read-only, or its sandbox makes it so",
        "Let it write below /var/lib/litellm, or allow the path in a drop-in: ReadWritePaths=" + _RESTART,
        ("ReadOnlyPaths", "ProtectSystem", "ReadWritePaths", "StateDirectory", "CacheDirectory", "RuntimeDirectory"),
    ),
    KnownError(
        r"Failed to execute (?P<path>\S+): Permission denied|Failed at step EXEC",
        "systemd cannot execute the Python of the service or a command of a drop-in: permissions, also of a folder"
        " above it, or a noexec mount",
        "namei -l {python}    # every folder needs x for all; then: findmnt -no TARGET,OPTIONS -T {python}",
        (
            *("ExecStart", "ExecStartPre", "ExecStartPost", "NoExecPaths", "ExecPaths", "InaccessiblePaths"),
            *("RootDirectory", "SELinuxContext"),
        ),
    ),
    KnownError(
        r"Failed to set up mount namespacing|Failed at step NAMESPACE|Failed to set up namespac"
        r"|Failed to (?:set up|create) (?:user )?namespac",
        "systemd cannot create the sandbox: a path that a setting names is missing, or the kernel or the container"
        " denies namespaces",
        "journalctl -u litellm -n 20    # names the path; in a container see: docs/troubleshooting.md",
        _PATHS,
    ),
    KnownError(
        r"Changing to the requested working directory failed|Failed at step CHDIR",
        "The working directory of the service is missing or not accessible",
        "sudo install -d -o litellm -g litellm -m 0700 /var/lib/litellm && sudo litellmctl start",
        ("WorkingDirectory", "RootDirectory", "StateDirectory"),
    ),
    KnownError(
        r"Failed to load environment files|Failed at step CREDENTIALS|Failed to set up credentials",
        "A file or secret that the unit names is missing, or cannot be read or decrypted",
        "systemctl cat litellm | grep -nE 'EnvironmentFile|Credential'    # restore the file, or: sudo litellmctl"
        " install",
        ("EnvironmentFile", "LoadCredential", "LoadCredentialEncrypted", "SetCredentialEncrypted"),
    ),
    KnownError(
        r"Failed to determine (?:user|group|supplementary groups)|Failed at step (?:USER|GROUP)",
        "A user or group that the unit names does not exist",
        "sudo systemd-sysusers && sudo litellmctl start",
        ("User", "Group", "SupplementaryGroups"),
    ),
    KnownError(
        r"AppArmor|Failed at step (?:APPARMOR|SELINUX_CONTEXT|SMACK)",
        "The kernel rejects the security profile that the unit names",
        "sudo aa-status; sudo ausearch -m AVC -ts recent    # load the profile, or remove the setting",
        ("AppArmorProfile", "SELinuxContext", "SmackProcessLabel"),
    ),
    *(
        KnownError(
            rf"Failed at step {name.upper()}_DIRECTORY",
            f"systemd cannot create {path}: a file or a link has its path, or the file system is read-only",
            f"ls -ld {path}; findmnt -T {path}    # move what is there away; then: sudo litellmctl start",
            (f"{name.title()}Directory", *_PATHS),
        )
        for name, path in (
            ("state", "/var/lib/litellm"),
            ("cache", "/var/cache/litellm"),
            ("runtime", "/run/litellm"),
        )
    ),
    KnownError(
        r"Failed at step (?P<step>\w+) spawning",
        "systemd cannot set up the process of the service",
        "systemctl cat litellm; journalctl -u litellm -n 20    # correct the setting that belongs to this step",
    ),
    KnownError(
        r"was killed by SIG(?:SEGV|BUS|ILL|FPE|ABRT|SYS)",
        "A process crashed in a C library: a file of the release is damaged, or a callback uses one wrongly",
        _DAMAGED,
        ("SystemCallFilter", "SystemCallErrorNumber"),
    ),
    KnownError(
        r"was killed by SIGKILL before it was ready",
        "A worker was killed: by the kernel, because memory ran out, or by another program",
        "journalctl -k -n 50    # without memory: set a smaller NUM_WORKERS in .env, then: sudo litellmctl install",
        ("MemoryMax", "MemoryHigh", "OOMPolicy", "ManagedOOMMemoryPressure"),
    ),
    KnownError(
        r"exited with code \d+ before it was ready",
        "A worker exited without an error: a callback, or a library that it imports, calls os._exit()",
        "sudoedit {config}    # remove the callbacks one by one; then: sudo litellmctl start",
    ),
    KnownError(
        r"start(?:-pre)? operation timed out|not ready after START_TIMEOUT=",
        "The service did not become ready before its start timeout (TimeoutStartSec)",
        "Set a larger START_TIMEOUT in .env, then: sudo litellmctl install",
        ("TimeoutStartSec", "TimeoutSec"),
    ),
    KnownError(
        r"Address already in use|Cannot assign requested address|Address family not supported|cannot listen on",
        "The service cannot use its address",
        "sudo ss -ltnp; ip -brief address    # correct HOST or PORT in .env, then: sudo litellmctl install",
        ("RestrictAddressFamilies", "SocketBindDeny", "SocketBindAllow", "PrivateNetwork"),
    ),
    KnownError(
        r"Temporary failure in name resolution|Name or service not known",
        "The service cannot resolve a host name",
        "getent ahosts NAME; cat /etc/resolv.conf; grep hosts: /etc/nsswitch.conf    # repair it" + _RESTART,
        ("PrivateNetwork", "InaccessiblePaths", "RestrictAddressFamilies"),
    ),
    KnownError(
        r"PermissionError|Permission denied(?:: '(?P<path>[^']+)')?|Operation not permitted",
        "The user litellm, or the sandbox of the service, may not access a file or make a system call",
        "namei -l PATH    # PATH is in the message: the user litellm needs access to each part of it" + _RESTART,
        (*_PATHS, "User", "Group", "SystemCallFilter", "UMask", "RestrictNamespaces", "CapabilityBoundingSet"),
    ),
)
_PATTERNS = tuple((known, re.compile(known.regex)) for known in KNOWN_ERRORS)


@dataclass(frozen=True, slots=True)
class StartError:
    """The error that ended a start.

    `quote`: the exception or message. `known`: its meaning, or None. `groups`: those of its regular expression.
    `file`: `FILE:LINE` of the user's own code that raised it, or empty.
    """

    quote: str
    known: KnownError | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    file: str = ""

    def __str__(self) -> str:
        return f"{self.quote} ({self.file})" if self.file else self.quote

    @property
    def is_waiting(self) -> bool:
        """Whether the start waits for code that has not ended, as the main process reports it."""
        return "; still running: " in self.quote

    @property
    def is_explained(self) -> bool:
        """Whether the error names its cause: a known one, or a line of the user's code."""
        return self.known is not None or bool(self.file)


def find_start_error(entries: Iterable[Mapping[str, object]], user_code: str) -> StartError | None:
    """The last error among the journal entries of a start, one with a known meaning if there is one.

    Args:
        entries: of one start, as `journalctl -o json`, oldest first; also those of systemd on the unit.
        user_code: the folder of the user's own Python files, to name the line in them.
    """
    errors = [read_error(event.text, user_code) for event in read_events(entries) if _is_error(event)]
    explained = [error for error in errors if error.is_explained]
    return next(reversed(explained or errors), None)


def _is_error(event: LogEvent) -> bool:
    if _CONSEQUENCE.search(event.head) or (event.priority == WARNING and _LITELLM.match(event.head)):
        return False
    if event.from_systemd:
        return any(pattern.search(event.text) for _, pattern in _PATTERNS)
    return event.priority <= ERROR or _TRACEBACK in event.text or bool(_LOOKS_LIKE_ERROR.search(event.head))


def read_error(text: str, user_code: str) -> StartError:
    """The error that a message or a traceback is about; `user_code` as for `find_start_error`."""
    quote, file = exception_of(text), _own_frame(text, user_code)
    if place := _PLACE.search(quote):
        quote, file = quote[: place.start()].rstrip(), f"{place['path']}:{place['line']}"
    for known, pattern in _PATTERNS:
        match = pattern.search(quote)
        if match is not None:
            groups = {name: text for name, text in match.groupdict().items() if text}
            return StartError(quote, known, groups, file)
    return StartError(quote, file=file)


def find_output(entries: Iterable[Mapping[str, object]]) -> str:
    """The last line of a command before or after that of the service: unlike the service, it sets no priorities."""
    printed = (each for each in read_events(entries) if each.priority == INFO and not each.from_systemd)
    return next((exception_of(each.text) for each in reversed(tuple(printed))), "")


def find_crash(entries: Iterable[Mapping[str, object]], user_code: str) -> str:
    """Where a C library crashed, as faulthandler printed it: the innermost frame, and the user's own."""
    for event in read_events(entries):
        if "(most recent call first)" in event.head and (frames := _frames(event.text)):
            own = next((each for each in frames if each["path"].startswith(f"{user_code}/")), frames[0])
            places = dict.fromkeys(f"{each['path']}:{each['line']}" for each in (frames[0], own))
            return ", called by ".join(places)
    return ""


def _frames(text: str) -> list[re.Match[str]]:
    """The frames in files; those of Python's own importer show nothing."""
    return [frame for frame in _FRAME.finditer(text) if not frame["path"].startswith("<")]


def exception_of(text: str) -> str:
    """The exception of a traceback, with the first line of its message; the first line of another text."""
    *_, last = text.split(_TRACEBACK)
    if last == text:
        return _shorten(text.partition("\n")[0])
    lines = last.split("\n")
    frames = [number for number, line in enumerate(lines) if line.startswith((" ", "\t"))]
    # A SyntaxError shows the code, indented, before its message.
    after = lines[frames[-1] + 1 :] if frames else lines
    return _shorten(next((line for line in after if line.strip()), lines[-1]))


def _shorten(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= _MAX_QUOTE else f"{line[:_MAX_QUOTE]} …"


def _own_frame(text: str, folder: str) -> str:
    """`FILE:LINE` of the last frame in a folder; empty if the traceback has none."""
    found = [frame for frame in _frames(text) if frame["path"].startswith(f"{folder}/")]
    return f"{found[-1]['path']}:{found[-1]['line']}" if found else ""


def find_blamed(known: KnownError | None, lines: Iterable[UnitLine], quote: str) -> UnitLine | None:
    """The line of a drop-in that may have caused an error, the likeliest of several."""
    related = [each for each in lines if known is not None and each.name in known.settings]
    return max(related, key=lambda line: _shared_length(line.value, quote), default=None)


def _shared_length(value: str, quote: str) -> int:
    """The length of the longest path in a value that a path of a message is, is below, or ends with."""
    # A folder of systemd is named without those above it: StateDirectory=mine.
    words = re.findall(r"[^\s:\"']+", value)
    paths = (f"/{word.lstrip('-+/').rstrip('/')}" for word in words)
    return max((len(path) for path in paths if _has_path(quote, path)), default=0)


def _has_path(quote: str, path: str) -> bool:
    # systemd may put the root folder of the sandbox before a path.
    is_below, ends_with = rf"(?<![\w./-]){re.escape(path)}(?![\w-]|\.\w)", rf"{re.escape(path)}(?![\w/-]|\.\w)"
    return re.search(f"{is_below}|{ends_with}", quote) is not None
