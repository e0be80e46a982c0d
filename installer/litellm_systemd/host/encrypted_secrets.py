"""The secrets of the environment at rest: one file that only this host can decrypt (systemd-creds(1)).

The key is that of the host (/var/lib/systemd/credential.secret), and of its TPM if it has one. systemd decrypts the
file for the service (LoadCredentialEncrypted=), `litellmctl` decrypts it as root.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from litellm_systemd.command import run
from litellm_systemd.contract import SECRETS_CREDENTIAL
from litellm_systemd.env.service_credential import parse_secrets, read_credential, render_secrets
from litellm_systemd.errors import CommandError, InputError, InstallerError, Unavailable
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.layout import Layout

#: The key of the host; systemd creates it.
HOST_KEY = "/var/lib/systemd/credential.secret"
#: The first systemd with encrypted credentials.
OLDEST_SYSTEMD = 250


class Undecryptable(Unavailable):
    """The encrypted secrets exist, and this host cannot decrypt them."""


def require_encryption(layout: Layout, systemd: int) -> None:
    """Check that this host can encrypt credentials.

    Raises:
        Unavailable: its systemd is too old, or the installation is in another root file system.
    """
    if not layout.is_host:
        raise Unavailable(
            "secrets can be encrypted only on the host that will decrypt them, not for --root",
            "Install without --encrypt-secrets, and run it with that option on the host itself.",
        )
    if systemd < OLDEST_SYSTEMD:
        raise Unavailable(
            f"systemd {systemd} cannot decrypt credentials for a service",
            f"--encrypt-secrets needs systemd {OLDEST_SYSTEMD} or later. Install with --no-encrypt-secrets.",
        )


def encrypt_secrets(variables: Mapping[str, str]) -> bytes:
    """The encrypted file with these variables. Creates the key of the host if there is none.

    Raises:
        InstallerError: systemd-creds fails.
    """
    argv = ("systemd-creds", "encrypt", f"--name={SECRETS_CREDENTIAL}", "-", "-")
    return run(argv, text=render_secrets(variables)).stdout.encode()


def read_secrets(layout: Layout, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The secret variables that are encrypted on this host; empty if there are none.

    A unit with LoadCredentialEncrypted=, such as litellm-verify.service, has them in its credentials folder: its
    sandbox hides the TPM.

    Raises:
        Undecryptable: the key is not the one that they were encrypted with, or the file is damaged.
    """
    if observe_file(layout, layout.secrets) is None:
        return {}
    path = str(layout.real(layout.secrets))
    try:
        content = read_credential(environ, SECRETS_CREDENTIAL)
        if content is not None:
            return parse_secrets(content, path)
        argv = ("systemd-creds", "decrypt", f"--name={SECRETS_CREDENTIAL}", path, "-")
        return parse_secrets(run(argv).stdout, path)
    except CommandError as error:
        reason = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
    except InputError as error:
        reason = error.message
    except InstallerError as error:  # there is no systemd-creds
        reason = error.message
    raise Undecryptable(
        f"{path} cannot be decrypted: {reason}",
        f"The key of this host ({HOST_KEY}, or its TPM) was lost or changed. Restore it. Or write the keys into .env"
        f" and run: sudo rm {path} && sudo litellmctl install",
    )
