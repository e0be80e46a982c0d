"""Fixtures for tests on a real systemd. If no box can be created, the tests are skipped with the reason. With
REQUIRE_SYSTEM_TESTS=1 they fail instead.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import box_images
import images
import pytest
import service
from box import Bind, Box, BoxError, Image, JoinedNamespaces, Namespaces, why_not
from tests.database import why_no_database
from tests.files import Files, explain
from tests.skipping import refuse

_BOXES = pytest.StashKey[list[Box]]()
_NAMESPACES = pytest.StashKey[Namespaces]()


class MakeBox(Protocol):
    """Boots a box that ends with the test. Keywords are those of `Box`."""

    def __call__(self, image: Image = ..., **options: Any) -> Box: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that boot boxes as `system`. (This hook gets the items of other folders too.)"""
    for item in items:
        if "namespaces" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.system)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the evidence of its boxes to the report of a failed test."""
    report = yield
    if report.failed:
        for box in item.stash.get(_BOXES, []):
            report.sections += evidence(box)
    return report


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain why two trees of files are not the same."""
    if op == "==" and isinstance(left, Files) and isinstance(right, Files):
        return explain(left, right)
    return None


def evidence(box: Box) -> list[tuple[str, str]]:
    """Titles and texts: the failed units and the end of the journal, or the console of a box that is off."""
    if not box.running:
        return [(f"{box.name} (off): console", box.console()[-8000:])]
    commands = (
        ("systemctl", "--failed", "--no-pager"),
        ("journalctl", "--boot", "--no-pager", "--lines=200"),
    )
    return [(f"{box.name}: {' '.join(argv)}", box.run(argv, check=False).stdout) for argv in commands]


@pytest.fixture(scope="session")
def measured() -> dict[str, Any]:
    """Options of `Box` for coverage, if test.sh measures it: for the images, for boxes that tests share, and for
    verbs that no other test runs.

    It makes a call of litellmctl half as long again, and other tests run almost all that a box of a single test runs.
    The Python of the venv and of releases reports to a folder of the host. (The service itself gets no such variables
    from systemd: the integration tests run it.)
    """
    config = os.environ.get("COVERAGE_PROCESS_START")
    if not config:
        return {"binds": (), "environment": {}}
    folder = box_images.REPOSITORY / ".cache/coverage"
    folder.mkdir(parents=True, exist_ok=True)
    variables = {"COVERAGE_PROCESS_START": config, "COVERAGE_FILE": str(folder / ".coverage")}
    return {"binds": (Bind(folder, writable=True),), "environment": variables}


def _measure_release(golden: Box, environment: dict[str, str]) -> None:
    """Install coverage into the release as well, because tests call its litellmctl."""
    if golden.environment:
        version = f"coverage=={importlib.metadata.version('coverage')}"
        release = "/opt/litellm-systemd/current"
        golden.run(
            (f"{sys.prefix}/bin/uv", "pip", "install", "--python", f"{release}/bin/python", version), env=environment
        )
        # uv's lock file, which every user may write to. A build of a release removes its own.
        golden.run(("rm", "-f", f"{release}/.lock"))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each worker of pytest-xdist the namespaces of the process that starts them, so that they share images."""
    if why_not() is None:
        config: pytest.Config = node.config
        if _NAMESPACES not in config.stash:
            opened = config.stash[_NAMESPACES] = Namespaces()
            opened.open()
            config.add_cleanup(opened.close)
        node.workerinput["namespaces"] = JoinedNamespaces.ticket(config.stash[_NAMESPACES])


@pytest.fixture(scope="session")
def namespaces(pytestconfig: pytest.Config) -> Namespaces:
    """The namespaces of all boxes of this run. tests/clients has this fixture as well, and gets the same object."""
    reason = why_not()
    if reason is not None:
        refuse(reason)
    if _NAMESPACES not in pytestconfig.stash:
        worker = getattr(pytestconfig, "workerinput", {})
        opened = Namespaces()
        if "namespaces" in worker:
            name, init = worker["namespaces"]
            opened = JoinedNamespaces(name, init, worker["workerid"])
        opened.open()
        pytestconfig.add_cleanup(opened.close)
        pytestconfig.stash[_NAMESPACES] = opened
    return pytestconfig.stash[_NAMESPACES]


@pytest.fixture(scope="session")
def host_image(namespaces: Namespaces) -> Image:
    """See `box_images.host_image`."""
    return box_images.host_image()


@pytest.fixture(scope="session")
def debian_image(namespaces: Namespaces) -> Callable[[str], Image]:
    """The image of another Debian release, by its name: see `images.SUITES`."""

    def find(suite: str) -> Image:
        tree = images.tree(suite)
        if not tree.is_dir():
            refuse(f"{tree} isn't there: `python3 tests/system/images.py {suite}` builds it, as root")
        return Image(tree)

    return find


@pytest.fixture
def make_box(request: pytest.FixtureRequest, namespaces: Namespaces, host_image: Image) -> Iterator[MakeBox]:
    """Boots boxes of any image (`host_image` by default), and ends them with the test. With the options of `measured`
    they count for coverage.
    """
    boxes = request.node.stash.setdefault(_BOXES, [])

    def make(image: Image = host_image, **options: Any) -> Box:
        box = Box(namespaces, image, **options)
        boxes.append(box)
        box.boot()
        return box

    yield make
    for box in boxes:
        box.close()


@pytest.fixture
def box(make_box: MakeBox) -> Box:
    """A new box: this machine's software, without an installation, services or a network."""
    return make_box()


