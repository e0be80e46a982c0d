"""Recognize values that stand for a key which was never written: `CHANGE-ME`, `<your-key>`, `sk-...`. Pure.

A dummy for a server that needs no key (`none`, `not-needed`, `dummy`, `EMPTY`) is not one of them.
"""

from __future__ import annotations

import re

#: What keys of well-known providers start with. A placeholder often keeps it.
_PREFIX = (
    r"(?:sk-(?:ant-(?:api\d\d-)?|proj-|or-(?:v1-)?|lf-)?|pk-(?:lf-)?|gsk_|hf_|xai-|pplx-|r8_|ghp_|glpat-"
    r"|aiza(?:sy)?|akia|asia)?"
)
_WHOLE = re.compile(
    rf"""{_PREFIX}(?:
        <[^<>]+> | \[[\w .-]+\] | \{{\{{?[\w .-]+\}}?\}} | %\w+% | \$\w+   # <key>, [KEY], %KEY%, $KEY
      | (?=.*[x*.…])[x*.…_-]{{3,}}                                        # xxxx, sk-..., ***
      | my[-_]?(?:[a-z]+[-_])*(?:key|token|secret|password)(?:[-_]?\d{{1,4}})?   # my-secret-key
      | (?:the[-_])?api[-_]?key | (?:api|secret|master|access)[-_]key      # api_key
      | (?:some|any)[-_](?:[a-z]+[-_])*(?:key|token|secret|password|string)
      | 0{{8,}}                                                            # sk-00000000
      | todo | tbd | fixme | secret[-_]?here | redacted | placeholder | example | random
    )""",
    re.VERBOSE,
)
_PART = re.compile(
    r"""
        (?<![a-z])your(?![a-z])                                             # your-key
      | (?<![a-z])your(?:api|key|secret|token|master|password|openai|anthropic|azure)
      | (?<![a-z])(?:change|replace)[-_\s]?(?:me|this|it|with|in)(?![a-z]) | (?<![a-z])(?:changeit|fill[-_]?me)
      | (?<![a-z])(?:insert|enter|paste|put|fill)[-_\s](?:in|your|the|a|here|key|it)(?![a-z])
      | (?:key|token|secret|password|value)[-_\s]?(?:goes[-_\s]?)?here(?![a-z])
      | (?<![a-z])to[-_]be[-_](?:set|filled|changed|replaced|generated)
      | (?<![a-z])placeholder | \.\.\. | … | x{5,} | \*{3,}
      | \$\( | ^os\.environ                                                # a .env runs no commands
      | <[\w /.-]{2,}>
      | (?<![a-z])(?:generate|random)[-_\s](?:a|with|one|string|key|secret|value)(?![a-z])
    """,
    re.VERBOSE,
)
#: The keys of the documentation of AWS.
_AWS_EXAMPLE = re.compile(r"(?:AKIA|ASIA)[A-Z0-9]{9}EXAMPLE|\S{30}EXAMPLEKEY")
#: In a URL, what an example has in place of the name of a resource.
_IN_URL = re.compile(r"<[^<>]+>|(?<![a-z])your[-_]", re.IGNORECASE)
#: Keys that tutorials show, without the prefix.
_PUBLIC = frozenset(
    {"key", "secret", "password", "admin", "litellm", "master", "litellm-master", "litellm-master-key"}
)
_SEQUENCES = tuple(each * 8 for each in ("1234567890", "1234567890abcdef"))


def is_placeholder(value: str) -> bool:
    """Whether the value of a key is a placeholder from an example."""
    text = value.strip().strip("\"'")
    low = text.lower()
    if "://" in low:
        return _IN_URL.search(low) is not None
    if "\n" in text or (low.startswith("{") and '"' in low):
        return False  # a certificate, or a JSON document
    return bool(_WHOLE.fullmatch(low) or _PART.search(low) or _AWS_EXAMPLE.fullmatch(text))


def is_known_key(value: str) -> bool:
    """Whether a master key is a placeholder, or one that tutorials show: it protects nothing."""
    rest = value.strip().lower().removeprefix("sk-")
    is_sequence = len(rest) >= 4 and any(each.startswith(rest) for each in _SEQUENCES)
    return is_placeholder(value) or rest in _PUBLIC or is_sequence
