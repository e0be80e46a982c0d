"""verify with the shipped default configuration and a fake Bedrock: every API that clients use."""

from __future__ import annotations

import shutil
from pathlib import Path

from litellm_systemd.client.gateway import Gateway
from litellm_systemd.gateway.config import read_config
from litellm_systemd.report.report import Outcome
from litellm_systemd.verify.run import Scope, verify
from tests.fakes import run_cloud
from tests.integration.runtime_service import KEY, Service

CONFIG = Path(__file__).parents[2] / "configs/iam_role_config.yml"


def test_every_api_of_bedrock_models(tmp_path: Path) -> None:
    """With iam_role_config.yml the primary model answers at every API, plain and streamed, to a long prompt and to
    eight simultaneous chats, and the report has the billed tokens. (The fake model always says one word.)
    """
    shutil.copytree(CONFIG.parent / "shared", tmp_path / "shared")
    with (
        run_cloud() as aws,
        Service(tmp_path, CONFIG.read_text(), AWS_REGION_NAME="us-east-1", **aws.environment) as running,
    ):
        running.await_ready()
        names = read_config(CONFIG).names
        report = verify(Gateway(f"http://127.0.0.1:{running.port}", KEY), Scope(names, full=True))
    found = {check.name: check for check in report.checks}
    odd = {name: check.outcome for name, check in found.items() if check.outcome is not Outcome.OK}
    model = names[0]
    assert odd == {f"long prompt {model}": Outcome.WARNING}, report.as_json()
    streamed = [name for name in found if "streamed" in name]
    assert [name.split()[0] for name in streamed] == ["chat", "chat", "messages", "responses"]
    assert all(found[name].data["first_token_seconds"] > 0 for name in streamed)
    assert found[f"8 at once {model}"].data["failed"] == 0
    assert report.data["billed"]["checks"] == 11
    assert report.data["billed"]["input_tokens"] > 5000
    assert report.notes[0].startswith("11 checks called models that bill: ")
