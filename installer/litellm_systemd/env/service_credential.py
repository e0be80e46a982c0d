"""What systemd passes to a service as a credential, a file in $CREDENTIALS_DIRECTORY (systemd.exec(5), Credentials).

Only the service itself can read it. It does not change while the service runs, reloads included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from litellm_systemd.contract import SECRETS_CREDENTIAL
from litellm_systemd.errors import InputError
from litellm_systemd.user_files import read_regular

#: The variable with the folder of the credentials.
CREDENTIALS_FOLDER = "CREDENTIALS_DIRECTORY"


def credential_path(environ: Mapping[str, str], name: str) -> Path | None:
    """Where a credential is if this process was started with it; None if it was started without credentials."""
    folder = environ.get(CREDENTIALS_FOLDER)
    return Path(folder, name) if folder else None


def read_credential(environ: Mapping[str, str], name: str) -> bytes | None:
    """The content of a credential; None if this process was started without it.

    Raises:
        InputError: it cannot be read.
    """
    path = credential_path(environ, name)
    if path is None:
        return None
    try:
        return read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"the credential {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"the credential {path} {error}") from None


def render_secrets(variables: Mapping[str, str]) -> str:
    """The content of the credential with the secret variables."""
    return json.dumps(dict(variables), sort_keys=True)


def parse_secrets(content: str | bytes, source: str) -> dict[str, str]:
    """The variables that `render_secrets` wrote.

    Raises:
        InputError: the content is something else.
    """
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InputError(
            f"{source} does not contain the variables of litellm.service",
            "Install again with the keys in .env: sudo litellmctl install --encrypt-secrets",
        )
    return found


def add_secrets(environ: MutableMapping[str, str]) -> None:
    """Add the secret variables of the credential, if there is one. A variable that is set already stays.

    Raises:
        InputError: the credential is unusable.
    """
    content = read_credential(environ, SECRETS_CREDENTIAL)
    if content is not None:
        for name, value in parse_secrets(content, f"the credential {SECRETS_CREDENTIAL}").items():
            environ.setdefault(name, value)
