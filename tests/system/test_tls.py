"""HTTPS under systemd: credentials that root alone can read, their renewal, and the verbs that use HTTPS."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import trustme
from box import Box
from doctor_helpers import doctor, ids
from service import CONFIG, MODEL, ctl, key, set_env
from tests.certificates import issue_pair

from litellm_systemd.env.tls import Certificate, TlsPair, parse_certificate

NAME = "gateway.example"
AUTHORITY = trustme.CA()
#: In a folder that the sandbox of the service hides.
FOLDER = "/root/tls"
ENV = f"NUM_WORKERS=2\nTLS_CERT_FILE={FOLDER}/tls.crt\nTLS_KEY_FILE={FOLDER}/tls.key\n"
CHAT = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]})


def write(box: Box, pair: TlsPair) -> Certificate:
    box.write(f"{FOLDER}/tls.crt", pair.certificate, 0o600)
    box.write(f"{FOLDER}/tls.key", pair.key, 0o600)
    return parse_certificate(pair.certificate)


def served(box: Box) -> Certificate:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with box.connect("127.0.0.1", 4000, timeout=60) as plain, context.wrap_socket(plain) as connection:
        found = connection.getpeercert(binary_form=True)
    assert found is not None
    return parse_certificate(ssl.DER_cert_to_PEM_cert(found))


def curl(box: Box) -> str:
    """A command that chats over HTTPS and verifies the certificate with the authority; it fails without a 200."""
    return (
        f"curl -sSf -m 60 --cacert /root/authority.pem --resolve {NAME}:4000:127.0.0.1 -o /dev/null"
        f" -H 'Authorization: Bearer {key(box)}' -H 'Content-Type: application/json' -d '{CHAT}'"
        f" https://{NAME}:4000/v1/chat/completions"
    )


@contextmanager
def chatting(box: Box) -> Iterator[None]:
    """Four clients that open a connection for each chat during the block. None may fail."""
    loop = f"until [ -e /run/over ]; do {curl(box)} 2>> /root/failed; echo >> /root/answered; sleep 0.1; done"
    box.write("/root/client.sh", loop)
    for number in range(4):
        box.run(("systemd-run", "--quiet", f"--unit=client-{number}", "bash", "/root/client.sh"))
    box.wait_until(lambda: box.exists("/root/answered"), 60, "the first chat has ended")
    yield
    box.write("/run/over", "")
    box.wait_until(
        lambda: all(box.show(f"client-{number}", "ActiveState")["ActiveState"] == "inactive" for number in range(4)),
        120,
        "the clients have ended",
    )
    assert box.read("/root/failed") == ""
    assert len(box.read("/root/answered")) > 20


def test_https(idle_box: Box) -> None:
    """The service serves HTTPS with files that root alone can read; all verbs know it; a reload and a restart serve
    renewed files without a failed request; and a wrong pair changes nothing.
    """
    box = idle_box
    box.write("/root/authority.pem", AUTHORITY.cert_pem.bytes().decode())
    box.write("/root/mine.yml", CONFIG)
    first = write(box, issue_pair(AUTHORITY, NAME))
    set_env(box, ENV, "-c", "/root/mine.yml", "--verify-every", "1d")
    units = tuple(f"/etc/systemd/system/litellm{name}" for name in (".service", ".socket", "-verify.service"))
    analyzed = box.run(("systemd-analyze", "verify", *units), check=False)
    assert (analyzed.returncode, analyzed.stdout, analyzed.stderr) == (0, "", "")
    box.run(("bash", "-c", curl(box)))
    assert "verified https://127.0.0.1:4000: " in ctl(box, "verify", "--no-spend")
    box.systemctl("start", "litellm-verify.service")
    status = json.loads(ctl(box, "status", "--json"))
    assert status["data"]["runtime"]["tls"]["sha256"] == first.sha256
    assert [(each["name"], each["outcome"]) for each in status["checks"]] == [("certificate", "ok")]
    assert ids(doctor(box)) == []
    assert f"https://{NAME}:4000" in ctl(box, "client", "curl")

    with chatting(box):
        renewed = write(box, issue_pair(AUTHORITY, NAME, days=60))
        assert ids(doctor(box)) == ["tls-not-reloaded"]
        box.systemctl("reload", "litellm")
        assert served(box) == renewed
        write(box, TlsPair(issue_pair(AUTHORITY, NAME).certificate, issue_pair(AUTHORITY, NAME).key))
        assert box.run(("systemctl", "reload", "litellm"), check=False).returncode != 0
        assert "is not that of the certificate" in box.journal("litellm.service", "--priority=err", "--boot")
        assert {"tls-unusable", "service-reload-failed"} >= set(ids(doctor(box))) >= {"tls-unusable"}
        assert served(box) == renewed
        again = write(box, issue_pair(AUTHORITY, NAME, days=10))
        ctl(box, "restart")
        assert served(box) == again
    assert ids(doctor(box)) == ["tls-expiry"]
    assert "PRIVATE" not in box.journal("litellm.service", "--boot")
