"""The port of the metrics on a real systemd: when it opens and closes, and what that does to the service."""

from __future__ import annotations

from box import Box
from broken_hosts import METRICS_BROKEN, METRICS_CLOSED, METRICS_TAKEN
from doctor_helpers import assert_reported, doctor, ids, sh
from service import ctl, set_env, set_up

UNITS = ("litellm.service", "litellm.socket", "litellm-metrics.socket")
ENV = "LITELLM_MASTER_KEY=sk-metrics-0123456789abcdef\nNUM_WORKERS=1\n"
PORT = "http://127.0.0.1:9400/metrics"
PATH = "--unix-socket /run/scrape.sock http://metrics/metrics"


def scrape(box: Box, target: str = PORT) -> str:
    """The status of a scrape, 000 if it is refused."""
    curl = f"curl -s -o /dev/null -w '%{{http_code}}' --max-time 30 {target}"
    return box.run(("sh", "-c", curl), check=False).stdout


def states(box: Box) -> str:
    return " ".join(box.run(("systemctl", "is-active", *UNITS), check=False).stdout.split())


def test_port_of_the_metrics(idle_box: Box) -> None:
    """The port of the metrics opens and closes with that of the gateway, and never prevents or causes a start."""
    box = idle_box
    set_up(box, f"{ENV}METRICS=127.0.0.1:9400\n")
    assert (states(box), scrape(box)) == ("active active active", "200")
    assert "127.0.0.1:9400" in ctl(box, "status")
    assert box.run(("systemd-analyze", "--man=no", "verify", UNITS[2])).stderr == ""
    for broken in METRICS_BROKEN.values():
        sh(box, broken.damage)
        assert_reported(doctor(box), broken)
        sh(box, broken.repair)
    assert ids(doctor(box)) == []

    sh(box, METRICS_CLOSED.damage)
    assert_reported(doctor(box), METRICS_CLOSED)
    box.systemctl("stop", "litellm")
    assert (scrape(box), states(box)) == ("000", "inactive inactive inactive")

    # The gateway starts although another program has the port of the metrics.
    sh(box, METRICS_TAKEN.damage)
    assert_reported(doctor(box), METRICS_TAKEN)
    assert states(box) == "active active failed"
    box.systemctl("stop", "other")

    # An error in the configuration closes both ports.
    sh(box, "echo NUM_WORKERS=none >> /etc/litellm/litellm.env; ! systemctl restart litellm")
    assert (scrape(box), states(box)) == ("000", "failed inactive inactive")
    sh(box, "sed -i '/none/d' /etc/litellm/litellm.env")

    # The socket of another program stays.
    box.write("/root/.env", f"{ENV}METRICS=/run/systemd/private\n", 0o600)
    sh(box, "! litellmctl install --env-file /root/.env --no-verify 2> /root/refused")
    assert "cannot listen at /run/systemd/private: another process is listening there" in box.read("/root/refused")
    assert states(box) == "failed inactive inactive"

    set_env(box, f"{ENV}METRICS=unix:/run/scrape.sock\n")
    assert (states(box), scrape(box, PATH)) == ("active active active", "200")

    set_env(box, ENV)
    assert (states(box), scrape(box, PATH)) == ("active active inactive", "000")
    assert ids(doctor(box)) == []
