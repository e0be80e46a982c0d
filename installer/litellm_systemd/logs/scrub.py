"""Remove secrets from texts that leave the host, in every form that a secret can have there. Pure.

Known secrets are removed first, then what looks like one. Each secret keeps one placeholder in all texts, so that a
reader can see which are the same. What is a secret: `env.secrets`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote, quote_plus, unquote

import yaml

from litellm_systemd.env.secrets import LOGIN, find_secrets, find_yaml_secrets, is_secret_variable, split_assignments

#: Words that are no secret to search for: no text with these replaced can be read.
_COMMON = frozenset(
    (
        *("", "none", "null", "true", "false", "dummy", "empty", "disable", "require"),
        *("litellm", "postgres", "postgresql", "redis", "root", "admin", "bedrock", "openai", "anthropic", "claude"),
    )
)
_UNIT_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})|\\(.)")


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
