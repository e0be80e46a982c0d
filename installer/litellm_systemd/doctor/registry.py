"""All checks, from the ground up: of two things that are wrong, the one further down is told first."""

from __future__ import annotations

from types import ModuleType

from litellm_systemd.doctor import (
    check_aws,
    check_clock,
    check_configuration,
    check_credentials,
    check_disk,
    check_environment,
    check_exit,
    check_files,
    check_host,
    check_journal,
    check_network,
    check_port,
    check_quotas,
    check_service,
    check_unit,
)
from litellm_systemd.doctor.cause import Probe

_GROUPS = (
    *(check_host, check_clock, check_disk),
    *(check_files, check_environment, check_credentials, check_configuration, check_unit),
    *(check_port, check_exit, check_network, check_aws, check_quotas, check_service, check_journal),
)


def _probes(module: ModuleType) -> tuple[Probe, ...]:
    return tuple(each for each in vars(module).values() if isinstance(each, Probe))


PROBES = tuple(probe for module in _GROUPS for probe in _probes(module))
