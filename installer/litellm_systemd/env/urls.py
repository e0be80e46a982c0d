"""URLs with a user and a password, read so that each program that gets one understands the same. Pure."""

from __future__ import annotations

import re

from litellm_systemd.errors import InputError

#: How to write a password in a URL.
ENCODE = "Percent-encode it: @ is %40, # is %23, / is %2F, ? is %3F, : is %3A, % is %25, a space is %20."

#: A host with a port, and a query that may have an @ in it. Without its name=, it would be the rest of a password.
_WITH_QUERY = re.compile(r"(?:\[[^]@/]*\]|[^:@/?]*):\d{1,5}(?:/[^?@]*)?\?\w+=.*", re.DOTALL)


def split_login(rest: str, position: str, remedy: str) -> tuple[str, str]:
    """The user with the password, and what follows the @, which must be the only one.

    Args:
        rest: the URL after its scheme.
        position: where it is written, for messages, which do not have the value.
        remedy: how to write a character that has a meaning in a URL.

    Raises:
        InputError: a character in it has such a meaning, and is not percent-encoded.
    """
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    has_query = _WITH_QUERY.fullmatch(rest)
    if "@" in rest and "@" not in authority and ":" in authority and not has_query:  # a / or ? in the password
        authority = rest
    login, _, location = authority.rpartition("@")
    location += rest[len(authority) :]
    found = next((each for each in "@#/?[]\\" if each in login), "")
    found = found or ("#" if "#" in location else "") or ("a space" if re.search(r"\s", rest) else "")
    if not found and re.search(r"%(?![0-9A-Fa-f]{2})", rest):
        found = "%"
    if found:
        raise InputError(f"{position} has {found} in it, probably in the password", remedy)
    return login, location


def split_port(location: str, position: str, default: int, remedy: str) -> tuple[str, int]:
    """The host, without the brackets of an IPv6 address, and the port, or `default`.

    Raises:
        InputError: it is no host with or without a port.
    """
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", location)
    if match is None or not 0 < int(match[2] or default) < 65_536:
        raise InputError(f"{position} has no valid host and port", remedy)
    return match[1].strip("[]"), int(match[2] or default)


def is_compose_name(host: str) -> bool:
    """Whether a host has the form of a service of a compose file: a name without a domain."""
    return re.fullmatch(r"[A-Za-z][\w-]*", host) is not None
