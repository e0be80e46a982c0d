"""A service whose configuration is a link to a file that includes others."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from litellm_systemd.client.gateway import Gateway
from litellm_systemd.contract import ExitCode
from litellm_systemd.gateway.config import read_config, read_document
from litellm_systemd.verify.run import Scope, verify
from tests.integration.runtime_service import CONFIG, KEY, Service
from tests.integration.stub_gateway import stub

MAIN = f"include: [shared/mine.yml]\n{CONFIG % 'hello'}litellm_settings: {{callbacks: [near.handler, old.handler]}}\n"
MINE = "model_list:\n  - {model_name: %s, litellm_params: {model: openai/x, api_key: none, mock_response: hi}}\n"
CALLBACK = """
import sys
from pathlib import Path
from litellm.integrations.custom_logger import CustomLogger
import near_helper
class Mine(CustomLogger): pass
handler = Mine()
Path({mark!r}).write_text(near_helper.VERSION)
Path({mark!r} + ".path").write_text("\\n".join(sys.path))
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """As installed: config.yaml is a link into configs/. One callback is next to the file, one next to the link."""
    folder = tmp_path_factory.mktemp("includes")
    (folder / "configs/shared").mkdir(parents=True)
    (folder / "configs/shared/mine.yml").write_text(MINE % "first")
    (folder / "configs/near_helper.py").write_text("VERSION = 'one'\n")
    (folder / "configs/near.py").write_text(CALLBACK.format(mark=str(folder / "near.seen")))
    (folder / "old.py").write_text(CALLBACK.format(mark=str(folder / "old.seen")))
    running = Service(folder, "")
    running.config.unlink()
    (folder / "configs/main.yml").write_text(MAIN)
    running.config.symlink_to("configs/main.yml")
    with running:
        running.await_ready()
        yield running


def models(service: Service) -> list[str]:
    connection = service.connect()
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, body
    return [model["id"] for model in json.loads(body)["data"]]


def test_included_models_are_served(service: Service) -> None:
    """Models of an included file are served, and the digest that the service reports covers that file."""
    assert models(service) == ["demo", "first"]
    status = service.query("status")
    assert status["config_name"] == "main.yml"
    assert status["sha256"] == read_document(service.config).digest


def test_callbacks_are_found_next_to_the_file_and_to_the_link(service: Service) -> None:
    """A callback is loaded from the folder of the configuration, or from that of the link, as in earlier versions."""
    assert (service.folder / "near.seen").exists()
    assert (service.folder / "old.seen").exists()


def test_the_current_folder_is_not_searched_for_modules(service: Service) -> None:
    """LiteLLM's additions to sys.path are undone: in the service, they are a folder that workers can write."""
    folders = (service.folder / "near.seen.path").read_text().splitlines()
    assert folders[-2:] == [str(service.folder / "configs"), str(service.folder)]
    # `python -m` adds the current folder in this test; the service runs `python -I`.
    assert [str(Path.cwd())] == [each for each in folders if each in map(str, (Path.cwd(), Path.cwd().parents[1]))]


def test_reload_of_an_edited_included_file(service: Service) -> None:
    """An edit of an included file makes the loaded digest stale, and a reload serves the edit."""
    mine = service.folder / "configs/shared/mine.yml"
    mine.write_text(MINE % "second")
    assert service.query("status")["sha256"] != read_document(service.config).digest
    done = service.reload()
    assert done.returncode == 0, done.stderr
    assert models(service) == ["demo", "second"]
    assert service.query("status")["sha256"] == read_document(service.config).digest


def test_reload_of_an_invalid_included_file(service: Service) -> None:
    """A reload that fails because of an included file names that file and line, and changes nothing."""
    mine = service.folder / "configs/shared/mine.yml"
    before = mine.read_text()
    mine.write_text("model_list:\n  - {model_nam: x}\n")
    done = service.reload()
    mine.write_text(before)
    assert done.returncode != 0
    assert f"{mine}:2:6: model_list[1].model_nam" in done.stderr
    assert models(service) == ["demo", "second"]


def test_a_replaced_worker_needs_no_included_file(service: Service) -> None:
    """A replaced worker serves the loaded configuration, also if the included file was removed."""
    mine = service.folder / "configs/shared/mine.yml"
    mine.rename(mine.with_suffix(".away"))
    for victim in service.await_workers():
        os.kill(victim, signal.SIGKILL)
        service.await_workers(without=victim)
    assert models(service) == ["demo", "second"]
    done = service.reload()
    assert f"{service.folder}/configs/main.yml:1:11 includes shared/mine.yml, which doesn't exist" in done.stderr
    mine.with_suffix(".away").rename(mine)


def test_a_python_file_is_loaded_by_a_reload(service: Service) -> None:
    """An edited Python file, also one that a callback imports, counts as an edit, and takes effect at a reload.

    Until then a worker that is replaced runs the code that was loaded, even if a file is gone or invalid now.
    """
    seen, helper = service.folder / "near.seen", service.folder / "configs/near_helper.py"
    assert seen.read_text() == "one"
    helper.write_text("VERSION = 'two'\n")
    assert service.query("status")["sha256"] != read_document(service.config).digest
    helper.write_text("VERSION = \n")
    near = (service.folder / "configs/near.py").rename(service.folder / "away.py")
    seen.unlink()
    victim = service.workers()[0]
    os.kill(victim, signal.SIGKILL)
    service.await_workers(without=victim)
    assert seen.read_text() == "one"
    near.rename(service.folder / "configs/near.py")
    helper.write_text("VERSION = 'two'\n")
    done = service.reload()
    assert done.returncode == 0, done.stderr
    assert seen.read_text() == "two"


def test_a_failing_python_file_is_named(service: Service) -> None:
    """A reload fails with the setting, LiteLLM's error, its cause and its line, and the service goes on."""
    path = service.folder / "configs/near.py"
    before, served = path.read_text(), models(service)
    path.write_text("import no_such_package\nhandler = None\n")
    done = service.reload()
    assert done.returncode != 0
    cause = (
        f"LiteLLM rejects {service.folder}/configs/main.yml: litellm_settings.callbacks[0]: Could not import handler"
        f" from near: ModuleNotFoundError: No module named 'no_such_package' ({path}:1)"
    )
    assert cause in done.stderr
    path.write_text("")
    done = service.reload()
    assert "main.yml:8:32: litellm_settings.callbacks[0] is near.handler, but near.py does not define" in done.stderr
    path.write_text(before)
    assert models(service) == served


def test_a_configuration_without_models(service: Service) -> None:
    """A configuration that only passes requests through is served, and verify passes."""
    with stub() as upstream:
        target = f"http://127.0.0.1:{upstream.server_port}/health/liveliness"
        endpoint = {"path": "/our/rerank", "target": target, "methods": ["GET"]}
        settings = {"master_key": "os.environ/LITELLM_MASTER_KEY", "pass_through_endpoints": [endpoint]}
        (service.folder / "configs/main.yml").write_text(json.dumps({"general_settings": settings}))
        done = service.reload()
        assert done.returncode == 0, done.stderr
        gateway = Gateway(f"http://127.0.0.1:{service.port}", KEY)
        report = verify(gateway, Scope(read_config(service.config).names))
        assert report.exit_code is ExitCode.OK, report.as_json()
        assert next(each.detail for each in report.checks if each.name == "models") == (
            "none listed, and none is configured"
        )
        assert gateway.get("/our/rerank").json() == "I'm alive!"
