"""Get secrets from AWS Secrets Manager and SSM Parameter Store, for variables that refer to them (docs/adr/0011).

The values are in the memory of the service only. AWS is queried with the credentials that boto3 finds in the
environment of this process: its key pair, otherwise the role of the instance.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from litellm_systemd.contract import ExitCode
from litellm_systemd.env.secret_references import SecretReference, find_references
from litellm_systemd.env.variables import AWS_PROFILE_NAME
from litellm_systemd.errors import InputError, InstallerError, Unavailable

#: Seconds for a connection and for an answer, and the number of tries if AWS is busy or cannot be reached.
_CONNECT_TIMEOUT, _READ_TIMEOUT, _TRIES = 3, 5, 3
#: What a later start cannot change. A missing permission is not among them: it is given outside of this host, and
#: IAM takes some seconds to apply it.
_PERMANENT = frozenset(
    {
        *("ResourceNotFoundException", "ParameterNotFound", "ValidationException", "InvalidParameterException"),
        *("InvalidRequestException", "DecryptionFailure"),
    }
)
_ACTIONS = {"secretsmanager": "secretsmanager:GetSecretValue", "ssm": "ssm:GetParameter"}


def main(environ: Mapping[str, str]) -> int:
    """Print as JSON the secrets that the environment refers to, by variable, or the error and its remedy.

    `environ` is the environment of this process. The exit code is 78 if a restart cannot fix the error.
    """
    code, answer = ExitCode.OK, {}
    try:
        answer = get_secrets(find_references(environ), environ)
    except InstallerError as error:
        code, answer = error.code, {"error": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return code


def get_secrets(references: Iterable[SecretReference], environ: Mapping[str, str]) -> dict[str, str]:
    """The values by variable. Each secret is requested once.

    Raises:
        InputError: a secret does not exist, or is not a text.
        Unavailable: AWS cannot be reached, is busy, or refuses access.
    """
    texts: dict[tuple[str, str, str], str] = {}
    values = {}
    for each in references:
        source = (each.service, each.region, each.name)
        if source not in texts:
            texts[source] = _request(each, environ)
        values[each.variable] = _pick(each, texts[source])
    return values


def _request(reference: SecretReference, environ: Mapping[str, str]) -> str:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = _connect(reference, environ)
        try:
            if reference.service == "ssm":
                found = client.get_parameter(Name=reference.name, WithDecryption=True)["Parameter"].get("Value")
            else:
                found = client.get_secret_value(SecretId=reference.name).get("SecretString")
        finally:
            client.close()
    except ClientError as error:
        raise _refusal(reference, error.response.get("Error", {})) from None
    except BotoCoreError as error:
        raise Unavailable(
            f"{reference.variable}: no answer from {reference.place}: {' '.join(str(error).split())}",
            "The service needs the network, and credentials or the role of the instance.",
        ) from None
    if not isinstance(found, str):
        raise InputError(f"{reference.variable}: {reference.place} is binary", "Store the secret as a text.")
    return found


def _connect(reference: SecretReference, environ: Mapping[str, str]) -> Any:
    from botocore.config import Config
    from botocore.session import Session

    return Session(profile=environ.get(AWS_PROFILE_NAME.name) or None).create_client(
        reference.service,
        region_name=reference.region,
        # botocore does not read the other one, which LiteLLM does.
        verify=environ.get("AWS_CA_BUNDLE") or environ.get("SSL_CERT_FILE") or None,
        config=Config(
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_READ_TIMEOUT,
            retries={"total_max_attempts": _TRIES, "mode": "standard"},
        ),
    )


def _refusal(reference: SecretReference, error: Mapping[str, Any]) -> InstallerError:
    code, said = str(error.get("Code", "")), " ".join(str(error.get("Message", "")).split())
    text = f"{reference.variable}: {reference.place}: {code or 'an error'}{f': {said}' if said else ''}"
    if code in _PERMANENT:
        return InputError(text, f"Correct {reference.variable}, or create the secret in {reference.region}.")
    if code.startswith("AccessDenied"):
        return Unavailable(
            text,
            f"Allow {_ACTIONS[reference.service]} on it, and kms:Decrypt if a key of your own encrypts it:"
            " litellmctl iam-policy",
        )
    return Unavailable(text, "Try again later.")


def _pick(reference: SecretReference, text: str) -> str:
    """The value in the text of a secret. The newline at the end of a file that was stored is none of it."""
    value: object = text.rstrip("\r\n")
    if reference.key:
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        value = found.get(reference.key) if isinstance(found, dict) else None
        if not isinstance(value, str):
            raise InputError(
                f"{reference.variable}: {reference.place}: the secret is not a JSON object with a text of that key",
                f"Correct the key after # in {reference.variable}, or the secret.",
            )
    elif reference.service == "secretsmanager" and text.startswith("{"):
        raise InputError(
            f"{reference.variable}: {reference.place} is a JSON object",
            f"Name the key of the value: {reference.variable}=aws-secretsmanager:{reference.name}#KEY",
        )
    if not value or "\0" in str(value):
        raise InputError(f"{reference.variable}: {reference.place} is empty or binary", "Store the secret as a text.")
    return str(value)
