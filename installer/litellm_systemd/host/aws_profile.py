"""The AWS profile that the service uses: its region and its lines, without botocore, which is slow to import."""

from __future__ import annotations

import configparser
import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from litellm_systemd.env.variables import AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE
from litellm_systemd.errors import InstallerError
from litellm_systemd.user_files import read_trusted

_PROFILE = "AWS_PROFILE"


def find_profile_region(environ: Mapping[str, str], *homes: Path) -> str | None:
    """The region that boto3, and with it LiteLLM, takes from a profile if no variable names one.

    Args:
        environ: the service's environment. Without AWS_PROFILE the profile is `default`, if a variable names a file.
        homes: where ~/.aws may be, if no variable names a file of profiles.
    """
    files = [environ.get(each.name, "") for each in (AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE)]
    if not any(files) and not environ.get(_PROFILE):
        return None
    name = environ.get(_PROFILE) or "default"
    pairs = (
        [tuple(map(Path, files))]
        if any(files)
        else [(home / ".aws/config", home / ".aws/credentials") for home in homes]
    )
    return next((region for pair in pairs for region in _regions(name, *pair)), None)


def _regions(name: str, config: Path, credentials: Path) -> Iterator[str]:
    # The credentials have precedence, as in botocore.
    for path, section in ((credentials, name), (config, f"profile {name}"), (config, name)):
        parser = configparser.ConfigParser(interpolation=None, strict=False, default_section="")
        with contextlib.suppress(OSError, ValueError, configparser.Error, InstallerError):
            parser.read_string(read_trusted(path).decode())
            if region := parser.get(section, "region", fallback="").strip():
                yield region


def find_key_line(name: str, environ: Mapping[str, str], home: Path) -> tuple[Path, int] | None:
    """The file and the line of the secret key of a profile, in the files that the service reads; None without one.

    `home`: that of the service, for the files that its environment does not name.
    """
    named = {AWS_SHARED_CREDENTIALS_FILE: ("credentials", name), AWS_CONFIG_FILE: ("config", f"profile {name}")}
    for variable, (file, section) in named.items():
        path = Path(environ.get(variable.name) or home / ".aws" / file)
        with contextlib.suppress(OSError, ValueError, InstallerError):
            current = ""
            for number, line in enumerate(read_trusted(path).decode().splitlines(), 1):
                if header := re.match(r"\[([^\]]+)\]", line):
                    current = " ".join(header[1].split())
                elif current in (section, name) and re.match(r"\s*aws_secret_access_key\s*[=:]", line):
                    return path, number
    return None
