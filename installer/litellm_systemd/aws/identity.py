"""Query STS for the owner of a key, with that key alone, before it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litellm_systemd.aws.client import connect_by_pair
from litellm_systemd.aws.profiles import Credentials
from litellm_systemd.errors import InputError

#: GetCallerIdentity gives the same answer in every region of a partition.
_ANY_REGION = "us-east-1"
_SKEW = ("Signature expired", "Signature not yet current")


@dataclass(frozen=True, slots=True)
class Identity:
    """The owner of a key; or, if it is unknown, the reason (`doubt`)."""

    arn: str | None = None
    doubt: str | None = None

    @property
    def is_root_user(self) -> bool:
        """Whether the key belongs to the account's root user, which may do everything."""
        return self.arn is not None and self.arn.endswith(":root")


def identify(credentials: Credentials, environ: Mapping[str, str], where: str) -> Identity:
    """Query STS for the owner of a key (GetCallerIdentity, which needs no permission).

    Args:
        credentials: the key pair, with its token if it has one. No other is tried.
        environ: the service's environment, with its endpoint, proxy and CA.
        where: the source of the pair, for messages.

    Raises:
        InputError: AWS refuses the pair; the message says why.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = connect_by_pair(credentials, environ, credentials.region or _ANY_REGION, "sts")
        answer = client.get_caller_identity()
    except ClientError as error:
        return _refusal(error.response, credentials, where)
    except (BotoCoreError, ValueError) as error:
        return Identity(doubt=_unreached(error, environ))
    return Identity(arn=str(answer["Arn"]))


def _refusal(response: Mapping[str, Any], credentials: Credentials, where: str) -> Identity:
    code, text = str(response["Error"].get("Code", "")), str(response["Error"].get("Message", ""))
    shown = f"the access key {credentials.access_key[:4]}…{credentials.access_key[-4:]}"
    if code in ("InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId"):
        raise InputError(
            f"{where}: AWS doesn't know {shown}: it was deleted, deactivated or mistyped",
            "Create a new one in the IAM console (Users, Security credentials), or copy this one again.",
        )
    if code in ("ExpiredToken", "ExpiredTokenException"):
        raise InputError(
            f"{where}: {shown} is temporary and has expired", "Sign in again, and use the new key and token."
        )
    if code == "RequestExpired" or text.startswith(_SKEW):
        date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        raise InputError(
            f"{where}: AWS refuses requests from this host because its clock is wrong"
            + (f" (AWS says {date})" if date else ""),
            "Set the clock: timedatectl set-ntp true",
        )
    if code == "SignatureDoesNotMatch":
        raise InputError(
            f"{where}: the secret of {shown} is wrong", "Copy the complete secret again, without quotes."
        )
    return Identity(doubt=f"STS answers {code or 'an unknown error'}{f': {text}' if text else ''}")


def _unreached(error: Exception, environ: Mapping[str, str]) -> str:
    from botocore.exceptions import ProxyConnectionError, SSLError

    if isinstance(error, SSLError):
        named = environ.get("SSL_CERT_FILE")
        return (
            f"the certificate of STS isn't trusted: {named} doesn't contain its CA"
            if named
            else ("the certificate of STS isn't trusted: behind a proxy that opens TLS, set SSL_CERT_FILE to its CA")
        )
    if isinstance(error, ProxyConnectionError):
        return "the proxy for STS can't be reached"
    return f"STS can't be reached ({type(error).__name__})"
