"""Run the fakes as a process of their own: in a box, `--metadata 169.254.169.254:80`, with that address on lo.

Steered by requests to the API's port, JSON in and out: /-/seen tells the requests so far, /-/bodies what models were
asked; POST /-/metadata sets fields of the metadata, times in seconds, `{"role": null}`; /-/rotate; /-/session
`{"lifetime": 60}` makes a temporary key of the user; /-/key `{"access_key": ..., ...}` lets the account know that key
so, or no longer; /-/clock `{"minutes": 10}` sets AWS's clock ahead of ours; /-/models `{"without": [...]}` takes
models out of the region, and brings back all others; /-/denied `{"actions": [...]}`; /-/role `{"name": ...,
"external_id": ...}`; /-/end `{"model": ..., "days": ...}`; /-/quota `{"name": ..., "value": 0}`; /-/script
`{"model id": {"refusal": "quota"}, ...}`, in place of all earlier ones.
"""

from __future__ import annotations

import argparse
import signal

from tests.fakes.cloud import run_cloud


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes", description=__doc__)
    parser.add_argument("--api", type=_address, default=("127.0.0.1", 8800), metavar="HOST:PORT")
    parser.add_argument("--metadata", type=_address, default=("127.0.0.1", 8801), metavar="HOST:PORT")
    parser.add_argument("--tls", type=_address, metavar="HOST:PORT", help="where the API is by TLS too")
    parser.add_argument("--certificate", metavar="FILE", help="for --tls: key and chain, as PEM")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--no-role", action="store_true", help="an instance without an instance profile")
    options = parser.parse_args()
    role = None if options.no_role else "litellm-gateway"
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    places = {"api": options.api, "metadata": options.metadata, "tls": options.tls}
    with run_cloud(options.region, role, **places, certificate=options.certificate):
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


main()
