"""For tests of doctor: an installation with a given environment and configuration, and its diagnosis."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from litellm_systemd.doctor.engine import Diagnosis, DoctorCheck, run_checks
from litellm_systemd.doctor.registry import CHECKS as ALL_CHECKS
from litellm_systemd.doctor.registry import checks_of
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.dotenv import render_assignments
from litellm_systemd.host.layout import Layout
from tests.fakes import USER, Key

MODEL = "us.anthropic.claude-sonnet-5-5"
CONFIG = f"""\
model_list:
  - model_name: claude
    litellm_params: {{model: bedrock/{MODEL}}}
  - model_name: mocked
    litellm_params: {{model: bedrock/never.called, mock_response: x}}
general_settings: {{master_key: os.environ/LITELLM_MASTER_KEY}}
litellm_settings: {{drop_params: true}}
"""
#: Replaces "model_list:", with the id of a second model.
ENTRY = "model_list:\n  - model_name: another\n    litellm_params: {{model: bedrock/{}}}\n"
CHECKS = tuple(
    check
    for check in ALL_CHECKS
    if check.cause.group in ("environment", "configuration", "network", "aws")
    and check.cause.id != "environment-stale"  # needs a running service
)
BASE = {"LITELLM_MASTER_KEY": "sk-0123456789abcdef0123", "AWS_REGION_NAME": "us-east-1"}


def pair(key: Key = USER) -> dict[str, str]:
    found = {"AWS_ACCESS_KEY_ID": key.access_key, "AWS_SECRET_ACCESS_KEY": key.secret_key}
    return found | ({"AWS_SESSION_TOKEN": key.token} if key.token else {})


#: A loopback port that accepts no connection, so that no request can go to the real AWS.
_NOWHERE = {f"AWS_ENDPOINT_URL_{name}": "http://127.0.0.1:9" for name in ("STS", "BEDROCK", "SERVICE_QUOTAS")}


def make_snapshot(root: Path, environment: Mapping[str, str], config: str = CONFIG) -> Snapshot:
    """A snapshot, without root, of an installation with that environment and configuration."""
    layout = Layout(root=root)
    for path, text in (
        (layout.environment_file, render_assignments({**_NOWHERE, **environment})),
        (layout.config_link, config),
    ):
        real = layout.real(path)
        real.parent.mkdir(parents=True, exist_ok=True)
        real.write_text(text, encoding="utf-8")
    snapshot = Snapshot(layout)
    snapshot.is_root = False  # connections are then tested from this process, not in a sandbox
    snapshot.optional_timeout = 60
    return snapshot


def diagnose(root: Path, environment: Mapping[str, str], config: str = CONFIG) -> Diagnosis:
    """The diagnosis of such an installation. Its time limits are those of a busy machine."""
    return run_checks(make_snapshot(root, environment, config), CHECKS, check_timeout=60, total_timeout=60)


def diagnose_part(module: ModuleType, root: Path, environment: Mapping[str, str]) -> Diagnosis:
    """What the checks of a module find about a server, except for that of what a running service reports."""
    checks = tuple(each for each in checks_of(module) if not each.cause.id.endswith("-unused"))
    diagnosis = run_checks(make_snapshot(root, environment), checks, check_timeout=60, total_timeout=60)
    for run in diagnosis.runs:
        assert not run.skip_reason or run.skip_reason.endswith("must be fixed first"), run
    return diagnosis


class _Serving(Snapshot):
    """A running service."""

    is_active: Any = True
    runtime: Any = None


def find_unused(check: DoctorCheck, root: Path, environment: Mapping[str, str], name: str) -> list[int]:
    """How often the check finds something if the service cannot use its server for 5 seconds, and for 120."""
    host = make_snapshot(root, environment)
    host.__class__ = _Serving
    assert isinstance(host, _Serving)
    numbers = []
    for seconds in (5, 120):
        host.runtime = {name: {"usable": False, "cause": "no route", "since": time.time() - seconds}}
        found = list(check.detect(host))
        numbers.append(len(found))
        assert all(f"the service reports for {seconds} s: no route" in str(each) for each in found)
    return numbers


def causes(diagnosis: Diagnosis) -> list[str]:
    return [finding.cause.id for finding in diagnosis.causes]
