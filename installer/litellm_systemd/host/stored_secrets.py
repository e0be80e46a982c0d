"""The secrets that the installed environment refers to in AWS, for the verbs that need their values.

The runtime gets them, as a program (docs/adr/0002), in the way in which the service does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from litellm_systemd.command import minimal_environment, run, runtime_argv
from litellm_systemd.contract import ExitCode
from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.env.settings import Settings
from litellm_systemd.env.variables import MASTER_KEY
from litellm_systemd.errors import CommandError, InputError, Unavailable
from litellm_systemd.host.layout import Layout

#: Seconds for all secrets, with the start of Python.
_TIMEOUT = 60


def with_stored_secrets(environment: Mapping[str, str], timeout: float = _TIMEOUT) -> dict[str, str]:
    """The environment with a value in place of each reference. Without references AWS is not queried.

    Raises:
        InputError: a secret does not exist, or a reference is invalid.
        Unavailable: AWS cannot be reached, or refuses access.
        CommandError: there is no answer within `timeout` seconds.
    """
    if not any(map(is_reference, environment.values())):
        return dict(environment)
    own = {**minimal_environment(), "HOME": Layout.state}
    done = run(runtime_argv("secrets"), check=False, environment={**own, **environment}, timeout=timeout)
    if not done.stdout:
        raise CommandError(done.argv, done.returncode, done.stderr)
    answer: dict[str, str] = json.loads(done.stdout)
    if done.returncode == ExitCode.OK:
        return {**environment, **answer}
    raise (InputError if done.returncode == ExitCode.CONFIG else Unavailable)(answer["error"], answer["hint"])


def find_key(settings: Settings) -> str:
    """The master key, from AWS if it is kept there; see `with_stored_secrets`."""
    key = settings.master_key
    if not is_reference(key):
        return key
    return with_stored_secrets(settings.environment)[MASTER_KEY.name]
