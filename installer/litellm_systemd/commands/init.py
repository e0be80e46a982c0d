"""init: write the `.env` that install reads."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from litellm_systemd.aws import read_profile
from litellm_systemd.contract import ExitCode
from litellm_systemd.errors import InstallerError, PermissionDenied
from litellm_systemd.report import Report
from litellm_systemd.resources import EXAMPLE_ENV, read_config


@dataclass(frozen=True, slots=True)
class Invoker:
    """The person at the keyboard: under sudo not the user that the process runs as."""

    home: Path
    uid: int
    gid: int


def find_invoker(environ: Mapping[str, str]) -> Invoker:
    """Who runs the command. sudo may change HOME, so that home comes from the user database; see sudo(8)."""
    name = environ.get("SUDO_USER")
    if os.geteuid() == 0 and name:
        entry = pwd.getpwnam(name)
        return Invoker(Path(entry.pw_dir), entry.pw_uid, entry.pw_gid)
    home = environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir
    return Invoker(Path(home), os.geteuid(), os.getegid())


def init(
    path: Path,
    *,
    environ: Mapping[str, str],
    profile: str | None = None,
    region: str | None = None,
    force: bool = False,
) -> Report:
    """Write a `.env` with every key explained, mode 0600, owned by the invoking user.

    Args:
        path: the file to write.
        environ: the environment of this process: SUDO_USER and HOME are looked up in it.
        profile: take the key pair and the region from this profile of the invoking user's ~/.aws.
        region: the AWS region, instead of the profile's.
        force: overwrite a file that is there.

    Raises:
        InstallerError: the file is there already, can't be written, or the profile can't be used.
    """
    invoker = find_invoker(environ)
    values = {} if region is None else {"AWS_REGION_NAME": region}
    if profile is not None:
        found = read_profile(profile, invoker.home)
        values = {
            "CONFIG_FILE": "access_key_config.yml",
            "AWS_ACCESS_KEY_ID": found.access_key,
            "AWS_SECRET_ACCESS_KEY": found.secret_key,
            **({"AWS_SESSION_TOKEN": found.session_token} if found.session_token else {}),
            **({"AWS_REGION_NAME": found.region} if found.region else {}),
            **values,
        }
    _write(path, fill_example(read_config(EXAMPLE_ENV), values), invoker, force=force)
    source = f" with the keys of profile {profile}" if profile else ""
    return Report(
        f"wrote {path}{source}",
        notes=("Look through it, then: sudo litellmctl install",),
        data={"path": str(path), "set": sorted(values)},
        code=ExitCode.OK,
    )


def fill_example(text: str, values: Mapping[str, str]) -> str:
    """The example with these values in the place of its own, be the line commented out or not."""
    for name, value in values.items():
        line = f"{name}={value}"
        text, count = re.subn(rf"^#? ?{name}=.*$", lambda _match, line=line: line, text, count=1, flags=re.MULTILINE)  # type: ignore[misc]
        text += "" if count else f"{line}\n"
    return text


def _write(path: Path, text: str, invoker: Invoker, *, force: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL) | os.O_NOFOLLOW
    try:
        handle = os.open(path, flags, 0o600)
    except FileExistsError:
        raise InstallerError(f"{path} is there already", "--force overwrites it.") from None
    except OSError as error:
        raise PermissionDenied(f"{path}: {error.strerror}", "Choose a folder of your own.") from None
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        os.fchmod(handle, 0o600)
        if os.geteuid() == 0:
            os.fchown(handle, invoker.uid, invoker.gid)
        stream.write(text)
