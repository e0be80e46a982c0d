"""Build a release, with fakes of uv and pip."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from litellm_systemd.command import Result, interruptible
from litellm_systemd.errors import CommandError, InputError, InstallerError, Interrupted, Unavailable, UsageError
from litellm_systemd.host import service_user
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import observe_releases
from litellm_systemd.releases import build
from litellm_systemd.releases import source as sources
from litellm_systemd.releases.build import build_release, try_configuration, try_release
from litellm_systemd.releases.bundle import Target, write_bundle
from litellm_systemd.releases.inventory import read_release
from litellm_systemd.releases.requirements_lock import parse_lock, pinned_version
from litellm_systemd.releases.source import Materials, Source, find_source, wheel_source
from litellm_systemd.releases.venvs import Venv, make_movable

LOCK = "litellm==1.108.7 --hash=sha256:" + "a" * 64 + "\n"


class Nowhere:
    """An empty origin."""

    def prepare(self, scratch: Path) -> Materials:
        return Materials(scratch / "none.whl")


SOURCE = Source("0.1.0", "c" * 64, LOCK, Path("/usr/bin/python3"), Nowhere())


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(root=tmp_path)


@pytest.fixture(autouse=True)
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake a working venv: a folder with a script."""

    def make_venv(folder: Path, python: Path) -> Venv:
        (folder / "bin").mkdir(parents=True)
        (folder / "pyvenv.cfg").write_text(f"command = {python} -m venv {folder}\n", encoding="utf-8")
        script = folder / "bin/litellmctl"
        script.write_text(f"#!{folder}/bin/python\n", encoding="utf-8")
        script.chmod(0o755)
        return Venv(folder, None)

    monkeypatch.setattr(build, "make_venv", make_venv)
    monkeypatch.setattr(build, "install_lock", lambda *_: None)
    monkeypatch.setattr(build, "install_wheel", lambda *_: None)
    monkeypatch.setattr(build, "try_release", lambda *_: "3.11.2")
    monkeypatch.setattr(build, "try_import", lambda *_: None)
    monkeypatch.setattr(build, "take_snapshot", lambda *_: None)


def left(layout: Layout) -> list[str]:
    return sorted(path.name for path in layout.real(layout.releases).iterdir())


@pytest.mark.parametrize(
    "lock",
    [
        LOCK.replace("1.108.7", "1.107.0"),
        LOCK.replace("litellm==1.108.7", "LiteLLM==1.107.0+mine"),
        LOCK.replace("1.108.7", "1.108.7 ; python_version<'3.12'") + LOCK.replace("1.108.7", "v1.107"),
    ],
    ids=["plain", "spelling", "second"],
)
def test_release_with_a_compromised_litellm(layout: Layout, tmp_path: Path, lock: str) -> None:
    """Neither a release nor a bundle is made of a lock that has a compromised LiteLLM, and nothing is written."""
    source = replace(SOURCE, lock=lock)
    with pytest.raises(InputError, match=r"LiteLLM 1\.107\.0 is refused: it is reported as compromised.*https://"):
        build_release(layout, source)
    with pytest.raises(InputError, match=r"LiteLLM 1\.107\.0 is refused"):
        write_bundle(source, tmp_path / "bundle.tar", Target())
    assert list(tmp_path.iterdir()) == []


def test_release_is_complete(layout: Layout) -> None:
    """A release has its mark, its lock and scripts with its path. All users can read it. No other file is left."""
    before = os.umask(0o077)
    try:
        identifier = build_release(layout, SOURCE)
    finally:
        os.umask(before)
    folder = layout.real(layout.release(identifier))
    mark = read_release(layout, identifier)
    assert (mark.version, mark.litellm, mark.python) == ("0.1.0", "1.108.7", "/usr/bin/python3")
    assert (mark.python_version, mark.made_by, mark.identifier) == ("3.11.2", "pip", identifier)
    assert (folder / "requirements.lock").read_text(encoding="utf-8") == LOCK
    assert (folder / "bin/litellmctl").read_text(encoding="utf-8") == f"#!{layout.release(identifier)}/bin/python\n"
    assert str(layout.root) not in (folder / "pyvenv.cfg").read_text(encoding="utf-8")
    assert left(layout) == [identifier]
    assert stat.S_IMODE(folder.stat().st_mode) & 0o055 == 0o055


def test_existing_release_is_not_changed(layout: Layout) -> None:
    """A second build of the same source changes nothing."""
    identifier = build_release(layout, SOURCE)
    said: list[str] = []
    before = layout.real(layout.release(identifier)).stat().st_mtime_ns
    assert build_release(layout, SOURCE, said.append) == identifier
    assert said == []
    assert layout.real(layout.release(identifier)).stat().st_mtime_ns == before


