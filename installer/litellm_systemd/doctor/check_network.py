"""The network from inside the service's sandbox to Bedrock, and to STS if it assumes a role.

Tested in stages: name resolution, proxy, connection, certificate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from litellm_systemd.aws import credentials
from litellm_systemd.bedrock.regions import default_endpoint
from litellm_systemd.doctor.cause import Cause, Finding, detects
from litellm_systemd.doctor.sandbox_probe import ConnectionResult, ConnectivityResults, observe_connectivity
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.aws import STS_ENDPOINTS
from litellm_systemd.env.network import ENDPOINT
from litellm_systemd.gateway.config_types import GatewayConfig
from litellm_systemd.gateway.served_models import build_served

#: Without these the sandbox cannot be created, or the endpoints are unknown.
_REQUIRES = (
    *("files-not-installed", "files-release-gone", "files-gone", "files-user-gone", "host-python-gone"),
    *("environment-unusable", "configuration-unusable", "unit-masked", "unit-bad"),
)
#: Appended to remedies that only a second run can confirm.
_AGAIN = "; to test it: sudo litellmctl doctor"


def endpoints_of(config: GatewayConfig, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The URLs that a configuration's calls connect to, each once: Bedrock, and STS if a role is assumed."""
    found: dict[str, None] = {}
    for each in build_served(config, environ):
        if each.is_called:
            own = credentials.environ_of(config, each.model, environ)
            found |= dict.fromkeys(_runtime_endpoint(own, each.region))
            if credentials.auth_method_of(config, each.model, environ) is credentials.AuthMethod.ROLE:
                found |= dict.fromkeys(_sts_endpoint(own, each.region))
    return tuple(found)


def _runtime_endpoint(environ: Mapping[str, str], region: str | None) -> Iterator[str]:
    url = environ.get(ENDPOINT) or environ.get("AWS_ENDPOINT_URL_BEDROCK_RUNTIME")
    if url or region:
        yield url or default_endpoint(region or "", "bedrock-runtime")


def _sts_endpoint(environ: Mapping[str, str], region: str | None) -> Iterator[str]:
    """In the order of _build_sts_client_kwargs in litellm/llms/bedrock/base_aws_llm.py, then of boto3."""
    url = next((environ[name] for name in STS_ENDPOINTS if environ.get(name)), None)
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or region
    if url or region:
        yield url or default_endpoint(region or "", "sts")


def _test_connections(snapshot: Snapshot) -> ConnectivityResults:
    urls = endpoints_of(snapshot.gateway, snapshot.environment)
    results: ConnectivityResults = snapshot.cached("connectivity", lambda: observe_connectivity(snapshot, urls))
    return results


SANDBOX = Cause(
    "network-sandbox",
    "The host can connect to an AWS endpoint, but the service cannot from inside its sandbox: a drop-in or a firewall"
    " rule for its user blocks it.",
    "systemctl cat litellm | grep -nE 'IPAddress|RestrictAddress|PrivateNetwork'    # shows which setting blocks it",
    requires=_REQUIRES,
)


@detects(SANDBOX)
def detect_network_sandbox(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a connection that works on the host but not inside the sandbox."""
    results = _test_connections(snapshot)
    for inside, here in zip(results.service, results.here, strict=True):
        if here.is_done and not inside.is_done:
            failure = f"{inside.url}: {inside.stage} of {inside.host} fails {results.where}: {inside.error}"
            yield SANDBOX.finding(f"{failure}; it works outside of the sandbox")
            return


DNS = Cause(
    "network-dns",
    "The host name of an AWS endpoint (Bedrock or STS) cannot be resolved: every call fails.",
    "resolvectl query {host}    # or: getent ahosts {host}; the name servers are in /etc/resolv.conf" + _AGAIN,
    requires=(*_REQUIRES, "network-sandbox"),
)


@detects(DNS)
def detect_network_dns(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect endpoints whose name is not resolved."""
    yield from _failures(snapshot, DNS, "name")


PROXY = Cause(
    "network-proxy",
    "The configured proxy does not answer, or rejects connections to AWS.",
    "sudoedit {path}    # HTTPS_PROXY and NO_PROXY, the same in .env; or allow the endpoint in the proxy" + _AGAIN,
    requires=(*_REQUIRES, "network-sandbox"),
)


@detects(PROXY)
def detect_network_proxy(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a proxy that does not answer or rejects the connection."""
    yield from _failures(snapshot, PROXY, "proxy")


UNREACHABLE = Cause(
    "network-unreachable",
    "An AWS endpoint does not accept connections from the service, or does not respond on them: there is no route, a"
    " firewall or security group blocks it, a device in between does not speak TLS, or the endpoint has only IPv4 or"
    " only IPv6 addresses and the host only the other.",
    "curl -sv https://{host}/ -o /dev/null    # and check the routes: ip route; ip -6 route" + _AGAIN,
    requires=(*_REQUIRES, "network-sandbox", "network-dns", "network-proxy"),
)


@detects(UNREACHABLE)
def detect_network_unreachable(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect endpoints that do not accept connections."""
    yield from _failures(snapshot, UNREACHABLE, "connection")


CERTIFICATE = Cause(
    "network-certificate",
    "The certificate of an AWS endpoint is not trusted, for example behind a proxy that inspects TLS.",
    "Put the CA's certificate into /etc/litellm/ca.pem and SSL_CERT_FILE=/etc/litellm/ca.pem into .env; then:"
    " sudo litellmctl install",
    requires=(*_REQUIRES, "network-sandbox", "network-dns", "network-proxy", "network-unreachable"),
    caused_by=("host-clock", "environment-file"),
)


@detects(CERTIFICATE)
def detect_network_certificate(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect endpoints whose certificate is not trusted."""
    yield from _failures(snapshot, CERTIFICATE, "certificate")


def _failures(snapshot: Snapshot, cause: Cause, stage: str) -> Iterator[Finding]:
    """One finding for each error at a stage: endpoints of several regions usually fail with the same one."""
    results = _test_connections(snapshot)
    by_error: dict[str, dict[str, ConnectionResult]] = {}
    for result in results.service:
        if result.stage == stage:
            by_error.setdefault(result.error, {})[result.host] = result
    for error, by_host in by_error.items():
        hosts = ", ".join(f"{host} (for {one.url})" if stage == "proxy" else host for host, one in by_host.items())
        evidence = f"{hosts}: {error} ({results.where})"
        yield cause.finding(evidence, host=next(iter(by_host)), path=snapshot.layout.environment_file)