@pytest.fixture(scope="session")
def install_environment() -> dict[str, str]:
    """See `box_images.install_environment`."""
    return box_images.install_environment()


def _make_once(folder: pytest.TempPathFactory, name: str, base: Image, make: Callable[[], Image]) -> Image:
    """The image that `make` returns. Of several workers of pytest-xdist only the first one makes it."""
    common = folder.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    layers = common / f"{name}.layers"
    with layers.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not layers.exists():
            layers.write_text("\n".join(map(str, make().layers)), encoding="utf-8")
    return replace(base, layers=tuple(map(Path, layers.read_text(encoding="utf-8").splitlines())))


@pytest.fixture(scope="session")
def installed_image(
    namespaces: Namespaces,
    host_image: Image,
    install_environment: dict[str, str],
    measured: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Image:
    """The result of `litellmctl install -c demo.yml`, powered off: created once, forked by tests."""

    def make() -> Image:
        with Box(namespaces, host_image, **measured) as golden:
            try:
                box_images.install_demo(golden)
            except BoxError as error:
                texts = "\n".join(f"--- {title} ---\n{text}" for title, text in evidence(golden))
                pytest.fail(f"the golden image can't be made: {error}\n{texts}", pytrace=False)
            _measure_release(golden, install_environment)
            return golden.save()

    return _make_once(tmp_path_factory, "installed", host_image, make)


@pytest.fixture(scope="session")
def idle_image(
    namespaces: Namespaces, installed_image: Image, measured: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Image:
    """An installation, stopped and disabled, with a slow upstream model: for tests with a .env of their own.

    `service.set_up` starts it. That saves each of them a start with settings that it doesn't want.
    """

    def make() -> Image:
        with Box(namespaces, installed_image, **measured) as golden:
            service.ctl(golden, "stop")
            service.ctl(golden, "disable")
            service.add_upstream(golden)
            return golden.save()

    return _make_once(tmp_path_factory, "idle", installed_image, make)


@pytest.fixture(scope="session")
def database_image(
    namespaces: Namespaces, installed_image: Image, measured: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Image:
    """An installation with a database in the PostgreSQL of the box, which starts with it."""
    reason = why_no_database()
    if reason is not None:
        refuse(reason)

    def make() -> Image:
        with Box(namespaces, installed_image, **measured) as golden:
            try:
                box_images.install_database(golden, tmp_path_factory.getbasetemp() / "query-engine")
            except BoxError as error:
                texts = "\n".join(f"--- {title} ---\n{text}" for title, text in evidence(golden))
                pytest.fail(f"the image with a database can't be made: {error}\n{texts}", pytrace=False)
            return golden.save()

    return _make_once(tmp_path_factory, "database", installed_image, make)


@pytest.fixture
def idle_box(make_box: MakeBox, idle_image: Image) -> Box:
    """A new box of `idle_image`."""
    return make_box(idle_image)


@pytest.fixture
def installed_box(make_box: MakeBox, installed_image: Image) -> Box:
    """A new box with the service installed and enabled."""
    return make_box(installed_image)


@pytest.fixture(scope="module")
def shared_box(namespaces: Namespaces, installed_image: Image, measured: dict[str, Any]) -> Iterator[Box]:
    """Like `installed_box`, but one box for all tests of a module that change nothing, or undo their changes.

    A box of its own for each of them would cost a start of the service.
    """
    with Box(namespaces, installed_image, **measured) as opened:
        yield opened
