"""The secrets that the installed environment refers to in AWS, for the verbs that need their values.

The runtime gets them, as a program (docs/adr/0002), in the way in which the service does.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from litellm_systemd.command import TIMED_OUT, minimal_environment, run, runtime_argv
from litellm_systemd.contract import ExitCode
from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.env.settings import Settings
from litellm_systemd.env.variables import MASTER_KEY
from litellm_systemd.errors import CommandError, InputError, Unavailable
from litellm_systemd.gateway.config_types import GatewayConfig
from litellm_systemd.gateway.redis_settings import redis_references
from litellm_systemd.user_files import require_trusted

#: The files in which boto3 finds programs to run, as well as keys.
CONFIG_FILE, SHARED_FILE = "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"
#: Seconds for all secrets, with the start of Python.
_TIMEOUT = 60


def with_stored_secrets(environment: Mapping[str, str], timeout: float = _TIMEOUT) -> dict[str, str]:
    """The environment with a value in place of each reference. Without references AWS is not queried.

    Raises:
        InputError: a secret does not exist, or a reference is invalid.
        Unavailable: AWS cannot be reached, or refuses access.
        CommandError: there is no answer within `timeout` seconds.
    """
    names = [name for name, value in environment.items() if is_reference(value)]
    if not names:
        return dict(environment)
    # Not the service's home: its user could name a program there that boto3 runs as root (credential_process).
    own = {**minimal_environment(), CONFIG_FILE: os.devnull, SHARED_FILE: os.devnull}
    for name in (CONFIG_FILE, SHARED_FILE):
        if path := environment.get(name):
            with contextlib.suppress(FileNotFoundError):
                require_trusted(Path(path))
    try:
        done = run(runtime_argv("secrets"), check=False, environment={**own, **environment}, timeout=timeout)
    except CommandError as error:
        if error.returncode != TIMED_OUT:
            raise
        raise Unavailable(
            f"AWS did not answer within {timeout:g} s, which holds {', '.join(names)}",
            "The network, or the VPC endpoint of Secrets Manager or SSM, drops the connection.",
        ) from None
    if not done.stdout:
        raise CommandError(done.argv, done.returncode, done.stderr)
    answer: dict[str, str] = json.loads(done.stdout)
    if done.returncode == ExitCode.OK:
        return {**environment, **answer}
    raise (InputError if done.returncode == ExitCode.CONFIG else Unavailable)(answer["error"], answer["hint"])


def with_stored_redis_secrets(
    environment: Mapping[str, str], config: GatewayConfig, timeout: float = _TIMEOUT
) -> dict[str, str]:
    """The environment with a value in place of each reference of a variable for Redis. Other references stay.

    `config` may refer to other variables than those of Redis. AWS is not queried without a reference. Raises what
    `with_stored_secrets` raises.
    """
    used = redis_references(config)
    names = [
        name
        for name, value in environment.items()
        if (name.startswith("REDIS_") or name in used) and is_reference(value)
    ]
    if not names:
        return dict(environment)
    stored = with_stored_secrets(environment, timeout)
    return {**environment, **{name: stored[name] for name in names}}


def find_key(settings: Settings) -> str:
    """The master key, from AWS if it is kept there; see `with_stored_secrets`."""
    key = settings.master_key
    if not is_reference(key):
        return key
    return with_stored_secrets(settings.environment)[MASTER_KEY.name]
