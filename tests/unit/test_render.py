"""Units and environment from settings. tests/system checks that systemd loads them without a warning."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from litellm_systemd import contract
from litellm_systemd.aws.credentials import METADATA_ADDRESSES
from litellm_systemd.env.settings import Settings, build_settings, parse_dotenv
from litellm_systemd.host.layout import Layout
from litellm_systemd.install.render import (
    render_environment,
    render_metrics_socket,
    render_service,
    render_socket,
    render_sysusers,
    render_template,
    render_verify_timer,
    without_denial,
)


def settings(env: str = "") -> Settings:
    return build_settings(parse_dotenv(env, ".env"), installed={}, new_key=lambda: "sk-made")


def directives(text: str) -> dict[str, str]:
    """The last value of each directive of a unit."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] not in "#;[")


@pytest.mark.parametrize(
    ("systemd", "present", "absent"),
    [
        pytest.param(247, [], ["PrivateIPC", "SocketBindDeny", "RestartSteps"], id="247, Debian 11"),
        pytest.param(248, ["PrivateIPC"], ["SocketBindDeny", "RestartSteps"], id="248"),
        pytest.param(252, ["PrivateIPC", "SocketBindDeny"], ["RestartSteps"], id="252, Debian 12"),
        pytest.param(257, ["PrivateIPC", "SocketBindDeny", "RestartSteps"], [], id="257, Debian 13"),
    ],
)
def test_directives_by_version(systemd: int, present: list[str], absent: list[str]) -> None:
    """A unit has all directives that the installed systemd knows, and no other."""
    found = directives(render_service(Layout(), settings(), systemd, "1.0"))
    assert [name for name in present if name not in found] == []
    assert [name for name in absent if name in found] == []


def test_denied_addresses() -> None:
    """The unit denies the addresses of the instance metadata and no others, and nothing if they are needed."""
    plain = render_service(Layout(), settings(), 252, "1.0")
    denying = render_service(Layout(), settings(), 252, "1.0", METADATA_ADDRESSES)
    denied = directives(denying)["IPAddressDeny"].split()
    assert set(denied) >= {"169.254.169.254", "fd00:ec2::254"}
    # DNS and time of a VPC.
    assert not {"169.254.169.253", "169.254.169.123"} & {str(each) for net in denied for each in ip_network(net)}
    assert "IPAddressDeny" not in directives(plain)
    assert without_denial(denying.encode()) == plain.encode()
    assert directives(plain)["InaccessiblePaths"] == "-/run/dbus"


def test_database_engines_may_listen() -> None:
    """With a database the sandbox allows the ports on which the workers reach their engines, and no others' kind."""
    without, with_one = (
        render_service(Layout(), settings(), 252, "1.0", database=each) for each in ("", "postgresql://u@h/d")
    )
    assert "SocketBindAllow" not in directives(without)
    assert directives(with_one)["SocketBindDeny"] == "any"
    assert directives(with_one)["SocketBindAllow"] == "ipv4:tcp"


@pytest.mark.parametrize("systemd", [247, 252, 254, 257])
def test_start_limit_can_be_reached(systemd: int) -> None:
    """The restarts that the burst allows fit into the interval, so that the start limit can be reached."""
    found = directives(render_service(Layout(), settings("START_TIMEOUT=90"), systemd, "1.0"))
    longest = int(found.get("RestartMaxDelaySec", found["RestartSec"])) + int(found["TimeoutStartSec"])
    assert int(found["StartLimitIntervalSec"]) > int(found["StartLimitBurst"]) * longest


def test_units_match_the_code() -> None:
    """The units are written out in full, with the same unit names, user and paths as the code."""
    found = directives(render_service(Layout(), settings(), 252, "1.0"))
    assert found["Requires"] == contract.SOCKET
    assert found["User"] == found["Group"] == contract.SERVICE_USER
    assert found["ExecStart"].endswith(f" --config {contract.CONFIG_FILE}")
    assert found["EnvironmentFile"] == contract.ENV_FILE
    assert f"/run/{found['RuntimeDirectory']}" == contract.RUNTIME_DIRECTORY
    assert found["StateDirectory"] == Path(Layout.state).name
    assert directives(render_verify_timer("15min"))["PartOf"] == contract.SERVICE
    assert f'u {contract.SERVICE_USER} - "LiteLLM Proxy" {Layout.state} ' in render_sysusers()


def test_memory_limit() -> None:
    """The kernel ends a runaway service before it takes the memory of the host."""
    assert directives(render_service(Layout(), settings(), 247, "1.0"))["MemoryMax"] == "90%"


