"""Every known error of AWS end to end: the real LiteLLM, a fake Bedrock, and the report of verify."""

from __future__ import annotations

import pytest

from litellm_systemd.bedrock.refusals import REFUSALS
from litellm_systemd.client.gateway import Gateway
from litellm_systemd.report.report import Check, Outcome
from litellm_systemd.verify.run import Scope, verify
from tests.fakes import run_cloud
from tests.integration.litellm_process import KEY, run_litellm
from tests.refusal_models import SHOWN, build_config, build_scripts


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Check]:
    """The first check of verify that failed for each model, by the name of the error."""
    config = tmp_path_factory.mktemp("refusals") / "config.yaml"
    config.write_text(build_config())
    with run_cloud(role=None) as aws, run_litellm(config, aws.environment) as running:
        aws.runtime.scripts.update(build_scripts())
        report = verify(Gateway(f"http://127.0.0.1:{running.port}", KEY), Scope(models=SHOWN))
    failed = [check for check in report.checks if check.outcome is Outcome.FAILED]
    return {check.name.split()[1].rstrip(","): check for check in reversed(failed)}


@pytest.mark.parametrize("name", SHOWN)
def test_each_refusal_has_its_own_message(checks: dict[str, Check], name: str) -> None:
    """For each error of AWS, verify reports the cause and remedy of that error and of no other."""
    refusal = next(one for one in REFUSALS if one.name == name)
    assert name in checks, "the chat was answered"
    assert checks[name].hint == refusal.hint, checks[name].detail
