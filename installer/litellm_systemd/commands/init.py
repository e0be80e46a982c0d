"""init: write the `.env` that install reads."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from litellm_systemd.aws.credentials import KEY_CONFIG
from litellm_systemd.aws.sources import Credentials, read_profile
from litellm_systemd.bedrock.models import looks_like_region
from litellm_systemd.commands.preflight import prove_pair
from litellm_systemd.contract import ExitCode
from litellm_systemd.env.aws import KEY_ID, SECRET, TOKEN, check_aws
from litellm_systemd.env.credentials_expiry import END_VARIABLE, render_moment
from litellm_systemd.env.dotenv import Dotenv
from litellm_systemd.errors import InputError, InstallerError, PermissionDenied, UsageError
from litellm_systemd.report.report import Report
from litellm_systemd.resources import EXAMPLE_ENV, read_config
from litellm_systemd.user_files import find_home, write_output

_AS_AWS = "Write it as AWS does: us-east-1, eu-central-1."


@dataclass(frozen=True, slots=True)
class Invoker:
    """The user who runs the command: under sudo not the user of the process."""

    home: Path
    uid: int
    gid: int


def find_invoker(environ: Mapping[str, str]) -> Invoker:
    """The user who runs the command. sudo may change HOME, so the user database names the home; see sudo(8)."""
    name = environ.get("SUDO_USER")
    if os.geteuid() == 0 and name:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise InputError(
                f"SUDO_USER={name}: there is no such user here", "Run the command without sudo."
            ) from None
        return Invoker(Path(entry.pw_dir), entry.pw_uid, entry.pw_gid)
    return Invoker(find_home(environ), os.geteuid(), os.getegid())


def init(
    path: Path,
    *,
    environ: Mapping[str, str],
    profile: str | None = None,
    region: str | None = None,
    offline: bool = False,
    force: bool = False,
) -> Report:
    """Write a `.env` in which every variable is explained, mode 0600, owned by the invoking user.

    Args:
        path: the file to write.
        environ: the environment of this process, for SUDO_USER and HOME.
        profile: use the key pair and the region of this profile in the invoking user's ~/.aws.
        region: the AWS region, instead of the profile's.
        offline: do not check the profile's keys with AWS.
        force: overwrite an existing file.

    Raises:
        InstallerError: the file exists already or can't be written, or the profile can't be used.
    """
    invoker = find_invoker(environ)
    if region is not None and not looks_like_region(region):
        raise UsageError(f"--region {region}: not an AWS region", _AS_AWS)
    values = {} if region is None else {"AWS_REGION_NAME": region}
    notes: tuple[str, ...] = ()
    if profile is not None:
        # Before AWS is queried for a file that can't be written.
        if path.exists() and not force:
            raise _exists(path)
        found = read_profile(profile, invoker.home)
        found = replace(found, region=region or found.region)
        values = {**_variables(found), **values}
        notes = _check(found, values, f"the profile {profile} of {invoker.home / '.aws'}", environ, offline=offline)
    _write(path, fill_example(read_config(EXAMPLE_ENV), values), invoker, force=force)
    source = f" with the keys of profile {profile}" if profile else ""
    return Report(
        f"wrote {path}{source}",
        notes=(*notes, "Check it, then: sudo litellmctl install"),
        data={"path": str(path), "set": sorted(values)},
        code=ExitCode.OK,
    )


def _variables(found: Credentials) -> dict[str, str]:
    optional = {
        TOKEN: found.session_token,
        END_VARIABLE: found.end and render_moment(found.end),
        "AWS_REGION_NAME": found.region,
    }
    return {
        "CONFIG_FILE": KEY_CONFIG,
        KEY_ID: found.access_key,
        SECRET: found.secret_key,
        **{name: value for name, value in optional.items() if value},
    }


def _check(
    found: Credentials, values: Mapping[str, str], source: str, environ: Mapping[str, str], *, offline: bool
) -> tuple[str, ...]:
    """Check that the key pair is valid and known to AWS; return notes for the user.

    Raises:
        InputError: it is not, or it has expired.
    """
    warnings = check_aws(Dotenv(source, values), values)
    if found.region is not None and not looks_like_region(found.region):
        raise InputError(f"{source}: its region {found.region} is not an AWS region", f"{_AS_AWS} Or use --region.")
    if found.end is not None and found.end <= datetime.now(timezone.utc):
        raise InputError(
            f"{source}: its key expired at {render_moment(found.end)}", "Sign in again, and run this again."
        )
    return (*warnings, *(() if offline else prove_pair(found, environ, source)))


def fill_example(text: str, values: Mapping[str, str]) -> str:
    """The example with these values instead of its own; a commented line counts as well."""
    for name, value in values.items():
        line = f"{name}={value}"
        text, count = re.subn(rf"^#? ?{name}=.*$", lambda _match, line=line: line, text, count=1, flags=re.MULTILINE)  # type: ignore[misc]
        text += "" if count else f"{line}\n"
    return text


def _exists(path: Path) -> InstallerError:
    return InstallerError(f"{path} exists already", "--force overwrites it.")


def _write(path: Path, text: str, invoker: Invoker, *, force: bool) -> None:
    if force and path.is_symlink():
        raise InputError(f"{path} is a link", "Name the file itself: --env-file FILE")
    try:
        write_output(path, text.encode(), 0o600, replace=force, owner=(invoker.uid, invoker.gid))
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise PermissionDenied(f"{path}: {error.strerror}", "Choose a folder that you can write to.") from None
