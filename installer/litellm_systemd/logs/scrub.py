"""Take secrets out of texts that go to strangers, in whatever form they stand there. Pure.

What is known to be secret, by its place, goes first; then whatever looks like a secret. Each keeps one placeholder
throughout, so that it can still be seen which are the same.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

import yaml

from litellm_systemd.gateway.config_types import REFERENCE

_SECRET_NAME = re.compile(
    r"key(?!ring|word|id\b)|secret|token(?!s)|passw|pwd|credential|salt|auth|cookie|dsn|connection|webhook|signature",
    re.IGNORECASE,
)
#: Values that stand in the place of a secret and are none, and words without which no such text can be read.
_NONE = frozenset(
    (
        *("", "none", "null", "true", "false", "dummy", "empty", "disable", "require"),
        *("litellm", "postgres", "postgresql", "redis", "root", "admin", "bedrock", "openai", "anthropic", "claude"),
    )
)
#: Mappings of a configuration whose keys are the user's own words, and say nothing of the values.
_OWN_NAMES = re.compile(r"headers|environment_variables", re.IGNORECASE)
#: A run of letters and digits that nobody would write by hand.
_RUN = re.compile(r"(?=[A-Za-z0-9+/_]*\d)(?=[A-Za-z0-9+/_]*[A-Za-z])[A-Za-z0-9+/_]{16,}")
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
#: What a variable of any name may hold without being secret: a switch, a number, a region, a path, an address.
_HARMLESS = re.compile(
    r"true|false|yes|no|on|off|[\d.:]+|[A-Z]{2,8}|[a-z]{2}(?:-[a-z]+)+-\d|(?:%[A-Z])?/[\w./-]+|https?://[\w.:\[\]-]+/?|[\w-]+\.ya?ml"
    r"|localhost|\[?::1?\]?",
)
_UNIT_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})|\\(.)")
_LOGIN = re.compile(r"(?<=://)[^/@\s\"'<>]+(?=@)")
#: What looks like a secret wherever it stands; the group `it`, or all.
_LOOKS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        r"(?:Bearer|Basic|Digest|Negotiate)(?:\s|%20|\\t)+(?P<it>[A-Za-z0-9+/_.=~%-]{6,})",
        r"\bsk-[A-Za-z0-9_.-]{6,}",
        r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}",
        r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+)*",
        r"\bbedrock-api-key-[A-Za-z0-9+/=_-]+",
        r"\b(?:gh[pousr]_|glpat-|xox[a-z]-|hf_|AIza)[A-Za-z0-9_-]{10,}",
        r"X-Amz-(?:Signature|Credential|Security-Token)=(?P<it>[^&\s\"']+)",
        r"[\w-]*(?:api[_-]?key|secret|passw(?:or)?d|access[_-]?token|session[_-]?token|master[_-]?key)[\w-]*"
        r"[\"'\\]*\s*[=:]\s*[\"'\\]*(?P<it>(?!os\.environ/|<secret-)[^\s\"',;&\\<>}]{4,})",
    )
)


class Scrubber:
    """Takes the secrets that it was told, and those that it recognizes, out of any number of texts."""

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}
        self._forms: list[tuple[str, str]] | None = None

    def learn(self, name: str, value: str) -> None:
        """A secret and the name by which its placeholder goes. Of several names the first one counts."""
        value = value.strip()
        if len(value) >= 4 and value.lower() not in _NONE and value not in self._labels:
            self._labels[value] = f"<secret-{len(self._labels) + 1} {name}>"
            self._forms = None
            for line in value.splitlines():
                if line != value and len(line) >= 12:
                    self._labels.setdefault(line.strip(), self._labels[value])

    def learn_spelling(self, value: str, text: str) -> None:
        """How a secret that is known stands in a file, where a reader of that file makes something else of it."""
        label = self._labels.get(value.strip())
        if label and text not in self._labels:
            self._labels[text] = label
            self._forms = None

    def placeholder(self, value: str) -> str:
        """What stands for a value that has to be kept back; one too short to be searched for has no name."""
        return self._labels.get(value.strip(), "<kept back>")

    def learn_variables(self, variables: Mapping[str, str]) -> None:
        """The variables of an environment: all whose names or values don't clearly say that they are harmless."""
        for name, value in variables.items():
            if is_secret_variable(name, value):
                self.learn(name, value)
            self._learn_login(name, value)

    def learn_document(self, data: Any, name: str = "configuration") -> None:
        """The literals of a configuration that stand under a secret's name, or look like a secret."""
        if isinstance(data, Mapping):
            for key, value in data.items():
                if isinstance(value, str) and _OWN_NAMES.search(name) and not value.startswith(REFERENCE):
                    self.learn_variables({str(key): value})
                elif isinstance(value, str | int) and not isinstance(value, bool):
                    self._learn_literal(str(key), str(value))
                else:
                    self.learn_document(value, str(key))
        elif isinstance(data, list):
            for value in data:
                if isinstance(value, str):
                    self._learn_literal(name, value)
                else:
                    self.learn_document(value, name)

    def _learn_literal(self, name: str, value: str) -> None:
        if not value.startswith(REFERENCE) and (_sounds_secret(name) or _looks_secret(value)):
            self.learn(name, value)
        self._learn_login(name, value)

    def _learn_login(self, name: str, value: str) -> None:
        for login in _LOGIN.findall(value):
            password = login.partition(":")[2] or login
            for each in (password, unquote(password)):
                self.learn(name, each)

    def scrub(self, text: str) -> str:
        """The text without secrets."""
        for pattern in _LOOKS:
            for match in pattern.finditer(text):
                self.learn("recognized", match[match.lastgroup or 0])
        for login in _LOGIN.findall(text):
            self._learn_login("in a URL", f"://{login}@")
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


