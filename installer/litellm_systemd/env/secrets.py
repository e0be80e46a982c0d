"""Decide what a secret is, mask it, and remove it from texts that leave the host. Pure.

The only rule set: differences, messages, journal excerpts, reports and the archive for a bug report use it. A value
is secret by its name, by its form, or, in an environment, because nothing shows that it is harmless.

`Scrubber` finds secrets in every form that they can have in a text. Known secrets are removed first, then what looks
like one. Each secret keeps one placeholder in all texts, so that a reader can see which are the same.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus, unquote

import yaml

from litellm_systemd.bounded_yaml import check_size
from litellm_systemd.contract import REFERENCE
from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.env.variables import SECRET_NAMES, TABLE

#: Replaces a secret.
MASK = "***"

_SECRET_NAME = re.compile(
    r"key(?!ring|word|id\b|_management_s|_header_name)|secret|(?<!per_)token(?!s|izer|_limit|_cost)|passw|pwd|credential|salt|auth(?!or)|cookie|dsn"
    r"|connection(?!s|_?(?:pool|limit|timeout))|webhook|signature|authorization",
    re.IGNORECASE,
)
#: Variables of the table whose values may be shown; `redact` masks a password in them.
_PUBLIC_VARIABLES = frozenset(name for each in TABLE for name in each.names) - SECRET_NAMES
#: Values of a secret name that mean "none", or that are a switch.
_NO_VALUE = frozenset({"", "null", "none", "~", "true", "false", "yes", "no", "on", "off"})
#: Keys of a configuration whose values are ids of models, which can look like a random string.
_PUBLIC_KEY = re.compile(r"(?:base_)?model(?:_name|_group_alias)?", re.IGNORECASE)
#: Mappings of a configuration whose keys do not describe the values: chosen by the user, or kinds of alerts.
_OWN_NAMES = re.compile(r"headers|environment_variables|webhook", re.IGNORECASE)
#: Variables outside of the table that say where or how, and are needed to understand a difference.
_PUBLIC_NAME = re.compile(r"(?:\w+_)?(?:HOST|REGION|VERSION|MODE|FORMAT|ENDPOINT)|OTEL_SERVICE_NAME|TZ|LANG|LC_\w+")
#: A run of letters and digits, which is random if it has both, unless it is written by hand.
_RUN = re.compile(r"[A-Za-z0-9+/_]{16,}")
#: Such a run that is written by hand: words, each with a short number after it, as in a path or a module.
_WORDS = re.compile(r"/?(?:[a-z]+\d{0,3}[/_])*(?:[a-z]+\d{0,3})?")
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
#: What a variable of any name may hold without being secret: a switch, a number, a region, a path, an address.
_HARMLESS = re.compile(
    r"true|false|yes|no|on|off|[\d.:]+|[A-Z]{2,8}|[a-z]{2}(?:-[a-z]+)+-\d|(?:%[A-Z])?/[\w./-]+|https?://[\w.:\[\]-]+/?"
    r"|[\w./-]+\.ya?ml|localhost|\[?::1?\]?"
)
#: User and password, or a token, in a URL.
#: A password may have an @ in it, or a slash, but then the colon before it is not that of a port.
LOGIN = re.compile(r"(?<=://)(?:[^/\s\"'<>]+|[^/@:\s\"'<>]*:(?!\d{1,5}/)[^\s\"'<>]+)(?=@)")
#: Before the value, in a form: Python's bytes, or the type that hides a value from `repr`.
_WRAPPED = r"(?:b(?=[\"'])|SecretStr\()?[\"'\\]*"
#: A value that is none, since a key that is missing is a cause to look for, or a switch.
_IS_NONE = r"(?:None|null|true|false)(?![^\s\"',;)}\]])"
#: What looks like a secret in any position: the group `it`, or the whole match.
_FORMS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?s:-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z))",
        r"Bearer(?:\s|%20|\\t)+(?P<it>[A-Za-z0-9+/_.=~%-]{6,})",
        # A word in small letters, as in "Basic authentication required", is prose.
        r"(?:Basic|Digest|Negotiate)(?:\s|%20|\\t)+(?P<it>(?!(?-i:[a-z]+)\b)[A-Za-z0-9+/_.=~%-]{6,})",
        r"\bauthorization[\"'\\]*\s*[=:]\s*[\"'\\]*(?:[a-z]+ )?(?P<it>(?!\*\*\*|<secret-)[^\s\"',;\\<>{}]{8,})",
        r"\b(?:set-)?cookie[\"'\\]*\s*[=:]\s*[\"'\\]*(?P<it>[^\s\"'\\=]+=[^\r\n\"'\\]+)",
        r"\bapi key provided:\s*(?P<it>[^\s\"',]{4,})",
        r"(?<![\w-])--[\w-]*(?:key|token|secret|password)\s+[\"']?(?P<it>[^\s\"'-][^\s\"']{5,})",
        r"\bsk-[A-Za-z0-9_.-]{6,}",
        r"\b(?-i:(?:AKIA|ASIA)[A-Z0-9]{12,})",
        r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+)*",
        r"\bbedrock-api-key-[A-Za-z0-9+/=_-]+",
        r"\b(?:gh[pousr]_|glpat-|xox[a-z]-|hf_|AIza)[A-Za-z0-9_-]{10,}",
        r"X-Amz-(?:Signature|Credential|Security-Token)=(?P<it>[^&\s\"']+)",
        r"https://hooks\.slack\.com/(?P<it>[^\s\"'<>]+)",
        # From the start of a word alone: a search from each letter of a long one would take minutes.
        r"(?<![\w-])[\w-]*(?:api[_-]?key|secret|passw(?:or)?d|pwd|webhook|(?:access|session|security|auth)[_-]?token"
        r"|master[_-]?key|salt)[\w-]*"
        rf"[\"'\\]*\s*[=:]\s*{_WRAPPED}(?P<it>(?!os\.environ/|<secret-|\*\*\*|{_IS_NONE})[^\s\"',;&\\<>}}]{{4,}})",
        rf"(?:token|signature|key|credential)[\"'\\]*\s*[=:]\s*{_WRAPPED}(?P<it>(?!os\.environ/|<secret-)[^\s\"',&\\<>}}]{{16,}})",
    )
)
#: A line `NAME=value` or `name: value`, which may be an item of a list or commented out.
_NAMED_LINE = re.compile(r"([-+#\s]*[\"']?([\w.][\w.-]*)[\"']?\s*[:=]\s*)(\S.*)?")
_ITEM_LINE = re.compile(r"([#\s]*-\s+)(\S.*)")
_BLOCK = re.compile(r"[|>][-+\d]*(?:\s+#.*)?")

_ASSIGNMENT = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'|(\S+)")

#: Words that are no secret to search for: no text with these replaced can be read.
_COMMON = frozenset(
    (
        *("", "none", "null", "true", "false", "dummy", "empty", "disable", "require"),
        *("litellm", "postgres", "postgresql", "redis", "root", "admin", "bedrock", "openai", "anthropic", "claude"),
    )
)
_UNIT_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})|\\(.)")


def is_secret_name(name: str) -> bool:
    """Whether the name of a variable, a key or a header shows that its value is secret."""
    return _SECRET_NAME.search(name) is not None


def is_secret_literal(name: str, value: str) -> bool:
    """Whether a value in a configuration is secret; a reference to a variable is not."""
    if value.startswith(REFERENCE) or value.strip().lower() in _NO_VALUE:
        return False
    return is_secret_name(name) or (not _PUBLIC_KEY.fullmatch(name) and _looks_secret(value))


def is_secret_variable(name: str, value: str) -> bool:
    """Whether the value of an environment variable is secret.

    The table decides for the variables that it has. LiteLLM knows many others, and so may the user's own code: their
    values are secret unless they are harmless.
    """
    if value.strip().lower() in _NO_VALUE or name in _PUBLIC_VARIABLES or is_reference(value):
        return False
    if name in SECRET_NAMES or is_secret_name(name) or _looks_secret(value):
        return True
    return _PUBLIC_NAME.fullmatch(name) is None and _HARMLESS.fullmatch(value) is None


def holds_secret(name: str, value: str) -> bool:
    """Whether the value of an environment variable must be encrypted: it is a secret, or a part of it is."""
    return is_secret_variable(name, value) or (redact(value) != value and not is_reference(value))


def mask_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables with MASK for each value that holds a secret."""
    return {name: MASK if holds_secret(name, value) else value for name, value in variables.items()}


