"""The only user of boto3 and botocore: profiles of a user's ~/.aws, and what the instance says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litellm_systemd.errors import InputError, MissingError, PermissionDenied


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key pair as a profile holds it, and the profile's region, if it names one."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str | None = None


def read_profile(name: str, home: Path) -> Credentials:
    """The key pair of a profile in `home`/.aws, credentials before config as the AWS CLI has it.

    Raises:
        MissingError: there are no such files, or no such profile in them.
        InputError: the profile holds no key pair; the message says what it holds instead.
        PermissionDenied: a file can't be read.
    """
    credentials, config = home / ".aws" / "credentials", home / ".aws" / "config"
    # In config, every profile but the default one is headed "[profile NAME]".
    section = name if name == "default" else f"profile {name}"
    found = {**_section(config, section), **_section(credentials, name)}
    if not found:
        known = ", ".join(sorted(_profiles(credentials))) or "none"
        raise MissingError(
            f"there is no profile {name} in {credentials}",
            f"Found: {known}. 'aws configure --profile {name}' adds it.",
        )
    if "aws_access_key_id" not in found or "aws_secret_access_key" not in found:
        raise InputError(f"the profile {name} in {home / '.aws'} {_what_it_is(found)}", _KEY_PAIR_HINT)
    return Credentials(
        found["aws_access_key_id"],
        found["aws_secret_access_key"],
        found.get("aws_session_token"),
        found.get("region"),
    )


_KEY_PAIR_HINT = (
    "A service needs a key pair of its own (aws_access_key_id and aws_secret_access_key), or on EC2 an IAM role:"
    " CONFIG_FILE=iam_role_config.yml."
)


def _what_it_is(found: dict[str, str]) -> str:
    if "credential_process" in found:
        return "asks a program for its credentials (credential_process), which the service's sandbox can't run"
    if "sso_session" in found or "sso_start_url" in found:
        return "signs in through SSO, which needs a person at a browser"
    if "role_arn" in found:
        return "assumes a role and holds no key pair of its own"
    return "holds no complete key pair"


def _section(path: Path, name: str) -> dict[str, str]:
    values = _profiles(path).get(name, {})
    return {str(key): value.strip() for key, value in values.items() if isinstance(value, str)}


def _profiles(path: Path) -> dict[str, dict[str, Any]]:
    from botocore.configloader import raw_config_parse
    from botocore.exceptions import ConfigNotFound, ConfigParseError

    try:
        path.stat()
        found: dict[str, dict[str, Any]] = raw_config_parse(str(path))
    except (FileNotFoundError, NotADirectoryError, ConfigNotFound):
        return {}
    except PermissionError:
        raise PermissionDenied(f"{path}: can't be read by this user", "Run it as the user who owns it.") from None
    except ConfigParseError:
        raise InputError(f"{path}: not in the format of the AWS CLI", "Mend it, or 'aws configure' again.") from None
    return found


def find_region() -> str | None:
    """The region that the instance's metadata names; None outside EC2, or where metadata is switched off.

    Honours AWS_EC2_METADATA_DISABLED and AWS_EC2_METADATA_SERVICE_ENDPOINT. Takes up to two seconds off EC2.
    """
    import botocore.session
    from botocore.utils import IMDSRegionProvider

    region = IMDSRegionProvider(botocore.session.get_session()).provide()
    return str(region) if region else None
