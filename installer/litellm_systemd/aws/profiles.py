"""Read profiles of a user's ~/.aws. This package is the only one that uses botocore."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from litellm_systemd.env.expiry import parse_moment
from litellm_systemd.errors import InputError, MissingError, PermissionDenied


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key pair of a profile; the profile's region and the pair's end are None if the profile doesn't have them."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str | None = None
    end: datetime | None = None


def blank_session() -> Any:
    """Return a botocore session that uses neither the profile nor the files of the calling user."""
    from botocore.session import Session

    session = Session()
    session.register_component("data_loader", _loader())
    for name, value in {"profile": None, "config_file": os.devnull, "credentials_file": os.devnull}.items():
        session.get_component("config_store").set_config_variable(name, value)
    return session


@cache
def _loader() -> Any:
    """Return one loader of botocore's service descriptions, which caches them for all clients."""
    from botocore.loaders import create_loader

    return create_loader()


def proxies_for(host: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies of `environ` by scheme, as botocore expects them; none if its NO_PROXY contains the host."""
    named = {
        scheme: environ.get(f"{scheme}_proxy") or environ.get(f"{scheme.upper()}_PROXY") or ""
        for scheme in ("http", "https")
    }
    without = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if without and proxy_bypass_environment(host, {"no": without}):
        return {}
    return {scheme: address for scheme, address in named.items() if address}


def read_profile(name: str, home: Path) -> Credentials:
    """Return the key pair of a profile in `home`/.aws. As in the AWS CLI, `credentials` has precedence over `config`.

    Raises:
        MissingError: the files or the profile don't exist.
        InputError: the profile has no key pair; the message says what it has instead.
        PermissionDenied: a file can't be read.
    """
    credentials, config = home / ".aws" / "credentials", home / ".aws" / "config"
    of_config, of_credentials = _profiles(config, headed=True), _profiles(credentials)
    found = {**_texts(of_config.get(name, {})), **_texts(of_credentials.get(name, {}))}
    if not found:
        known = ", ".join(sorted({*of_config, *of_credentials})) or "none"
        raise MissingError(
            f"there is no profile {name} in {credentials}",
            f"Found: {known}. 'aws configure --profile {name}' adds it.",
        )
    if not found.get("aws_access_key_id") or not found.get("aws_secret_access_key"):
        raise InputError(f"the profile {name} in {home / '.aws'} {_what_it_is(found)}", _KEY_PAIR_HINT)
    return Credentials(
        found["aws_access_key_id"],
        found["aws_secret_access_key"],
        found.get("aws_session_token"),
        found.get("region"),
        next((end for name in _ENDS if (end := parse_moment(found.get(name, "")))), None),
    )


#: Names under which tools store the end of temporary pairs in profiles; the AWS CLI itself has none.
_ENDS = (
    *("x_security_token_expires", "aws_session_expiration", "aws_expiration", "aws_credential_expiration"),
    "expiration",
)
_KEY_PAIR_HINT = (
    "A service needs a key pair of its own (aws_access_key_id and aws_secret_access_key), or on EC2 an IAM role:"
    " CONFIG_FILE=iam_role_config.yml. For a day or so 'aws configure export-credentials --profile NAME --format"
    " env-no-export' prints lines for .env."
)


def _what_it_is(found: dict[str, str]) -> str:
    if "credential_process" in found:
        return "runs a program for its credentials (credential_process), which the service's sandbox can't run"
    if "sso_session" in found or "sso_start_url" in found:
        return "signs in through SSO, which needs a person at a browser"
    if "login_session" in found:
        return "signs in by 'aws login', which needs a person at a browser"
    if "role_arn" in found:
        return "assumes a role and has no key pair of its own"
    return "has no complete key pair"


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): value.strip() for key, value in values.items() if isinstance(value, str)}


def _profiles(path: Path, *, headed: bool = False) -> dict[str, dict[str, Any]]:
    """Return the profiles of a file by name. `headed`: sections are "[profile NAME]", as in `config`."""
    from botocore.configloader import build_profile_map, raw_config_parse
    from botocore.exceptions import ConfigNotFound, ConfigParseError

    try:
        path.open("rb").close()  # botocore ignores a file that can't be read
        found: dict[str, dict[str, Any]] = raw_config_parse(str(path))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ConfigNotFound):
        return {}
    except PermissionError:
        raise PermissionDenied(f"{path}: can't be read by this user", "Run it as the user who owns it.") from None
    except ConfigParseError:
        raise InputError(
            f"{path}: not in the format of the AWS CLI", "Fix it, or run 'aws configure' again."
        ) from None
    return build_profile_map(found)["profiles"] if headed else found