def _looks_secret(value: str) -> bool:
    if _UUID.search(value):
        return True
    runs = (match[0] for match in _RUN.finditer(value))
    return any(re.search(r"[0-9]", run) and re.search(r"[A-Za-z]", run) and not _WORDS.fullmatch(run) for run in runs)


def find_secrets(text: str) -> Iterator[tuple[int, int]]:
    """The position, start and end, of each part of a text that has the form of a secret."""
    for pattern in _FORMS:
        for match in pattern.finditer(text):
            yield match.span(match.lastgroup or 0)


def redact(text: str, *known: str) -> str:
    """The text with MASK for each of the `known` secrets and for each part that has the form of a secret."""
    for secret in known:
        if secret:
            text = text.replace(secret, MASK)
    spans = [*find_secrets(text), *(match.span() for match in LOGIN.finditer(text))]
    return _mask_spans(text, spans)


def _mask_spans(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with MASK for each span, and the same number of lines as before."""
    parts, position = [], 0
    for start, end in sorted(spans):
        if end <= position:
            continue
        start = max(start, position)
        parts += [text[position:start], _mask_lines(text[start:end])]
        position = end
    return "".join((*parts, text[position:]))


def _mask_lines(secret: str) -> str:
    first, *others = secret.split("\n")
    masked = (line[: len(line) - len(line.lstrip())] + MASK if line.strip() else line for line in others)
    return "\n".join((MASK if first else "", *masked))


@dataclass(frozen=True, slots=True)
class SecretScalar:
    """A secret value in a YAML file: its key, the value, and its position in the text."""

    name: str
    value: str = field(repr=False)
    start: int
    end: int


def find_yaml_secrets(text: str) -> tuple[SecretScalar, ...]:
    """The secrets of a LiteLLM configuration: values below a secret name, in a list as well, or with a secret's form.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    check_size(text)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    found = {} if root is None else {each.start: each for each in _walk(root, "", set())}
    return tuple(found.values())


def _walk(node: yaml.Node, name: str, seen: set[int], *, is_own: bool = False) -> Iterator[SecretScalar]:
    """The secrets at or below a node. `is_own`: the user chose `name`, as in a mapping of headers."""
    if isinstance(node, yaml.ScalarNode):
        value = str(node.value)
        is_secret = is_secret_literal(name, value)
        if is_own and not value.startswith(REFERENCE):
            is_secret = is_secret_variable(name, value)
        if is_secret:
            yield SecretScalar(name, value, node.start_mark.index, node.end_mark.index)
        return
    if id(node) in seen:  # an alias, possibly to a node that contains it
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        own = _OWN_NAMES.search(name) is not None
        for key, value_node in node.value:
            yield from _walk(value_node, str(key.value), seen, is_own=own)
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _walk(each, name, seen, is_own=is_own)


def mask_yaml(text: str) -> str:
    """A LiteLLM configuration with its secrets masked, line by line the same as before."""
    try:
        found = find_yaml_secrets(text)
    except yaml.YAMLError:
        return mask_lines(text)
    masked = _mask_spans(text, ((each.start, each.end) for each in found))
    # A comment may repeat a secret, or hold lines that are switched off.
    masked = redact(masked, *(each.value for each in found if len(each.value) >= 8))
    lines, indent = masked.split("\n"), -1
    for number, line in enumerate(lines):
        lines[number], indent = _mask_line(line, indent) if line.lstrip().startswith("#") else (line, -1)
    return "\n".join(lines)


def mask_lines(text: str) -> str:
    """A text of lines, such as a unit file or a broken YAML file, with its secrets masked, line by line as before."""
    lines, indent, setting = [], -1, ""
    for line in redact(text).split("\n"):
        if setting and not line.startswith(("#", ";")):  # systemd skips comments between continued lines
            lines.append(_mask_continued(setting, line))
            setting = setting if line.endswith("\\") else ""
            continue
        masked, indent = _mask_line(line, indent)
        lines.append(masked)
        named = _NAMED_LINE.fullmatch(line)
        if named and line.endswith("\\"):
            setting = named[2]
    return "\n".join(lines)


def _mask_continued(setting: str, line: str) -> str:
    """A line that continues the one before (systemd.syntax(7))."""
    if is_secret_name(setting):
        return MASK
    if setting != "Environment":
        return line
    # Without a name, it is the rest of a value in quotes.
    return _mask_assignments(line) if "=" in line else MASK


def _mask_line(line: str, indent: int) -> tuple[str, int]:
    """The masked line, and the indentation of the secret name whose list, block or text continues after it, or -1."""
    text = line.lstrip("# \t")
    own = len(line) - len(text)
    item = _ITEM_LINE.fullmatch(line)
    if indent >= 0 and text and (own > indent or (own == indent and item)):
        if item is None or ":" not in item[2]:
            return (item[1] if item else line[:own]) + MASK, indent
    elif text:
        indent = -1
    named = _NAMED_LINE.fullmatch(line)
    if named is None:
        return line, indent
    head, name, value = named.groups()
    if name == "Environment" and value and "=" in head:
        return head + _mask_assignments(value), indent
    if not is_secret_name(name):
        return line, indent
    column = len(head) - len(head.lstrip("-+# \t"))
    if value is None or _BLOCK.fullmatch(value):
        return line, column
    if value != MASK and is_secret_literal(name, value.strip("\"',{}[]")):
        return head + MASK, column
    return line, column if value == MASK else indent


def split_assignments(value: str) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """The names and values of `Environment=` in a unit file, as they are written, with the position of each value."""
    for match in _ASSIGNMENT.finditer(value):
        group = match.lastindex or 0
        name, found, content = match[group].partition("=")
        if found:
            start = match.start(group) + len(name) + 1
            yield name, content, (start, start + len(content))


def _mask_assignments(value: str) -> str:
    return _mask_spans(
        value, (span for name, content, span in split_assignments(value) if is_secret_variable(name, content))
    )


class Scrubber:
    """Replaces secrets, those that it has learned and those that it recognizes, in any number of texts."""

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}
        self._forms: list[tuple[str, str]] | None = None

    def learn(self, name: str, value: str) -> None:
        """Add a secret. Its placeholder has `name` in it, the first one if there are several."""
        value = value.strip()
        if len(value) >= 4 and value.lower() not in _COMMON and value not in self._labels:
            self._labels[value] = f"<secret-{len(self._labels) + 1} {name}>"
            self._forms = None
            for line in value.splitlines():
                if line != value and len(line) >= 12:
                    self._labels.setdefault(line.strip(), self._labels[value])

    def learn_spelling(self, value: str, text: str) -> None:
        """Add the spelling of a known secret in a file that differs from the parsed value."""
        label = self._labels.get(value.strip())
        if label and text not in self._labels:
            self._labels[text] = label
            self._forms = None

    def placeholder(self, value: str) -> str:
        """The replacement of a secret; one too short to be searched for has no name."""
        return self._labels.get(value.strip(), "<kept back>")

    def learn_variables(self, variables: Mapping[str, str]) -> None:
        """Add the secret variables of an environment."""
        for name, value in variables.items():
            if is_secret_variable(name, value):
                self.learn(name, value)
            self._learn_logins(name, value)

    def learn_yaml(self, text: str) -> None:
        """Add the secrets of a configuration, and how the file writes them: folded over lines, with escapes."""
        self._learn_logins("configuration", text)
        # What looks like a secret is also found in an invalid file.
        with contextlib.suppress(yaml.YAMLError):
            for found in find_yaml_secrets(text):
                self.learn(found.name, found.value)
                written = text[found.start : found.end].strip()
                if found.value not in written:
                    self.learn_spelling(found.value, written)

    def learn_unit(self, text: str) -> None:
        """Add what a unit file or a drop-in sets by Environment=, as systemd reads it, or by SetCredential=."""
        for line in text.replace("\\\n", " ").splitlines():
            name, _, value = (part.strip() for part in line.partition("="))
            if name == "Environment":
                for variable, content, _span in split_assignments(value):
                    self.learn_variables({variable: _unescape(content)})
                    self.learn_spelling(_unescape(content), content)
            elif name in ("SetCredential", "SetCredentialEncrypted"):
                credential, _, content = value.partition(":")
                self.learn(credential, _unescape(content))
                self.learn_spelling(_unescape(content), content)

    def _learn_logins(self, name: str, text: str) -> None:
        for login in LOGIN.findall(text):
            password = login.partition(":")[2] or login
            for each in (password, unquote(password)):
                self.learn(name, each)

    def scrub(self, text: str) -> str:
        """The text without secrets."""
        for start, end in find_secrets(text):
            self.learn("recognized", text[start:end])
        self._learn_logins("in a URL", text)
        for form, label in self._all_forms():
            text = text.replace(form, label)
        return text

    def _all_forms(self) -> list[tuple[str, str]]:
        if self._forms is None:
            found: dict[str, str] = {}
            for secret, label in self._labels.items():
                for form in forms_of(secret):
                    found.setdefault(form, label)
            # A secret may be a part of another one.
            self._forms = sorted(found.items(), key=lambda pair: -len(pair[0]))
        return self._forms


def forms_of(secret: str) -> Iterator[str]:
    """A secret as is, in JSON, URLs, Python's and systemd's escapes, hexadecimal, and base64 at each alignment."""
    quoted = (quote(secret, safe=""), quote(secret), quote_plus(secret))
    escaped = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1])
    yield from dict.fromkeys(
        (
            secret,
            *quoted,
            *(re.sub("%..", lambda match: match[0].lower(), each) for each in quoted),
            *escaped,
            *(json.dumps(each)[1:-1] for each in escaped),
            secret.replace("/", "\\/"),
            secret.encode("unicode_escape").decode(),
            secret.encode().hex(),
            secret.encode().hex().upper(),
            *_base64_forms(secret.encode()),
        )
    )


def _base64_forms(secret: bytes) -> Iterator[str]:
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + secret).decode()
        # Without the characters that bits of the text before and after change.
        inner = whole[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6]
        if len(inner) >= 4:
            yield inner
            yield inner.replace("+", "-").replace("/", "_")
            yield quote(inner, safe="")


def _unescape(text: str) -> str:
    """A value of a unit file as the process gets it: systemd.syntax(7)."""
    return _UNIT_ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else match[2], text.replace("%%", "%"))
