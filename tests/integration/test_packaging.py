"""The distribution: built, installed in a new venv, and run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.releases.bundle import Target, open_bundle
from litellm_systemd.releases.requirements_lock import LOCK
from litellm_systemd.releases.source import find_source, wheel_source
from litellm_systemd.releases.venvs import find_uv
from tests.bundle import WHEELS, own_bundle

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = {"access_key_config.yml", "demo.yml", "iam_role_config.yml", "prompt_caching.yml"}
OTHERS = {
    "cloudformation/ec2.yaml",
    "cloudformation/fleet.yaml",
    "grafana/litellm.json",
    "prometheus/litellm.rules.yml",
    "prometheus/prometheus.yml",
}
TEMPLATES = {"litellm.env.j2", "litellm.service.j2", "litellm.socket.j2", "sysusers.conf.j2", "tmpfiles.conf.j2"}
TEMPLATES |= {"litellmctl.j2"}


def run(*argv: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, env=env, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit: the files that git tracks here, as they are now."""
    folder = tmp_path_factory.mktemp("repository")
    for name in filter(None, run("git", "ls-files", "-z", cwd=REPOSITORY).split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / name).is_file():
            shutil.copy(REPOSITORY / name, target)
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    author = ("-c", "user.name=Tests", "-c", "user.email=tests@example.invalid")
    run("git", *author, "commit", "--quiet", "--no-verify", "--message", "All", cwd=folder)
    return folder


def release(repository: Path, out: Path, *options: str, umask: str = "022") -> Path:
    """Run scripts/release.sh of a repository without a network. Returns `out`."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "UV_OFFLINE": "1"}
    script = f'umask {umask} && exec "$@"'
    argv = (str(repository / "scripts/release.sh"), "--output", str(out), *options)
    run("sh", "-c", script, "sh", *argv, env=environment)
    return out


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sdist and wheel, built by scripts/release.sh."""
    return release(repository, tmp_path_factory.mktemp("dist"), "--no-bundles")


def test_release_is_reproducible(repository: Path, built: Path, tmp_path: Path) -> None:
    """A clone of another path, time and umask builds the same sdist, wheel and checksums."""
    clone = tmp_path / "a clone in a folder with spaces"
    run("sh", "-c", 'umask 077 && git clone --quiet "$0" "$1"', str(repository), str(clone))
    for path in clone.rglob("*.py"):
        os.utime(path, (10**9, 10**9))
    again = release(clone, tmp_path / "again", "--no-bundles", umask="077")
    assert content(again) == content(built)
    run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=built)
    assert len((built / "SHA256SUMS").read_text().splitlines()) == 2


def test_bundle_is_reproducible(repository: Path, tmp_path: Path) -> None:
    """Two bundles of one commit are the same byte for byte and contain the code of the wheel."""
    own_bundle()  # skips if the packages of the lock have not been downloaded
    here = Target()
    options = ("--bundle", f"{here.python}-{here.machine}", "--wheels", str(WHEELS))
    first, second = (release(repository, tmp_path / name, *options) for name in ("first", "second"))
    assert content(first) == content(second)
    [bundle], [wheel] = first.glob("*.tar"), first.glob("*.whl")
    assert open_bundle(bundle).code == wheel_source(wheel).code


