"""How included files are merged: our reader against the real LiteLLM's own loader."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from litellm_systemd.errors import InstallerError
from litellm_systemd.gateway.config import read_document, render_document
from tests.integration.litellm_process import OFFLINE

CONFIGS = Path(__file__).parents[2] / "configs"

#: Responds to each path with the configuration that LiteLLM loads, or with its error.
LOADER = """
import asyncio, json, sys
from litellm.proxy.proxy_server import ProxyConfig
print("ready", flush=True)
for line in sys.stdin:
    try:
        found = asyncio.run(ProxyConfig()._get_config_from_file(json.loads(line)))
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print("\\n=" + json.dumps(found), flush=True)
"""


@dataclass
class Loader:
    """LiteLLM's loader in a separate process."""

    process: subprocess.Popen[str]

    def load(self, path: Path) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(str(path)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.read("="))

    def read(self, start: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line.removeprefix(start)
        raise AssertionError("LiteLLM's loader has ended")


@pytest.fixture(scope="module")
def litellm() -> Iterator[Loader]:
    argv = (sys.executable, "-c", LOADER)
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=OFFLINE
    ) as process:
        loader = Loader(process)
        loader.read("ready")
        yield loader
        assert process.stdin is not None
        process.stdin.close()


#: Folders of files, and the names of files relative to them. `gone.yml` does not exist.
FILES = ("root.yml", "one.yml", "sub/one.yml", "sub/two.yml", "two.yml")
ENTRIES = ("one.yml", "two.yml", "sub/one.yml", "../two.yml", "sub/../one.yml", "./root.yml", "gone.yml")

values = st.one_of(
    st.none(),
    st.integers(0, 3),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 3), max_size=2),
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "include": st.lists(st.sampled_from(ENTRIES), max_size=3),
        "model_list": st.lists(st.integers(0, 9), max_size=2),
        "router_settings": values,
        "litellm_settings": values,
        "x-identity": st.sampled_from(["iam-role", "access-key"]),
    },
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.fixed_dictionaries(dict.fromkeys(FILES, documents)))
def test_files_are_merged_as_litellm_merges_them(litellm: Loader, files: dict[str, dict[str, Any]]) -> None:
    """For any files, our reader returns what LiteLLM loads, also from one merged text, or both refuse them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        (folder / "sub").mkdir()
        for file, document in files.items():
            (folder / file).write_text(yaml.safe_dump(document) if document else "", encoding="utf-8")
        theirs = litellm.load(folder / "root.yml")
        try:
            ours = read_document(folder / "root.yml").data
        except InstallerError:
            assert "error" in theirs
            return
        assert ours == theirs
        (folder / "merged.yml").write_text(render_document(ours), encoding="utf-8")
        assert litellm.load(folder / "merged.yml") == theirs


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yml")), ids=lambda path: path.name)
def test_shipped_configurations(litellm: Loader, path: Path) -> None:
    """Each shipped configuration with its included files is read as LiteLLM loads it."""
    assert litellm.load(path) == read_document(path).data


def test_litellm_does_not_resolve_links(litellm: Loader, tmp_path: Path) -> None:
    """LiteLLM looks for included files next to the given path, so through a link in another folder it finds none."""
    (tmp_path / "config.yaml").symlink_to(CONFIGS / "demo.yml")
    assert "Included file not found" in litellm.load(tmp_path / "config.yaml")["error"]
    assert read_document(tmp_path / "config.yaml").data == litellm.load(CONFIGS / "demo.yml")


def test_a_users_model_is_in_all_bedrock_configurations(litellm: Loader, tmp_path: Path) -> None:
    """LiteLLM serves a model of the user's own file in each of the three Bedrock configurations, whose own lines do
    not change.
    """
    shutil.copytree(CONFIGS, tmp_path / "configs")
    own = {"model_name": "nova-pro", "litellm_params": {"model": "bedrock/us.amazon.nova-pro-v1:0"}}
    text = yaml.safe_dump({"model_list": [own]})
    (tmp_path / "configs/shared/my_models.yml").write_text(text, encoding="utf-8")
    for name in ("iam_role_config.yml", "access_key_config.yml", "prompt_caching.yml"):
        before = litellm.load(CONFIGS / name)
        assert litellm.load(tmp_path / "configs" / name) == {**before, "model_list": [*before["model_list"], own]}
