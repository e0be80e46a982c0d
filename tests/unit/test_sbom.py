"""The bill of materials: valid CycloneDX with name, version, purl, hashes and licences of each package."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.commands.releases import read_sbom
from litellm_systemd.errors import MissingError, UsageError
from litellm_systemd.host.layout import Layout
from litellm_systemd.releases.inventory import Release
from litellm_systemd.releases.sbom import SBOM, build_sbom, installed_packages, packed_package
from tests.cyclonedx import assert_valid

MADE = "2026-11-29T12:00:00Z"
PACKAGES = {
    "Some.Package": ("1.0+local", "License-Expression: MIT OR Apache-2.0\n"),
    "old": ("2", "Classifier: License :: OSI Approved :: BSD License\nClassifier: License :: OSI Approved\n"),
    "older": ("3", "License: MPL-2.0\n"),
    "wordy": ("4", f"License: {'Permission is hereby granted. ' * 9}\n"),
    "litellm_systemd": ("0.1.0", ""),
}
A, B = "a" * 64, "b" * 64


def metadata(name: str) -> str:
    version, fields = PACKAGES[name]
    return f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{fields}\nSome text.\n"


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    for name in PACKAGES:
        folder = tmp_path / "venv/lib/python3.11/site-packages" / f"{name}-{PACKAGES[name][0]}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(metadata(name), encoding="utf-8")
    return tmp_path / "venv"


def components(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in document["components"]}


def test_packages_of_a_release(venv: Path) -> None:
    """A release lists its packages with purl, licence and the hashes that the lock allows, as valid CycloneDX."""
    hashes = {("some-package", "1.0+local"): (A, B), ("old", "2"): (A,)}
    document = build_sbom("0.1.0", installed_packages(venv, hashes), MADE, "a release")
    assert_valid(document)
    found = components(document)
    assert list(found) == ["old", "older", "some-package", "wordy"]
    assert document["metadata"]["component"]["version"] == "0.1.0"
    assert found["some-package"]["purl"] == "pkg:pypi/some-package@1.0%2Blocal"
    [reference] = found["some-package"]["externalReferences"]
    assert [each["content"] for each in reference["hashes"]] == [A, B]
    assert found["old"]["hashes"] == [{"alg": "SHA-256", "content": A}]
    assert found["some-package"]["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert found["old"]["licenses"] == [{"license": {"name": "BSD License"}}]
    assert found["older"]["licenses"] == [{"license": {"name": "MPL-2.0"}}]
    assert "licenses" not in found["wordy"]


def test_packages_of_a_bundle(tmp_path: Path) -> None:
    """A bundle lists the exact wheels, and the same content gives the same document."""
    wheel = tmp_path / "older-3-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("older/vendored-1.dist-info/METADATA", metadata("old"))
        archive.writestr("older-3.dist-info/METADATA", metadata("older"))
    first, second = (build_sbom("0.1.0", [packed_package(wheel, B)], MADE, "a bundle") for _ in range(2))
    assert first == second
    assert_valid(first)
    assert components(first)["older"]["hashes"] == [{"alg": "SHA-256", "content": B}]


def test_printed_by_name(tmp_path: Path) -> None:
    """`releases sbom` prints that of the current or the named release; without one it says how to get one."""
    layout = Layout(root=tmp_path)
    for name in ("0.1.0-aaa", "0.1.1-bbb"):
        folder = layout.real(layout.release(name))
        folder.mkdir(parents=True)
        (folder / "release.json").write_text(Release(name).as_mark(), encoding="utf-8")
    layout.real(layout.current).symlink_to("releases/0.1.1-bbb")
    (layout.real(layout.release("0.1.1-bbb")) / SBOM).write_text('{"version": 1}\n', encoding="utf-8")
    assert json.loads(read_sbom(layout, None)) == json.loads(read_sbom(layout, "0.1.1")) == {"version": 1}
    with pytest.raises(MissingError, match=r"0\.1\.0-aaa has no bill of materials") as caught:
        read_sbom(layout, "0.1.0")
    assert "upgrade" in caught.value.hint
    with pytest.raises(UsageError, match=r"0\.1 is not unique"):
        read_sbom(layout, "0.1")
