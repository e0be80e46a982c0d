"""doctor where AWS or the way there is broken: real names, a real sandbox, and AWS on the loopback of one box."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from box import Box, Image, Namespaces
from broken_aws import KINDS, know
from broken_hosts import Broken
from doctor_helpers import INSTALLED, assert_told, doctor, ids, sh
from named_aws import start_named_aws
from service import chat, set_env

#: Those of a kind one after another, since each kind takes an install; at its end the sound one.
_HOSTS = [
    pytest.param(kind, broken, id=f"{kind}: {name}")
    for kind, each in KINDS.items()
    for name, broken in {**each.broken, "mended": None}.items()
]


class Cloud:
    """A box with AWS in it, and the kind of host that the service is installed for."""

    def __init__(self, box: Box) -> None:
        self.box, self._kind = box, ""

    def become(self, kind: str) -> None:
        if kind != self._kind:
            # An install over a service that runs would start two, so that no request is lost.
            self.box.systemctl("stop", "litellm.socket", "litellm.service")
            set_env(self.box, KINDS[kind].env)
            self._kind = kind


@pytest.fixture(scope="module")
def cloud(namespaces: Namespaces, idle_image: Image, measured: dict[str, Any]) -> Iterator[Cloud]:
    """AWS by its own names, and a proxy."""
    with Box(namespaces, idle_image, **measured) as opened:
        start_named_aws(opened)
        sh(opened, know())
        yield Cloud(opened)


@pytest.mark.parametrize(("kind", "broken"), _HOSTS)
def test_broken(cloud: Cloud, kind: str, broken: Broken | None) -> None:
    """Where AWS or the way to it is broken, that is told first and alone, with what was seen and a remedy; of the
    host to which all of them were mended nothing is told, and it serves.
    """
    cloud.become(kind)
    if broken is None:
        assert ids(doctor(cloud.box, program=INSTALLED)) == []
        assert chat(cloud.box) == 200
        return
    try:
        sh(cloud.box, broken.spoil)
        report = doctor(cloud.box)
    finally:
        sh(cloud.box, broken.mend)
    assert_told(report, broken)