def test_damaged_release_is_built_again(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged release is built again and replaced in one step. If the build fails, it is left as it was, and the
    error names its damage.
    """
    folder = layout.real(layout.release(build_release(layout, SOURCE)))
    (folder / "pyvenv.cfg").write_text("", encoding="utf-8")

    def offline(*_: object) -> None:
        raise CommandError(("uv",), 2, "error: no network", "Make a bundle.")

    with monkeypatch.context() as patch:
        patch.setattr(build, "install_lock", offline)
        with pytest.raises(CommandError) as caught:
            build_release(layout, SOURCE)
    message = f"release {folder.name} is damaged (pyvenv.cfg is changed) and can't be built again: error: no network"
    assert (caught.value.message, caught.value.hint) == (message, "Make a bundle.")
    assert (folder / "pyvenv.cfg").read_text(encoding="utf-8") == ""
    with monkeypatch.context() as patch:
        # After a power failure between a rename and the next one, no release would have that name.
        patch.setattr(Path, "rename", None)
        build_release(layout, SOURCE)
    assert (folder / "pyvenv.cfg").read_text(encoding="utf-8") != ""
    assert left(layout) == [SOURCE.identifier]


def test_modes_are_restored_without_a_build(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that the service's user cannot read gets its modes back, which needs no package."""
    folder = layout.real(layout.release(build_release(layout, SOURCE)))
    (folder / "pyvenv.cfg").chmod(0o600)
    monkeypatch.setattr(build, "install_lock", failing)
    build_release(layout, SOURCE)
    assert stat.S_IMODE((folder / "pyvenv.cfg").stat().st_mode) == 0o644


def failing(*_: object) -> str:
    raise InstallerError("it doesn't work")


@pytest.mark.parametrize(
    "step", ["make_venv", "install_lock", "install_wheel", "try_release", "try_configuration", "try_import"]
)
def test_failure_leaves_nothing(layout: Layout, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """If any step fails, no release and no temporary file is left, and the next run can build the release."""
    with monkeypatch.context() as patch:
        patch.setattr(build, step, failing)
        with pytest.raises(InstallerError, match="doesn't work"):
            build_release(layout, SOURCE)
    assert left(layout) == []
    assert build_release(layout, SOURCE) == left(layout)[0]


@pytest.mark.parametrize("starts", [True, False])
@pytest.mark.parametrize("has_configuration", [True, False])
def test_litellm_is_imported_once(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, starts: bool, has_configuration: bool
) -> None:
    """The test of a release imports LiteLLM only if no installed configuration and no start of the service does."""
    imported: list[str] = []
    monkeypatch.setattr(build, "try_configuration", lambda *_: has_configuration)
    monkeypatch.setattr(build, "try_import", imported.append)
    build_release(layout, SOURCE, starts=starts)
    assert len(imported) == (not starts and not has_configuration)


def test_full_disk(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk error is reported with file and reason, and leaves no file."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/opt/x")

    monkeypatch.setattr(build, "make_movable", full)
    with pytest.raises(InstallerError, match="No space left on device: /opt/x"):
        build_release(layout, SOURCE)
    assert left(layout) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_build(layout: Layout, monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    """A signal while upgrade, rollback or `doctor --fix` builds a release, or bundle a bundle, ends it with its exit
    code and leaves nothing. The next run completes it.
    """

    def interrupt(*_: object) -> None:
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch, interruptible():
        patch.setattr(build, "install_lock", interrupt)
        with pytest.raises(Interrupted) as caught:
            build_release(layout, SOURCE)
    assert (int(caught.value.code), left(layout)) == (code, [])
    identifier = build_release(layout, SOURCE)
    assert left(layout) == [identifier]
    before = sorted(layout.root.iterdir())
    with monkeypatch.context() as patch, interruptible():
        patch.setattr(Nowhere, "prepare", interrupt)
        with pytest.raises(Interrupted):
            write_bundle(SOURCE, layout.root / "bundle.tar", Target())
    assert sorted(layout.root.iterdir()) == before


def test_leftovers_of_a_killed_run(layout: Layout) -> None:
    """The next build removes the leftovers of a killed one, and a folder without a mark under its own name."""
    killed = layout.real(layout.releases) / ".staging-0.0.9-eee"
    (killed / "venv/bin").mkdir(parents=True)
    layout.real(layout.release(SOURCE.identifier)).mkdir()
    assert observe_releases(layout) == ()
    assert [build_release(layout, SOURCE)] == left(layout)


def test_concurrent_build(layout: Layout) -> None:
    """A second run is refused during a build, and does not change the files of the first."""
    other = layout.real(layout.releases) / ".staging-0.0.9-eee"
    other.mkdir(parents=True)
    handle = os.open(other, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="another process is building"):
            build_release(layout, SOURCE)
        assert left(layout) == [other.name]
    finally:
        os.close(handle)


def test_bad_lock_is_refused_first(layout: Layout) -> None:
    """A source with an invalid lock is refused before a file is written."""
    with pytest.raises(InputError):
        build_release(layout, replace(SOURCE, lock="litellm\n"))
    assert not layout.real(layout.releases).exists()


def test_scripts_move_and_programs_stay(tmp_path: Path) -> None:
    """The path is replaced only in scripts. Links and other files are unchanged."""
    venv = Venv(tmp_path / "staging", None)
    (venv.folder / "bin").mkdir(parents=True)
    (venv.folder / "pyvenv.cfg").write_text("home = /usr/bin\n", encoding="utf-8")
    (venv.folder / "bin/python").symlink_to("/usr/bin/python3")
    (venv.folder / "bin/tool").write_bytes(f"#!{venv.folder}/bin/python\n\xff".encode("latin-1"))
    make_movable(venv, "/opt/final")
    assert (venv.folder / "bin/tool").read_bytes() == b"#!/opt/final/bin/python\n\xff"
    assert (venv.folder / "bin/python").readlink() == Path("/usr/bin/python3")


# --- trying ---


def answering(monkeypatch: pytest.MonkeyPatch, *answers: Result) -> list[tuple[str, ...]]:
    """Fake the results of programs, in order. Returns the commands that ran."""
    ran: list[tuple[str, ...]] = []
    rest = list(answers)

    def run(argv: tuple[str, ...], **_: object) -> Result:
        ran.append(argv)
        return rest.pop(0)

    monkeypatch.setattr(build, "run", run)
    return ran


def probe(**versions: str) -> Result:
    found = {"python": "3.11.2", "environment": {}, "versions": {"litellm-systemd": "0.1.0", **versions}}
    return Result((), 0, json.dumps(found))


def test_release_that_matches_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A venv that can import LiteLLM and has the versions of the lock passes."""
    answering(monkeypatch, probe(litellm="1.108.7"))
    assert try_release("python", LOCK, "0.1.0") == "3.11.2"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Result((), 1, "", "Traceback\nImportError: no x\n"), "doesn't work: ImportError: no x"),
        (Result((), -9), "doesn't work: exit code -9"),
        (probe(litellm="1.108.8"), "has litellm 1.108.8, and the lock 1.108.7"),
        (probe(), "has litellm not at all, and the lock 1.108.7"),
    ],
)
def test_release_that_does_not_work(monkeypatch: pytest.MonkeyPatch, answer: Result, said: str) -> None:
    """A venv that can't import LiteLLM or differs from the lock is refused with the reason."""
    answering(monkeypatch, answer)
    with pytest.raises(InstallerError, match=said):
        try_release("python", LOCK, "0.1.0")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """An installed configuration on a fake running host."""

    class Host(Layout):
        @property
        def is_host(self) -> bool:
            return True

    layout = Host(root=tmp_path)
    for path in (layout.config_link, layout.environment_file, f"{layout.current}/bin/python"):
        layout.real(path).parent.mkdir(parents=True, exist_ok=True)
        layout.real(path).write_text("A=1\n", encoding="utf-8")
    monkeypatch.setattr(service_user, "user_exists", lambda *_: True)
    return layout


def quiet(_line: str) -> None: ...


def test_configuration_is_loaded_as_the_services_user(installed: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new release loads the installed configuration as the service's user."""
    ran = answering(monkeypatch, Result((), 0))
    try_configuration(installed, "/new/bin/python", quiet)
    assert ran[0][:2] == ("setpriv", "--reuid=litellm")
    assert ran[0][ran[0].index("/new/bin/python") :][-2:] == ("--config", "/etc/litellm/config.yaml")


BAD = Result((), 78, "", "<6>loading\n<3>no such provider\n")


def test_configuration_that_only_the_new_one_refuses(installed: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that can't load a configuration that the current one loads is refused with the runtime's message."""
    answering(monkeypatch, BAD, Result((), 0))
    with pytest.raises(InstallerError, match=r"can't load /etc/litellm/config.yaml: no such provider"):
        try_configuration(installed, "/new/bin/python", quiet)


def test_configuration_that_both_refuse(installed: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that the current release rejects too does not block the new one. It is only reported."""
    answering(monkeypatch, BAD, BAD)
    said: list[str] = []
    try_configuration(installed, "/new/bin/python", said.append)
    assert "doesn't load with the release in use either: no such provider" in said[-1]


def test_nothing_installed_yet(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an installed configuration, none is loaded."""
    assert answering(monkeypatch) == []
    assert not try_configuration(layout, "/new/bin/python", quiet)


# --- fetching ---


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("1.82.7", "steals AWS keys"),
        ("1.82.8", "steals AWS keys"),
        ("1.82.08", "steals AWS keys"),
        ("1.107.0", "compromised"),
        ("1.50.0", "works with LiteLLM"),
        ("9.0", "works with LiteLLM"),
        ("--index-url=x", "is not a version"),
        ("latest", "is not a version"),
    ],
)
def test_litellm_that_is_refused(tmp_path: Path, version: str, said: str) -> None:
    """A LiteLLM that is compromised, that this package doesn't support, or that is no version, is refused at once."""
    with pytest.raises(UsageError, match=said):
        sources.fetch_litellm(version, tmp_path)


def locking(version: str) -> Callable[..., str]:
    return lambda *_: LOCK.replace("1.108.7", version)


@pytest.mark.parametrize("by", ["_by_uv", "_by_pip"])
def test_litellm_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """Another LiteLLM is the current package with another lock, so another release."""
    monkeypatch.setattr(sources, "find_uv", lambda: "uv" if by == "_by_uv" else None)
    monkeypatch.setattr(sources, by, locking("1.108.10"))
    source, present = sources.fetch_litellm("1.108.10", tmp_path), find_source()
    assert (source.version, source.code) == (present.version, present.code)
    assert pinned_version(source.lock, "litellm") == "1.108.10"
    assert source.identifier != present.identifier


def test_lock_is_asked_for_what_it_can_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the packages of the lock that have a wheel are resolved for another LiteLLM."""
    asked: list[str] = []

    def remember(_source: Source, requirements: list[str], _scratch: Path) -> str:
        asked.extend(Requirement(text).name for text in requirements)
        return LOCK.replace("1.108.7", "1.108.10")

    monkeypatch.setattr(sources, "_by_uv", remember)
    monkeypatch.setattr(sources, "_by_pip", remember)
    sources.fetch_litellm("1.108.10", tmp_path)
    assert asked[0] == "litellm"
    assert {canonicalize_name(name) for name in asked} <= {pin.name for pin in parse_lock(find_source().lock)}


def test_lock_without_the_wanted_litellm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new lock with another LiteLLM than the requested one is refused."""
    monkeypatch.setattr(sources, "_by_uv", locking("1.108.9"))
    monkeypatch.setattr(sources, "_by_pip", locking("1.108.9"))
    with pytest.raises(InstallerError, match=r"1\.108\.9, not 1\.108\.10"):
        sources.fetch_litellm("1.108.10", tmp_path)


def test_litellm_that_goes_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no lock can be resolved, the error has the cause from uv or pip, not their last line."""

    def fail(*_: object) -> str:
        raise CommandError(
            ("uv",), 1, "error: no solution\n  cause: Because x needs y, no.\nhint: consider z", "Hint."
        )

    monkeypatch.setattr(sources, "_by_uv", fail)
    monkeypatch.setattr(sources, "_by_pip", fail)
    with pytest.raises(InstallerError, match=r"no lock for LiteLLM 1\.108\.10: Because x needs y"):
        sources.fetch_litellm("1.108.10", tmp_path)


def test_pip_report_becomes_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock has the name, version and hash of each package that pip would install."""

    def item(name: str, version: str, digest: str) -> dict[str, object]:
        hashes = {"hashes": {"sha256": digest}}
        return {"metadata": {"name": name, "version": version}, "download_info": {"archive_info": hashes}}

    def run(_argv: tuple[str, ...], **_: object) -> None:
        found = {"install": [item("PyYAML", "6.0.3", "b" * 64), item("litellm", "1.108.10", "a" * 64)]}
        (tmp_path / "report.json").write_text(json.dumps(found), encoding="utf-8")

    monkeypatch.setattr(sources, "run", run)
    monkeypatch.setattr(sources, "find_uv", lambda: None)
    monkeypatch.setattr(sources, "pip_argv", lambda *_: ("pip",))
    lock = sources.fetch_litellm("1.108.10", tmp_path).lock
    pins = {pin.name: (pin.version, pin.hashes) for pin in parse_lock(lock)}
    assert pins == {"litellm": ("1.108.10", ("a" * 64,)), "pyyaml": ("6.0.3", ("b" * 64,))}


def test_unavailable_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that the index does not have is an error with the option for another index."""
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(CommandError) as caught:
        sources.fetch_package("0.0.1", tmp_path)
    assert caught.value.message.startswith("litellm-systemd==0.0.1 can't be fetched: ")
    assert "PIP_INDEX_URL" in caught.value.hint


def test_invalid_wheel(tmp_path: Path) -> None:
    """A file that is not our wheel is refused with its name."""
    (tmp_path / "x.whl").write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"x\.whl is not a readable wheel"):
        wheel_source(tmp_path / "x.whl")
