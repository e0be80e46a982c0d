"""The way from the service to Bedrock: names, proxy, connection, certificates, from inside its sandbox.

And to STS, where the service assumes a role.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from litellm_systemd.aws import credentials
from litellm_systemd.bedrock.regions import default_endpoint
from litellm_systemd.doctor.cause import Cause, Finding, looks_for
from litellm_systemd.doctor.sandbox_probe import ConnectionResult, ConnectivityResults, observe_connectivity
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.aws import STS_ENDPOINTS
from litellm_systemd.env.network import ENDPOINT
from litellm_systemd.gateway.config_types import GatewayConfig
from litellm_systemd.gateway.served_models import build_served

#: What the sandbox can't be made, or the endpoints not be told, without.
_NEEDS = (
    *("files-not-installed", "files-release-gone", "files-gone", "files-user-gone", "host-python-gone"),
    *("environment-unusable", "configuration-unusable", "unit-masked", "unit-bad"),
)
_AGAIN = "    # then: sudo litellmctl doctor"


def endpoints_of(config: GatewayConfig, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The URLs that a configuration's calls to Bedrock go to, each once: the runtime's, and STS's for a role."""
    found: dict[str, None] = {}
    for each in build_served(config, environ):
        if each.is_called:
            own = credentials.environ_of(config, each.model, environ)
            found |= dict.fromkeys(_called(own, each.region))
            if credentials.auth_method_of(config, each.model, environ) is credentials.AuthMethod.ROLE:
                found |= dict.fromkeys(_asked_for_role(own, each.region))
    return tuple(found)


def _called(environ: Mapping[str, str], region: str | None) -> Iterator[str]:
    url = environ.get(ENDPOINT) or environ.get("AWS_ENDPOINT_URL_BEDROCK_RUNTIME")
    if url or region:
        yield url or default_endpoint(region or "", "bedrock-runtime")


def _asked_for_role(environ: Mapping[str, str], region: str | None) -> Iterator[str]:
    """The order is that of _build_sts_client_kwargs in litellm/llms/bedrock/base_aws_llm.py, then boto3's own."""
    url = next((environ[name] for name in STS_ENDPOINTS if environ.get(name)), None)
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or region
    if url or region:
        yield url or default_endpoint(region or "", "sts")


def _reached(snapshot: Snapshot) -> ConnectivityResults:
    urls = endpoints_of(snapshot.gateway, snapshot.environment)
    reached: ConnectivityResults = snapshot.once("ways", lambda: observe_connectivity(snapshot, urls))
    return reached


def find_ways(reached: ConnectivityResults, stage: str) -> tuple[ConnectionResult, ...]:
    """The ways that ended at a stage, one for each host."""
    return tuple({way.host: way for way in reached.service if way.stage == stage}.values())


SANDBOX = Cause(
    "network-sandbox",
    "The host reaches an endpoint of AWS, and the service doesn't from inside its sandbox: a drop-in or a firewall"
    " rule for its user forbids it.",
    "systemctl cat litellm | grep -nE 'IPAddress|RestrictAddress|PrivateNetwork'    # the line that forbids it",
    needs=_NEEDS,
)


@looks_for(SANDBOX)
def sandbox(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the sandbox forbids what the host can do."""
    reached = _reached(snapshot)
    for inside, here in zip(reached.service, reached.here, strict=True):
        if here.is_done and not inside.is_done:
            seen = (
                f"{inside.url}: {inside.stage} of {inside.host} fails {reached.where}: {inside.error}; from here not"
            )
            yield SANDBOX.found(seen)
            return


DNS = Cause(
    "network-dns",
    "The name of an endpoint of AWS, the model's or STS's, can't be resolved: no call gets out.",
    "resolvectl query {host}    # or: getent ahosts {host}; the servers are in /etc/resolv.conf" + _AGAIN,
    needs=(*_NEEDS, "network-sandbox"),
)


@looks_for(DNS)
def dns(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the names of the endpoints are resolved."""
    yield from _at(snapshot, DNS, "name")


PROXY = Cause(
    "network-proxy",
    "The proxy that the service is told to use doesn't answer, or refuses to let it through to AWS.",
    "sudoedit {path}    # HTTPS_PROXY and NO_PROXY, as .env has them; or have the proxy allow the endpoint" + _AGAIN,
    needs=(*_NEEDS, "network-sandbox"),
)


@looks_for(PROXY)
def proxy(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the proxy lets the service through."""
    yield from _at(snapshot, PROXY, "proxy")


UNREACHABLE = Cause(
    "network-unreachable",
    "An endpoint of AWS takes no connection from the service, or says nothing on it: no route, a firewall or security"
    " group, something in between that speaks no TLS, or an address of IPv4 or IPv6 alone where the host has only the"
    " other.",
    "curl -sv https://{host}/ -o /dev/null    # and the host's routes: ip route; ip -6 route" + _AGAIN,
    needs=(*_NEEDS, "network-sandbox", "network-dns", "network-proxy"),
)


@looks_for(UNREACHABLE)
def unreachable(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the endpoints take connections."""
    yield from _at(snapshot, UNREACHABLE, "connection")


CERTIFICATE = Cause(
    "network-certificate",
    "The certificate of an endpoint of AWS isn't trusted, as behind a proxy that opens TLS with a CA of its own.",
    "SSL_CERT_FILE=/etc/litellm/ca.pem in .env, with the CA's certificate in it, then: sudo litellmctl install",
    needs=(*_NEEDS, "network-sandbox", "network-dns", "network-proxy", "network-unreachable"),
    follows=("host-clock", "environment-file"),
)


@looks_for(CERTIFICATE)
def certificate(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the endpoints' certificates are trusted."""
    yield from _at(snapshot, CERTIFICATE, "certificate")


def _at(snapshot: Snapshot, cause: Cause, stage: str) -> Iterator[Finding]:
    """A finding for each error: endpoints of several regions mostly have the same one."""
    reached = _reached(snapshot)
    by_error: dict[str, list[ConnectionResult]] = {}
    for way in find_ways(reached, stage):
        by_error.setdefault(way.error, []).append(way)
    for error, ways in by_error.items():
        hosts = ", ".join(f"{way.host}, on the way to {way.url}" if stage == "proxy" else way.host for way in ways)
        seen = f"{hosts}: {error} ({reached.where})"
        yield cause.found(seen, host=ways[0].host, path=snapshot.layout.environment_file)