def content(folder: Path) -> dict[str, str]:
    """The digest of each file by its name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_build_leaves_nothing_in_the_source(repository: Path, tmp_path: Path) -> None:
    """`pip install .`, an editable install and `uv build` leave no build/ and no egg-info in the checkout."""
    clone, python = tmp_path / "clone", str(tmp_path / "venv/bin/python")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    run("git", "clone", "--quiet", str(repository), str(clone))
    uv = find_uv()
    assert uv is not None
    run(uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv"))
    for options in ((), ("--editable",)):
        install = (uv, "pip", "install", "--offline", "--quiet", "--no-deps", "--python", python)
        run(*install, *options, str(clone), env=environment)
    run(uv, "build", "--offline", "--quiet", "--out-dir", str(tmp_path / "dist"), str(clone), env=environment)
    assert run("git", "status", "--porcelain", "--ignored", cwd=clone) == ""


def test_sdist_is_complete(built: Path) -> None:
    """The sdist contains units, configurations and the licence, so that a wheel can be built from it."""
    [archive] = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[1] for name in opened.getnames() if "/" in name}
    assert {f"units/{name}" for name in TEMPLATES} <= names
    assert {f"configs/{name}" for name in CONFIGS | OTHERS | {"env.example"}} <= names
    assert "LICENSE" in names


def test_wheel_has_one_package(built: Path) -> None:
    """The wheel has one import package, and no `installer`, `units` or `configs` that others might overwrite."""
    [archive] = built.glob("*.whl")
    with zipfile.ZipFile(archive) as opened:
        tops = {name.split("/")[0] for name in opened.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"litellm_systemd"}


READ = """
import json
from litellm_systemd import resources
from litellm_systemd.releases.advisories import list_advisories
from litellm_systemd.releases.source import sdnotify_wheel
print(json.dumps({
    "configs": list(resources.config_names()),
    "example": len(resources.read_config("env.example")),
    "others": min(len(resources.read_config(name)) for name in %r),
    "templates": {name: len(resources.read_template(name)) for name in %r},
    "page": len(resources.read_page()),
    "advisories": len(list(list_advisories())),
    "sdnotify": sdnotify_wheel().stat().st_size,
    "typed": (resources.files("litellm_systemd") / "py.typed").is_file(),
}))
"""


def test_installed_wheel_reads_its_resources(built: Path, tmp_path: Path) -> None:
    """In a new venv outside of the checkout, the installed wheel finds each file that it ships, and its command."""
    [archive] = built.glob("*.whl")
    uv = find_uv()
    assert uv is not None
    run(uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv"), env=dict(os.environ))
    python = str(tmp_path / "venv" / "bin" / "python")
    # The versions that test.sh installed: the cache need not have the newest that an index has.
    constraints = ("--constraints", f"{sys.prefix}/constraints.txt")
    install = (uv, "pip", "install", "--offline", "--quiet", "--python", python, *constraints, str(archive))
    run(*install, env=dict(os.environ))
    found = json.loads(run(python, "-I", "-c", READ % (sorted(OTHERS), sorted(TEMPLATES)), cwd=tmp_path))
    assert set(found["configs"]) == CONFIGS
    assert set(found["templates"]) == TEMPLATES
    assert min(found["example"], found["others"], found["page"], found["advisories"], found["sdnotify"]) > 0
    assert min(found["templates"].values()) > 0
    assert found["typed"] is True
    version = distribution("litellm-systemd").version
    assert run(str(tmp_path / "venv" / "bin" / "litellmctl"), "--version") == f"litellmctl {version}\n"
    assert run(python, "-m", "litellm_systemd", "--version", cwd=tmp_path) == f"litellmctl {version}\n"
    # The installed package gives the same release as the checkout.
    pack = "from litellm_systemd.releases.source import find_source; print(find_source().identifier)"
    assert run(python, "-I", "-c", pack).strip() == find_source().identifier


def test_release_name_does_not_depend_on_the_source(built: Path) -> None:
    """A checkout and its wheel give the same release, so that a second install builds nothing."""
    [archive] = built.glob("*.whl")
    checkout, wheel = find_source(), wheel_source(archive)
    assert checkout.identifier == wheel.identifier == find_source().identifier
    assert (checkout.version, checkout.code, checkout.lock) == (wheel.version, wheel.code, wheel.lock)


@pytest.mark.parametrize("change", [{"code": "0" * 64}, {"lock": ""}, {"python": Path("/usr/bin/python3.99")}])
def test_release_name_depends_on_the_content(change: dict[str, Any]) -> None:
    """Other code, another lock or another Python give another release."""
    source = find_source()
    assert replace(source, **change).identifier != source.identifier


def test_wheel_has_the_lock(built: Path) -> None:
    """The lock ships with the package."""
    [archive] = built.glob("*.whl")
    with zipfile.ZipFile(archive) as opened:
        assert opened.read(f"litellm_systemd/{LOCK}").decode() == find_source().lock
