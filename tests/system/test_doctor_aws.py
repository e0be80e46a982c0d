"""doctor with a problem at AWS or in the network: real names, a real sandbox, and AWS on the loopback of one box."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aws_endpoints import start_named_aws
from box import Box, Image, Namespaces
from broken_aws import SETUPS, register_key
from broken_hosts import BrokenHost
from doctor_helpers import INSTALLED, assert_reported, doctor, ids, sh
from service import chat, set_env

#: Grouped by setup, because each setup needs an install; the last host of each is the repaired one.
_HOSTS = [
    pytest.param(setup, broken, id=f"{setup}: {name}")
    for setup, each in SETUPS.items()
    for name, broken in {**each.broken, "repaired": None}.items()
]


class Cloud:
    """A box with AWS in it, and the setup that the service is installed for."""

    def __init__(self, box: Box) -> None:
        self.box, self._setup = box, ""

    def install(self, setup: str) -> None:
        if setup != self._setup:
            # An install over a running service would start two, so that no request is lost.
            self.box.systemctl("stop", "litellm.socket", "litellm.service")
            set_env(self.box, SETUPS[setup].env)
            self._setup = setup


@pytest.fixture(scope="module")
def cloud(namespaces: Namespaces, idle_image: Image) -> Iterator[Cloud]:
    """AWS with its real host names, and a proxy. Not measured for coverage, like the box of test_doctor.py."""
    with Box(namespaces, idle_image) as opened:
        start_named_aws(opened)
        sh(opened, register_key())
        yield Cloud(opened)


@pytest.mark.parametrize(("setup", "broken"), _HOSTS)
def test_broken(cloud: Cloud, setup: str, broken: BrokenHost | None) -> None:
    """A problem at AWS or in the network is reported first and alone, with evidence and remedy; once everything is
    repaired, nothing is found, and the service serves.
    """
    cloud.install(setup)
    if broken is None:
        assert ids(doctor(cloud.box, program=INSTALLED)) == []
        assert chat(cloud.box) == 200
        return
    try:
        sh(cloud.box, broken.damage)
        report = doctor(cloud.box)
    finally:
        sh(cloud.box, broken.repair)
    assert_reported(report, broken)
