"""Whether the service will get into AWS: looked at before anything is changed."""

from __future__ import annotations

import os
import pwd
import ssl
from collections.abc import Mapping
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.aws.credentials import needs_metadata, uses_pair
from litellm_systemd.aws.profiles import Credentials
from litellm_systemd.env.aws import KEY_ID, PAIR, PROFILE, PROFILE_NAME, SECRET, TOKEN
from litellm_systemd.env.dotenv import Dotenv
from litellm_systemd.env.network import FILE_VARIABLES
from litellm_systemd.errors import InputError, Unavailable
from litellm_systemd.gateway.config import GatewayConfig
from litellm_systemd.host.layout import Layout

_BUNDLES = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
NOT_ASKED = "AWS was not asked: whether the credentials work will show at the first call (litellmctl verify)."


def own_profiles(layout: Layout) -> bool:
    """Whether the service's own home has AWS profiles, which boto3 takes before the instance's role."""
    return any(layout.real(f"{layout.state}/.aws/{name}").exists() for name in ("credentials", "config"))


def find_instance_region(environment: Mapping[str, str]) -> str | None:
    """The region that the instance metadata names; None outside EC2. Takes two seconds at most."""
    # Late, like the others below: botocore takes a while to load, and most installs need none of it.
    from litellm_systemd.aws.instance import observe_instance

    return observe_instance(environment).region


def require_role(gateway: GatewayConfig, environment: Mapping[str, str], layout: Layout) -> tuple[str, ...]:
    """Where the configuration needs the instance's role: that it is there. Gives what to tell the user.

    Raises:
        Unavailable: no credentials come from the instance metadata; the message says why.
        InputError: `.env` itself keeps the service from asking for them.
    """
    from litellm_systemd.aws.instance import DISABLED_HERE, DISABLED_VARIABLE, observe_instance

    if not needs_metadata(gateway, environment) or own_profiles(layout):
        return ()
    found = observe_instance(environment)
    if found.trouble is None:
        return (f"The instance's role is {found.role}.",)
    if found.trouble.code == DISABLED_HERE:
        # Of this process alone, as for somebody at a PC who prepares an install; the service will ask.
        return (f"The instance metadata was not asked for its role: {DISABLED_VARIABLE}=true is set here.",)
    raise Unavailable(
        f"{found.trouble.message}; {gateway.source} takes its credentials from the role of an EC2 instance",
        f"{found.trouble.hint} To install all the same: --offline",
    )


def require_pair(
    gateway: GatewayConfig, dotenv: Dotenv, environment: Mapping[str, str], installed: Mapping[str, str]
) -> tuple[str, ...]:
    """Where a key pair is used that isn't installed yet: that STS knows it. Gives what to tell the user.

    Raises:
        InputError: AWS refuses it.
    """
    names = (*PAIR, TOKEN)
    same = all(environment.get(name) == installed.get(name) for name in names)
    if same or not uses_pair(gateway, environment):
        return ()
    region = environment.get("AWS_REGION_NAME")
    credentials = Credentials(environment[KEY_ID], environment[SECRET], environment.get(TOKEN), region)
    return prove_pair(credentials, {**os.environ, **environment}, dotenv.where(KEY_ID))


def prove_pair(credentials: Credentials, environ: Mapping[str, str], where: str) -> tuple[str, ...]:
    """Ask STS whose the pair is; gives what to tell the user.

    Raises:
        InputError: AWS refuses it.
    """
    from litellm_systemd.aws.identity import identify

    found = identify(credentials, environ, where)
    if found.doubt is not None:
        return (f"The AWS key could not be checked: {found.doubt}. 'litellmctl verify' calls a model with it.",)
    notes = [f"The AWS key is that of {found.arn}."]
    if found.is_root_user:
        notes.append("That is the account's root user, who may do everything: make an IAM user for the gateway.")
    return tuple(notes)


def require_files(dotenv: Dotenv, environment: Mapping[str, str], layout: Layout) -> None:
    """That the files which `.env` names are there, can be read by the service, and are what they should be.

    Raises:
        InputError: one isn't, with the variable's place and the remedy.
    """
    for name in FILE_VARIABLES:
        if name in environment:
            _require_file(dotenv, name, Path(environment[name]))
    profile = next((name for name in (PROFILE_NAME, PROFILE) if name in environment), None)
    shared = ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE")
    if profile and not any(name in environment for name in shared) and not own_profiles(layout):
        raise InputError(
            f"{dotenv.where(profile)}: {profile}={environment[profile]}, and the service sees nobody's ~/.aws",
            f"'litellmctl init --from-profile {environment[profile]}' puts the profile's key into .env; or name a"
            " file of profiles for the service: AWS_SHARED_CREDENTIALS_FILE=/etc/litellm/NAME",
        )


def _require_file(dotenv: Dotenv, name: str, path: Path) -> None:
    place = f"{dotenv.where(name)}: {name}={path}"
    try:
        is_readable = _service_reads(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{place} isn't there", "Name a file that is, by its whole path.") from None
    except PermissionError:
        return  # not root: the run ends at something else
    if not is_readable:
        raise InputError(
            f"{place} can't be read by the user {contract.SERVICE_USER}, whom the service runs as",
            f"Let everybody read it (chmod o+r), or the group: chgrp {contract.SERVICE_USER} {path}",
        )
    if name in _BUNDLES and path.is_file():
        try:
            ssl.create_default_context(cafile=str(path))
        except ssl.SSLError:
            raise InputError(
                f"{place} holds no certificate in PEM", "It has lines like -----BEGIN CERTIFICATE-----."
            ) from None


def _service_reads(path: Path) -> bool:
    """Whether the modes of the path let the service's user read it. Where there is an ACL, believe that it does."""
    try:
        user = pwd.getpwnam(contract.SERVICE_USER)
        uid, groups = user.pw_uid, set(os.getgrouplist(contract.SERVICE_USER, user.pw_gid))
    except KeyError:
        uid, groups = -1, set()  # before the first install
    real = path.resolve(strict=True)
    wanted = [(real, 5 if real.is_dir() else 4), *((parent, 1) for parent in real.parents)]
    return all(_grants(each, bits, uid, groups) for each, bits in wanted)


def _grants(path: Path, bits: int, uid: int, groups: set[int]) -> bool:
    found = path.stat()
    if "system.posix_acl_access" in os.listxattr(path):
        return True
    shift = 6 if found.st_uid == uid else 3 if found.st_gid in groups else 0
    return (found.st_mode >> shift) & bits == bits
