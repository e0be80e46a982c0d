"""Check how a `.env` connects to AWS: endpoints, proxy, private CA. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from litellm_systemd.env.dotenv import Dotenv
from litellm_systemd.env.variables import (
    AWS_BEDROCK_RUNTIME_ENDPOINT,
    ENDPOINT_URL,
    PATH,
    PROXY_URL,
    TABLE,
    Variable,
    is_loopback,
    names_of_type,
)
from litellm_systemd.errors import InputError

ENDPOINT = AWS_BEDROCK_RUNTIME_ENDPOINT.name
ENDPOINT_VARIABLES = names_of_type(ENDPOINT_URL)
PROXY_VARIABLES = names_of_type(PROXY_URL)
#: Variables that name a file or folder which the service reads.
FILE_VARIABLES = names_of_type(PATH)
#: botocore sends even requests for the instance metadata through a proxy, which would answer for its own host.
NEVER_PROXIED = ("169.254.169.254", "fd00:ec2::254", "127.0.0.1", "localhost")

#: What the service's sandbox hides: ProtectHome=yes and PrivateTmp=yes in units/litellm.service.j2.
_HIDDEN = re.compile(r"/(home|root|run/user|tmp|var/tmp)(/|$)")
_ENDPOINT_REGION = re.compile(r"(?:^|\.)bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.(?:vpce\.)?amazonaws\.com")


def check_network(dotenv: Dotenv, values: Mapping[str, str], region: str | None) -> list[str]:
    """Check URLs and paths. Return the warnings.

    Raises:
        InputError: an invalid URL, an endpoint of another region, or a path that the sandbox hides.
    """
    warnings = []
    for name in ENDPOINT_VARIABLES:
        if name in values:
            warnings += _check_endpoint(dotenv, values, name)
    _check_endpoint_region(dotenv, values, region)
    for name in PROXY_VARIABLES:
        if name in values:
            _check_proxy(dotenv, values, name)
    for variable in TABLE:
        if variable.type is PATH:
            _check_path(dotenv, values, variable)
    return warnings


def spare_metadata(values: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Extend NO_PROXY if a proxy is set, so that requests for metadata and to this host bypass it.

    Returns:
        The variables to set, none if NO_PROXY is complete, and the notes for the user.
    """
    if not any(name in values for name in PROXY_VARIABLES):
        return {}, []
    # urllib, requests and httpx use the lower-case name if both are set.
    names = [name for name in ("no_proxy", "NO_PROXY") if name in values] or ["NO_PROXY"]
    listed = [entry.strip() for entry in values.get(names[0], "").split(",") if entry.strip()]
    missing = [host for host in NEVER_PROXIED if host not in listed]
    if "*" in listed or not missing:
        return {}, []
    text = ",".join((*listed, *missing))
    note = f"NO_PROXY of the service also has {', '.join(missing)}: instance metadata and this host bypass the proxy."
    return dict.fromkeys(names, text), [note]


def _url(text: str, schemes: tuple[str, ...]) -> SplitResult | None:
    try:
        url = urlsplit(text)
        usable = url.scheme in schemes and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        return None
    return url if usable and not re.search(r"[\s\"'<>]", text) else None


def _check_endpoint(dotenv: Dotenv, values: Mapping[str, str], name: str) -> list[str]:
    url = _url(values[name], ("https", "http"))
    if url is None or url.path not in ("", "/") or url.query or url.username:
        raise InputError(
            f"{dotenv.where(name)}: {name} is not the URL of an endpoint, which is https://HOST or"
            " https://HOST:PORT without a path",
            "Write it like https://vpce-0123.bedrock-runtime.us-east-1.vpce.amazonaws.com",
        )
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        return [f"{name} uses http://: the traffic is not encrypted."]
    return []


def _check_endpoint_region(dotenv: Dotenv, values: Mapping[str, str], region: str | None) -> None:
    found = _ENDPOINT_REGION.search(urlsplit(values.get(ENDPOINT, "")).hostname or "")
    if found and region is not None and found[1] != region:
        raise InputError(
            f"{dotenv.where(ENDPOINT)}: {ENDPOINT} is in {found[1]}, but the region is {region}: requests would be"
            " signed for the wrong region",
            f"Set AWS_REGION_NAME={found[1]}, or use the endpoint of {region}.",
        )


def _check_proxy(dotenv: Dotenv, values: Mapping[str, str], name: str) -> None:
    if _url(values[name], ("http", "https")) is None:
        # Without the value, which may contain a password.
        raise InputError(
            f"{dotenv.where(name)}: {name} is not the URL of a proxy",
            "Write it with scheme and port, like http://proxy.example:3128",
        )
    twin = name.swapcase()
    if twin in values and values[twin] != values[name]:
        raise InputError(
            f"{dotenv.where(name)}: {name} and {twin} ({dotenv.where(twin)}) name different proxies",
            "Keep one of the two.",
        )


def _check_path(dotenv: Dotenv, values: Mapping[str, str], variable: Variable[str | None]) -> None:
    name, path = variable.name, variable.read(values, dotenv.where)
    if path is not None and _HIDDEN.match(path):
        raise InputError(
            f"{dotenv.where(name)}: the sandbox of the service hides {name}={path} (/home, /root, /tmp)",
            f"Copy the file to /etc/litellm, readable by the group litellm, and set {name}=/etc/litellm/NAME",
        )
