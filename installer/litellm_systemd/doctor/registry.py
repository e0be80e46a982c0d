"""All checks, in the order of the report: what other things depend on comes first."""

from __future__ import annotations

from types import ModuleType

from litellm_systemd.doctor import (
    check_aws,
    check_clock,
    check_configuration,
    check_disk,
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
from litellm_systemd.doctor.cause import DoctorCheck

_MODULES = (
    *(check_host, check_clock, check_disk),
    *(check_files, check_configuration, check_unit),
    *(check_port, check_exit, check_network, check_aws, check_quotas, check_service, check_journal),
)


def checks_of(module: ModuleType) -> tuple[DoctorCheck, ...]:
    """The checks that a module defines, in the order of their definition."""
    return tuple(value for value in vars(module).values() if isinstance(value, DoctorCheck))


CHECKS = tuple(check for module in _MODULES for check in checks_of(module))
