"""Fixtures: boxes with the installed service and the client programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import box_images
import pytest
from aws import point_service, start_aws
from box import Bind, Box, Image, Namespaces
from service import ctl, set_env

from conftest import host_image, install_environment, installed_image, measured, namespaces
from tests.clients.programs import PACKAGES
from tests.clients.running import Desk, set_up
from tests.skipping import refuse

__all__ = ["host_image", "install_environment", "installed_image", "measured", "namespaces"]

_CACHE = box_images.REPOSITORY / ".cache/clients"


@pytest.fixture(scope="module")
def box(namespaces: Namespaces, installed_image: Image, measured: dict[str, Any]) -> Iterator[Box]:
    """A box with the installed service, the demo configuration and the packages of the clients."""
    if not (_CACHE / "done").exists():
        refuse("the clients are not installed: ./scripts/test.sh tests/clients")
    binds = (*measured["binds"], Bind(_CACHE, Path(PACKAGES)))
    with Box(namespaces, installed_image, binds=binds, environment=measured["environment"]) as opened:
        yield opened


@pytest.fixture(scope="module")
def demo(box: Box) -> Desk:
    """The clients next to the demo configuration."""
    return set_up(box, _CACHE)


@pytest.fixture(scope="module")
def bedrock(demo: Desk) -> Desk:
    """The same clients next to the default configuration, with the Bedrock of tests/fakes. `demo` is used before."""
    ctl(demo.box, "stop")
    start_aws(demo.box)
    point_service(demo.box)
    set_env(demo.box, "NUM_WORKERS=2\n", "-c", "iam_role_config.yml")
    return demo
