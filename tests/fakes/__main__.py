"""Run the fakes as a process: in a box, use `--metadata 169.254.169.254:80` with that address on lo.

Requests with JSON to the port of the API control it. /-/seen returns the requests so far, /-/bodies and /-/headers
those of the calls to models. POST /-/metadata sets fields of the metadata, times in seconds, `{"role": null}`;
/-/rotate; /-/session `{"lifetime": 60}` creates a temporary key of the user; /-/key `{"access_key": ..., ...}`
registers a key, or removes it if only the id is given; /-/clock `{"minutes": 10}` sets AWS's clock ahead; /-/models
`{"without": [...]}` removes models from the region and restores all others; /-/denied `{"actions": [...]}`; /-/role
`{"name": ..., "external_id": ...}`; /-/hooks `{"waiting": ["GROUP:HOOK"]}`, which returns the completed ones; /-/end
`{"model": ..., "days": ...}`; /-/quota `{"name": ..., "value": 0}`; /-/script `{"model id": {"refusal": "quota"},
...}` replaces all scripts.
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
    parser.add_argument("--tls", type=_address, metavar="HOST:PORT", help="also serve the API with TLS there")
    parser.add_argument("--certificate", metavar="FILE", help="for --tls: key and chain in PEM")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--no-role", action="store_true", help="run without an instance profile")
    options = parser.parse_args()
    role = None if options.no_role else "litellm-gateway"
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    addresses = {"api": options.api, "metadata": options.metadata, "tls": options.tls}
    with run_cloud(options.region, role, **addresses, certificate=options.certificate):
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


main()
