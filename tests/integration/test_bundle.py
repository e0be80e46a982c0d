"""Releases that uv and pip build from a bundle, without a package index."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from litellm_systemd.command import run
from litellm_systemd.errors import CommandError, InputError, InstallerError
from litellm_systemd.host.layout import Layout
from litellm_systemd.releases import bundle as bundles
from litellm_systemd.releases import venvs
from litellm_systemd.releases.additions import extend
from litellm_systemd.releases.archive import read_manifest
from litellm_systemd.releases.build import build_release, try_import, try_release
from litellm_systemd.releases.bundle import Target, open_bundle, open_own_bundle, open_source, write_bundle
from litellm_systemd.releases.requirements_lock import (
    Pin,
    parse_lock,
    pinned_versions,
    render_lock,
    target_environment,
)
from litellm_systemd.releases.sbom import SBOM
from litellm_systemd.releases.source import Source, find_source
from litellm_systemd.releases.venvs import find_uv
from tests.bundle import WHEELS, own_bundle
from tests.cyclonedx import assert_valid
from tests.wheels import own_wheel

#: Additions to the release: a group, and a package of the user's own.
OWN = "my_callback-1.2-py3-none-any.whl"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """This package with additions."""
    own_bundle()  # without the wheels of test.sh, the tests are skipped
    wheel = own_wheel(tmp_path_factory.mktemp("own"), "my_callback", "1.2", "click")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_OFFLINE", "1")
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(WHEELS))
        return extend(find_source(), ["sentry", str(wheel)])


@pytest.fixture(scope="module")
def bundle(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with additions, of the wheels that test.sh downloaded."""
    out = tmp_path_factory.mktemp("bundle") / "bundle.tar"
    write_bundle(source, out, Target(), wheels=WHEELS)
    return out


@pytest.fixture(scope="module")
def no_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """pip and uv have no package index, no cache and no folder of wheels."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
            patch.delenv(name)
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_NO_CACHE_DIR", "1")
        patch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        patch.setenv("UV_INDEX_URL", "http://127.0.0.1:9/simple")
        patch.setenv("UV_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def release(bundle: Path, no_index: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of the bundle, made by uv. (tests/system/test_scripts.py has one made by pip.)"""
    if find_uv() is None:
        pytest.skip("uv is not installed")
    layout = Layout(root=tmp_path_factory.mktemp("root"))
    return layout.real(layout.release(build_release(layout, open_bundle(bundle))))


def versions(release: Path) -> dict[str, str]:
    [packages] = release.glob("lib/python*/site-packages")
    found = importlib.metadata.distributions(path=[str(packages)])
    return {item.name.lower().replace("_", "-").replace(".", "-"): item.version for item in found}


def test_release_matches_the_lock(bundle: Path, release: Path, source: Source) -> None:
    """A release of a bundle has exactly the versions of the lock, additions included, is compiled, and contains its
    final path.
    """
    assert open_bundle(bundle).identifier == source.identifier
    environment = target_environment(Target().python, sys.version_info[2], Target().machine)
    wanted = pinned_versions(parse_lock(source.lock), environment) | {
        "litellm-systemd": source.version,
        "sdnotify": "0.3.2",
    }
    assert versions(release) == wanted
    assert {"sentry-sdk", "my-callback"} < wanted.keys()
    assert json.loads((release / "release.json").read_text(encoding="utf-8"))["additions"] == ["sentry", OWN]
    assert (release / "wheels" / OWN).is_file()
    assert list(release.glob("lib/python*/site-packages/litellm/proxy/__pycache__/proxy_server.*.pyc"))
    assert str(release.parent).encode() not in (release / "bin/litellmctl").read_bytes()
    # No file is shared with the cache of uv, so damage to one does not reach the other.
    assert {path.stat().st_nlink for path in release.rglob("*.py")} == {1}


def test_bill_of_materials(bundle: Path, release: Path) -> None:
    """A release and a bundle list exactly their packages in valid CycloneDX: a bundle with the hash of each wheel, a
    release with those that the lock allows.
    """
    manifest, _ = read_manifest(bundle)
    installed = json.loads((release / SBOM).read_text(encoding="utf-8"))
    for document in (installed, dict(manifest.sbom)):
        assert_valid(document)
        found = {each["name"]: each["version"] for each in document["components"]}
        assert found == {name: value for name, value in versions(release).items() if name != "litellm-systemd"}
    packed = {each["hashes"][0]["content"] for each in manifest.sbom["components"]}
    assert packed == {digest for name, (digest, _) in manifest.files.items() if name.startswith("wheels/")}
    allowed = [each.get("hashes") or each["externalReferences"][0]["hashes"] for each in installed["components"]]
    assert packed <= {each["content"] for hashes in allowed for each in hashes}


