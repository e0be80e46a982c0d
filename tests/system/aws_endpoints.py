"""AWS in a box under its real host names, with TLS by a private CA, and a proxy to it. The service needs no settings
other than a user's. The shell commands break the network and repair it.
"""

from __future__ import annotations

import sys

import trustme
from aws import METADATA, start_aws
from box import Box
from box_images import REPOSITORY

AUTHORITY = "/etc/litellm/ca.pem"
RUNTIME = "bedrock-runtime.us-east-1.amazonaws.com"
VPC_ENDPOINT = f"vpce-0a1b2c3d4e5f6a7b8-fake.{RUNTIME.replace('.amazonaws', '.vpce.amazonaws')}"
NAMES = (RUNTIME, VPC_ENDPOINT, *(f"{name}.us-east-1.amazonaws.com" for name in ("bedrock", "sts", "servicequotas")))
#: An address whose packets are dropped, and one without a route (both of RFC 5737).
HOLE, NOWHERE = "198.51.100.7", "192.0.2.1"
PROXY_PORT, REFUSAL = 3128, "/run/proxy-refuses"
_PROXY = f"""\
[Service]
ExecStart="{sys.executable}" -B -m tests.fakes.proxy {PROXY_PORT} {REFUSAL}
WorkingDirectory={REPOSITORY}
"""


def start_named_aws(box: Box, *further: str) -> None:
    """Start the fakes of `aws` under AWS's host names, with the CA in AUTHORITY, the proxy, and the HOLE.

    `further` are names of endpoints in other regions.
    """
    names = (*NAMES, *further)
    authority = trustme.CA()
    certificate = authority.issue_cert(*names).private_key_and_cert_chain_pem.bytes().decode()
    box.write("/root/aws.pem", certificate, 0o600)
    box.write(AUTHORITY, authority.cert_pem.bytes().decode(), 0o640, "root:litellm")
    box.write("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.0.1 {' '.join(names)}\n")
    # Loopback accepts packets for other addresses and drops them.
    box.run(("ip", "route", "add", HOLE, "dev", "lo"))
    start_aws(box, "--tls", "127.0.0.1:443", "--certificate", "/root/aws.pem")
    box.write("/run/systemd/system/proxy.service", _PROXY)
    box.systemctl("start", "proxy")


_KEEP_HOSTS = "cp /etc/hosts /root/hosts"
#: Undoes the two functions below.
RESOLVED = "mv /root/hosts /etc/hosts; : > /etc/resolv.conf"


def resolve(server: str) -> str:
    """The names of AWS are resolved by that server, which does not answer."""
    return f"{_KEEP_HOSTS}; sed -i /amazonaws/d /etc/hosts; echo nameserver {server} > /etc/resolv.conf"


def move(address: str, *names: str) -> str:
    """The shell command that points these names to another address."""
    edits = " ".join(f"-e 's/ {name}//'" for name in names)
    return f"{_KEEP_HOSTS}; sed -i {edits} /etc/hosts; echo {address} {' '.join(names)} >> /etc/hosts"


#: The metadata drop every packet, also those of the connection.
SWALLOW_METADATA = f"ip address del {METADATA}/32 dev lo; ip route add {METADATA} dev lo"
METADATA_AGAIN = f"ip route del {METADATA} dev lo; ip address add {METADATA}/32 dev lo"
