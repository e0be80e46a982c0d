"""All checks, from the ground up: of two things that are wrong, the one further down is told first."""

from __future__ import annotations

from types import ModuleType

from litellm_systemd.doctor import (
    look_aws,
    look_configuration,
    look_credentials,
    look_disk,
    look_environment,
    look_exit,
    look_files,
    look_host,
    look_journal,
    look_network,
    look_port,
    look_quotas,
    look_service,
    look_unit,
)
from litellm_systemd.doctor.cause import Probe

_GROUPS = (
    *(look_host, look_disk, look_files, look_environment, look_credentials, look_configuration, look_unit),
    *(look_port, look_exit, look_network, look_aws, look_quotas, look_service, look_journal),
)


def _probes(module: ModuleType) -> tuple[Probe, ...]:
    return tuple(each for each in vars(module).values() if isinstance(each, Probe))


PROBES = tuple(probe for module in _GROUPS for probe in _probes(module))