@pytest.mark.parametrize("package", ["litellm_systemd/runtime", "litellm"])
def test_release_that_cannot_be_imported(bundle: Path, release: Path, package: str) -> None:
    """A venv that cannot import the service or LiteLLM is rejected with the reason and becomes no release."""
    source, python = open_bundle(bundle), str(release / "bin/python")
    assert try_release(python, source.lock, source.version).startswith("3.")
    [module] = release.glob(f"lib/python*/site-packages/{package}/__init__.py")
    original = module.read_text(encoding="utf-8")
    module.write_text("raise ImportError('spoiled on purpose')\n", encoding="utf-8")
    try:
        with pytest.raises(InstallerError, match="spoiled on purpose"):
            try_import(python)
        if package != "litellm":
            with pytest.raises(InstallerError, match="spoiled on purpose"):
                try_release(python, source.lock, source.version)
    finally:
        module.write_text(original, encoding="utf-8")


@pytest.mark.usefixtures("no_index")
@pytest.mark.parametrize("maker", ["uv", "pip"])
def test_wheel_with_another_hash(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maker: str) -> None:
    """A wheel whose hash is not in the lock is not installed, by uv or by pip, and no release is left."""
    if maker == "pip":
        monkeypatch.setattr(venvs, "find_uv", lambda: None)

    def other(pin: Pin) -> Pin:
        return replace(pin, hashes=("0" * 64,)) if pin.name == "click" else pin

    source = open_bundle(bundle)
    changed = replace(source, lock=render_lock(map(other, parse_lock(source.lock))))
    layout = Layout(root=tmp_path / "root")
    with pytest.raises(CommandError, match=r"(?i)click|hash"):
        build_release(layout, changed)
    assert list(layout.real(layout.releases).iterdir()) == []


@pytest.mark.usefixtures("no_index")
def test_damaged_bundle_builds_nothing(bundle: Path, tmp_path: Path) -> None:
    """A bundle with one changed byte in a wheel is refused before it is used."""
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    spoiled = tmp_path / "spoiled.tar"
    spoiled.write_bytes(content)
    layout = Layout(root=tmp_path / "root")
    with pytest.raises(InputError, match="doesn't match the manifest"):
        build_release(layout, open_source(spoiled))
    assert list(layout.real(layout.releases).iterdir()) == []


def test_manifest_describes_the_bundle(bundle: Path, source: Source) -> None:
    """The manifest has the versions, the target, and each file with its hash; LiteLLM's wheel is one of them."""
    manifest, lock = read_manifest(bundle)
    assert (manifest.python, manifest.machine) == (Target().python, Target().machine)
    assert any(name.startswith(f"wheels/litellm-{manifest.litellm}-") for name in manifest.files)
    assert lock == source.lock


def test_bundle_of_another_version(bundle: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """install accepts only a bundle of its own version, and names `upgrade --from` for another one."""
    assert open_own_bundle(bundle).identifier == source.identifier
    monkeypatch.setattr(bundles, "find_source", lambda: replace(source, code="0" * 64))
    with pytest.raises(InputError, match="contains another litellm-systemd") as caught:
        open_own_bundle(bundle)
    assert f"upgrade --from {bundle}" in caught.value.hint


@pytest.fixture
def refuse_bundle(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run `litellmctl bundle` with these arguments, expect an error, and return its text."""
    from litellm_systemd.cli import run_command

    def refuse(*arguments: str) -> str:
        assert run_command(["bundle", *arguments]) != 0
        return capsys.readouterr().err

    return refuse


def test_bundle_for_an_unsupported_python(refuse_bundle: Callable[..., str], tmp_path: Path) -> None:
    """An unsupported Python version is refused by name, before anything is downloaded."""
    assert "does not run on Python 3.9" in refuse_bundle("--python", "3.9", "-o", str(tmp_path / "x.tar"))
    assert not (tmp_path / "x.tar").exists()


def test_bundle_in_a_missing_folder(refuse_bundle: Callable[..., str], tmp_path: Path) -> None:
    """A missing output folder is reported as missing."""
    assert "No such file or directory" in refuse_bundle("-o", str(tmp_path / "none" / "x.tar"))


def test_unpacked_bundle_runs(bundle: Path, tmp_path: Path) -> None:
    """As in quickstart.sh, the checkout's code, without any package, unpacks a bundle that pip installs without an
    index.
    """
    source = Path(__file__).resolve().parents[2] / "installer"
    argv = (
        sys.executable,
        "-B",
        "-S",
        "-m",
        "litellm_systemd.releases.archive",
        "unpack",
        str(bundle),
        str(tmp_path),
    )
    done = subprocess.run(argv, env={"PYTHONPATH": str(source)}, capture_output=True, text=True, check=True)
    assert done.stdout == f"{Target().python}\n"
    names = {path.name for path in tmp_path.iterdir()}
    assert names > {"requirements.lock", "wheels"}
    assert run(("ls", str(tmp_path / "wheels"))).stdout.count(".whl") > 100