def is_secret_variable(name: str, value: str) -> bool:
    """Whether a variable's value has to be kept back: it may be one that nobody here knows the name of."""
    return _sounds_secret(name) or _looks_secret(value) or _HARMLESS.fullmatch(value) is None


def _sounds_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _looks_secret(value: str) -> bool:
    return bool(_RUN.search(value) or _UUID.search(value))


def forms_of(secret: str) -> Iterator[str]:
    """A secret as it is, in JSON, URLs, Python's and systemd's escapes, hexadecimal, and base64 at each alignment."""
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
        # Without the characters into which bits of what comes before and after go.
        inner = whole[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6]
        if len(inner) >= 4:
            yield inner
            yield inner.replace("+", "-").replace("/", "_")
            yield quote(inner, safe="")


def learn_unit(scrubber: Scrubber, text: str) -> None:
    """What a unit file or a drop-in sets: by Environment=, with quotes and escapes as systemd reads them, or by
    SetCredential=.
    """
    for line in text.replace("\\\n", " ").splitlines():
        name, _, value = (part.strip() for part in line.partition("="))
        if name == "Environment":
            for each in re.findall(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'|(\S+)", value):
                variable, _, content = "".join(each).partition("=")
                scrubber.learn_variables({variable: _meant(content)})
                scrubber.learn_spelling(_meant(content), content)
        elif name in ("SetCredential", "SetCredentialEncrypted"):
            credential, _, content = value.partition(":")
            scrubber.learn(credential, _meant(content))
            scrubber.learn_spelling(_meant(content), content)


def _meant(text: str) -> str:
    """A value of a unit file as the process gets it: systemd.syntax(7)."""
    return _UNIT_ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else match[2], text.replace("%%", "%"))


def learn_yaml(scrubber: Scrubber, text: str) -> None:
    """The secrets of a configuration, also where the file has them folded over lines or with escapes."""
    # What looks like a secret is found in a broken file all the same.
    with contextlib.suppress(yaml.YAMLError):
        scrubber.learn_document(yaml.safe_load(text))
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.ScalarToken):
                written = text[token.start_mark.index : token.end_mark.index].strip()
                if token.value not in written:
                    scrubber.learn_spelling(token.value, written)
