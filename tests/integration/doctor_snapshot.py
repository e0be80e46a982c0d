"""What tests of doctor share: an installation with a given environment and configuration, and what is found of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from litellm_systemd.doctor import check_aws, check_credentials, check_environment, check_network, check_quotas
from litellm_systemd.doctor.cause import Probe
from litellm_systemd.doctor.engine import Diagnosis, examine
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.environment_file import render_assignments
from litellm_systemd.host.layout import Layout
from tests.fakes import USER, Key

MODEL = "us.anthropic.claude-sonnet-5-5"
CONFIG = f"""\
model_list:
  - model_name: claude
    litellm_params: {{model: bedrock/{MODEL}}}
  - model_name: mocked
    litellm_params: {{model: bedrock/nobody.asks, mock_response: x}}
general_settings: {{master_key: os.environ/LITELLM_MASTER_KEY}}
litellm_settings: {{drop_params: true}}
"""
#: In the place of "model_list:", with the id of a second model.
ENTRY = "model_list:\n  - model_name: another\n    litellm_params: {{model: bedrock/{}}}\n"
PROBES = tuple(
    each
    for module in (check_environment, check_credentials, check_network, check_aws, check_quotas)
    for each in vars(module).values()
    if isinstance(each, Probe)
)
BASE = {"LITELLM_MASTER_KEY": "sk-0123456789abcdef0123", "AWS_REGION_NAME": "us-east-1"}


def pair(key: Key = USER) -> dict[str, str]:
    found = {"AWS_ACCESS_KEY_ID": key.access_key, "AWS_SECRET_ACCESS_KEY": key.secret_key}
    return found | ({"AWS_SESSION_TOKEN": key.token} if key.token else {})


#: A port of loopback that takes no connection: nobody asks the real AWS.
_NOWHERE = {f"AWS_ENDPOINT_URL_{name}": "http://127.0.0.1:9" for name in ("STS", "BEDROCK", "SERVICE_QUOTAS")}


def scene_of(root: Path, environment: Mapping[str, str], config: str = CONFIG) -> Snapshot:
    """An installation with that environment and configuration, looked at by somebody who isn't root."""
    layout = Layout(root=root)
    for path, text in (
        (layout.environment_file, render_assignments({**_NOWHERE, **environment})),
        (layout.config_link, config),
    ):
        real = layout.real(path)
        real.parent.mkdir(parents=True, exist_ok=True)
        real.write_text(text, encoding="utf-8")
    snapshot = Snapshot(layout)
    snapshot.is_root = False  # so that the way is gone from here
    snapshot.patience = 60
    return snapshot


def diagnose(root: Path, environment: Mapping[str, str], config: str = CONFIG) -> Diagnosis:
    """What is found of it."""
    # This is about what is found; that it takes less than five seconds is for a host at rest.
    return examine(scene_of(root, environment, config), PROBES, each=60, total=60)


def causes(diagnosis: Diagnosis) -> list[str]:
    return [finding.cause.id for finding in diagnosis.causes]