def test_stop_outlasts_the_drain() -> None:
    """systemd's stop timeout is longer than the drain timeout."""
    found = directives(render_service(Layout(), settings("DRAIN_TIMEOUT=100"), 252, "1.0"))
    assert int(found["TimeoutStopSec"]) > 100


def test_sockets_stay_non_blocking() -> None:
    """The standby of a restart shares the sockets: they never block a process of the service that accepts."""
    assert directives(render_service(Layout(), settings(), 247, "1.0"))["NonBlocking"] == "yes"


def test_no_secret_in_a_unit() -> None:
    """A unit, which every user may read, contains no value of .env."""
    texts = render_service(Layout(), settings(), 252, "1.0") + render_socket(Layout(), settings())
    assert "sk-made" not in texts
    assert "EnvironmentFile=/etc/litellm/litellm.env" in texts


@pytest.mark.parametrize(
    ("env", "listen", "free_bind"),
    [
        ("", "127.0.0.1:4000", False),
        ("HOST=::1\nPORT=80", "[::1]:80", False),
        ("HOST=0.0.0.0", "0.0.0.0:4000", False),
        ("HOST=10.0.0.5", "10.0.0.5:4000", True),
    ],
)
def test_socket(env: str, listen: str, free_bind: bool) -> None:
    """The socket listens on the address of .env, at boot even before the interface has that address."""
    found = directives(render_socket(Layout(), settings(env)))
    assert found["ListenStream"] == listen
    assert ("FreeBind" in found) is free_bind


@pytest.mark.parametrize(
    ("address", "listen", "present", "absent"),
    [
        ("127.0.0.1:9400", "127.0.0.1:9400", "ExecStartPre", "FreeBind"),
        ("10.0.0.5:9400", "10.0.0.5:9400", "FreeBind", "RemoveOnStop"),
        ("unix:/run/%n.sock", "/run/%%n.sock", "RemoveOnStop", "FreeBind"),
    ],
)
def test_metrics_socket(address: str, listen: str, present: str, absent: str) -> None:
    """The metrics socket listens where METRICS says, is passed to the service, and closes with its port."""
    metrics = settings(f"METRICS={address}").metrics
    assert metrics is not None
    found = directives(render_metrics_socket(Layout(), metrics))
    assert (found["ListenStream"], found["Service"], found["BindsTo"]) == (listen, contract.SERVICE, contract.SOCKET)
    assert found["FileDescriptorName"] == contract.METRICS_LISTENER
    assert present in found
    assert absent not in found


def test_metrics_socket_path_is_quoted() -> None:
    """The check of a path gets the same path, whatever it contains."""
    metrics = settings("METRICS='/run/a $x %n \\ \"b\".sock'").metrics
    assert metrics is not None
    found = directives(render_metrics_socket(Layout(), metrics))
    assert found["ExecStartPre"].endswith(r' port --metrics "/run/a $$x %%n \\ \"b\".sock"')


def test_metrics_of_the_service() -> None:
    """With METRICS the service wants the metrics socket, so that it starts without it, and may write its counters."""
    text = render_service(Layout(), settings("METRICS=127.0.0.1:9400"), 252, "1.0")
    assert "\nSockets=litellm-metrics.socket\nReadWritePaths=-/run/litellm-metrics\n" in text
    assert "metrics" not in render_service(Layout(), settings(), 252, "1.0")


def test_prefix_is_used_throughout() -> None:
    """With another prefix no unit contains a path of the default one."""
    layout = Layout(prefix="/srv/gateway")
    texts = render_service(layout, settings(), 252, "1.0") + render_socket(layout, settings())
    assert "/opt/litellm-systemd" not in texts
    assert "ExecStart=/srv/gateway/current/bin/python" in texts


def test_environment_is_quoted_for_systemd() -> None:
    """A value with a dollar sign, a quote and a newline is written as systemd.exec(5) requires."""
    text = render_environment(settings("A='$x \"y\"\nz'").environment)
    assert 'A="\\$x \\"y\\"\nz"\n' in text


def test_template_syntax_in_a_value_is_text() -> None:
    """A value that looks like a template is not evaluated."""
    assert 'A="{{ 7 * 7 }}"' in render_environment(settings("A='{{ 7 * 7 }}'").environment)


def test_missing_value_is_an_error() -> None:
    """A template with a missing value is an error, not a unit with a gap."""
    with pytest.raises(UndefinedError):
        render_template("litellm-verify.timer.j2")
